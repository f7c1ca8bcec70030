# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# (ch-generation)=
# # Generation: from probabilities to text
#
# **A model gives a probability to every next token. Which one should we write?**
#
# *About four minutes on two cores, half of them spent training the model. You need {ref}`ch-gpt` for what a GPT is,
# {ref}`ch-attention` for keys and values, and {ref}`ch-concepts` for entropy.*
#
# A {term}`language model` does not write. It answers one question: what could come next, and how probable is each
# answer? Somebody has to choose, append the choice, and ask again. That somebody is the *decoder* (here a procedure,
# not the half of a network that the word also names), and it has more influence on the text than is commonly believed.
# In this chapter the weights stay as they are, from the first cell to the last. Only the choice changes, and the texts
# go from a phrase repeated for ever, through passable verse, to noise.
#
# The plan:
#
# 1. draw one distribution, and every way to reshape it: temperature, top-k, top-p, min-p, a penalty on repetition;
# 2. run the programs that the essays print, and find out what their arguments do;
# 3. measure how greedy decoding degenerates, against text that people wrote;
# 4. search for the most probable text, find it, and regret it;
# 5. make it fast: batches of prompts, stop tokens, and the cache of keys and values, exact to the last token.
#
# All five essays generate text or promise it. Two of them do it with the same four words, *Once upon a time*; we
# complete their sentence with their own code.

# %%
import logging
import os
import re
import tempfile
import time
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import torch
from IPython.display import Markdown
from myst_nb import glue
from scipy.stats import bootstrap
from tabulate import tabulate

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers is the reference here; it needs no network
import transformers
from transformers import GPT2LMHeadModel, GPT2Tokenizer
from transformers.generation import logits_process

from minilm import data, ngram, plots, presets
from minilm.beam import beam
from minilm.counts import count
from minilm.generate import generate, generate_batch, next_token_probs, penalise, stream
from minilm.gpt2_files import save_gpt2

plots.use_style()
transformers.logging.disable_progress_bar()

# %% [markdown]
# The model is a {term}`GPT`, trained on Shakespeare's plays in tokens of a {term}`byte-level BPE` of 1,024. It has the
# architecture of GPT-2 to the last bias, without the short cuts of {ref}`ch-gpt`, because the programs that the essays
# print are to run on it. It learns more slowly for that, and its context of 256 tokens has room for their 200. The
# first call trains it; later ones take a second.

# %% tags=["nbval-ignore-output"]
model, tokenizer, log = presets.trained("gpt2-mini")

# %%
V, context = model.vocab_size, model.context
shakespeare = data.load("shakespeare")
fresh = tokenizer.encode(shakespeare.text("validation"))
print(f"vocabulary {V}; {len(fresh):,} tokens of plays that the model was not trained on")

# %% [markdown]
# ## One distribution, two shapes
#
# The model's answer to a {term}`prompt` is a row of $V$ {term}`logits` $z$, one for each token of the vocabulary. The
# {term}`softmax` turns them into probabilities:
#
# $$
# p_i = P(w_t = i \mid w_{<t}) = \frac{e^{z_i}}{\sum_j e^{z_j}}.
# $$ (eq-gen-softmax)
#
# Two prompts will accompany us. After "The" almost anything can follow, and the distribution is *flat*. After the name
# of a speaker the line ends, and the distribution is *peaked*. {numref}`fig-gen-next` shows the twelve likeliest tokens
# of both. A good way to choose must be right for both shapes.


# %%
@torch.no_grad()
def logits_after(text):
    return model(torch.tensor([tokenizer.encode(text)]))[0, -1].double()


prompts = {"flat": "I am.\n\nKING HENRY.\nThe", "peaked": "I am.\n\nKING HENRY."}
rows = {shape: logits_after(text) for shape, text in prompts.items()}


def entropy(p):
    return torch.special.entr(p).sum(-1)


# %% mystnb={"figure": {"name": "fig-gen-next", "caption": "What the model expects after \"The\" (left) and after the name of a speaker (right): the twelve likeliest of 1,024 tokens, quoted so that their leading spaces show."}, "image": {"alt": "Two bar charts with scales of their own. Left, after the word The: a dozen bars of a few hundredths, the highest below one tenth. Right, after the name of a speaker: one bar, the line end, close to 1 and nothing else to be seen."}} tags=["nbval-ignore-output"]
def picture(reshaped=None, new="reshaped", shown=12):
    axes = plots.panels(2, size=(8.4, 3.2), share_y=False)
    for ax, (shape, z) in zip(axes, rows.items(), strict=True):
        p = z.softmax(-1)
        top = p.topk(shown).indices
        bars = {"model": p[top]} | ({new: reshaped(z)[top]} if reshaped else {})
        plots.bars([repr(tokenizer.decode([i])) for i in top.tolist()], bars, "probability", ax=ax)
        ax.tick_params("x", labelrotation=90)
        ax.set_title(shape)


picture()
for shape, z in rows.items():
    p = z.softmax(-1)
    print(f"{shape}: entropy {entropy(p):.1f} nats, likeliest token {p.max():.2f}")

# %% [markdown]
# ```{note}
# Numbers from a trained model differ a little from machine to machine: sums of floats are not associative, and training
# amplifies the difference to about what another seed would do. So this chapter prints such numbers without
# comparing them, and *tests* its claims instead: "greedy text repeats more than human text" holds with every seed.
# ```
#
# ## Greedy decoding
#
# The plainest rule takes the likeliest token, $\hat w_t = \arg\max_i p_i$. {term}`Greedy decoding` is deterministic:
# one model, one prompt, one text.

# %% tags=["nbval-ignore-output"]
start = tokenizer.encode("KING HENRY.\nMy")
greedy = generate(model, start, 80, temperature=0.0)
print(tokenizer.decode(start + greedy))

# %% [markdown]
# It is instructive to write the loop out once. Everything that `minilm.generate` adds to these lines is options, speed,
# and care about the edge of the context.

# %%
ids = list(start)
for _ in range(80):
    with torch.no_grad():
        z = model(torch.tensor([ids[-context:]]))[0, -1]
    ids.append(int(z.argmax()))
assert ids[len(start) :] == greedy
print("the loop writes what minilm.generate writes:", len(greedy), "tokens")

# %% [markdown]
# Two facts follow that the essays miss. A greedy text has no second version: document 0 asks for a
# `num_return_sequences`, which is 1 or an error ({ref}`err-num-return`). And a rule that always takes the best step
# need not find the best text; we come back to this under {term}`beam search`.
#
# ## Sampling and temperature
#
# The other plain rule is to believe the model: draw $w_t$ from $p$. {term}`Sampling` gives another text for each seed,
# and in the long run each token its share. Between the two rules lies a knob. The {term}`temperature` $T > 0$ divides
# the logits:
#
# $$
# p_T(i) = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}} = \frac{p_i^{1/T}}{\sum_j p_j^{1/T}}.
# $$ (eq-gen-temperature)
#
# At $T = 1$ it is the model's own distribution. Below 1, likely tokens gain; as $T \to 0$ all mass goes to the
# likeliest, and sampling becomes greedy decoding. Above 1 the bars move together, towards the uniform distribution. The
# name comes from physics: {eq}`eq-gen-temperature` is Boltzmann's distribution for energies $-z_i$.
#
# By hand: probabilities 0.5, 0.3, 0.2 at $T = 1/2$ are squared, 0.25, 0.09, 0.04, and divided by their sum, 0.38.

# %%
p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
by_hand = torch.tensor([0.25, 0.09, 0.04], dtype=torch.float64) / 0.38
torch.testing.assert_close(next_token_probs(p.log(), temperature=0.5), by_hand)
theirs = logits_process.TemperatureLogitsWarper(0.5)(None, p.log()[None]).softmax(-1)[0]
torch.testing.assert_close(theirs, by_hand)
print(by_hand.numpy().round(3))

# %% mystnb={"figure": {"name": "fig-gen-temperature", "caption": "Temperature 0.5 in one picture: every probability is squared and the row scaled to sum to one. On the left the highest bar grows most, at the cost of the hundreds of tokens that are not shown."}, "image": {"alt": "The two bar charts with a second, hatched series. Left: the first bar grows about fivefold, the next ones to about double, the last hardly; the tokens that shrink are not among the twelve. Right: the one high bar stays close to 1."}}
picture(lambda z: next_token_probs(z, temperature=0.5), "T = 0.5")

# %% [markdown]
# How much choice is left can be put in one number, the {term}`entropy` of $p_T$. It can only grow with the temperature,
# and we can say how fast.
#
# ```{prf:theorem} Entropy and temperature
# :label: thm-gen-entropy
# $\dfrac{\mathrm{d} H(p_T)}{\mathrm{d} T} = \dfrac{\operatorname{Var}_{p_T}(z)}{T^3} \ge 0$,
# where the variance is that of the logit of a token drawn from $p_T$.
# ```
#
# ```{prf:proof}
# Write $\beta = 1/T$ and $A(\beta) = \log \sum_i e^{\beta z_i}$. Differentiating twice gives $A' = \mathrm{E}[z]$ and
# $A'' = \operatorname{Var}(z)$, both under $p_T$. Since $\log p_T(i) = \beta z_i - A$, the entropy is $H = A - \beta
# A'$, and $\mathrm{d}H / \mathrm{d}\beta = A' - A' - \beta A'' = -\beta \operatorname{Var}(z)$. Finally
# $\mathrm{d}\beta / \mathrm{d}T = -1/T^2$, and the product of the two is $\operatorname{Var}(z) / T^3$.
# ```
#
# Autograd must agree, and so must a finite difference.


# %%
def entropy_at(T, z=rows["flat"]):
    return entropy((z / T).softmax(-1))


T = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
entropy_at(T).backward()
p, z = (rows["flat"] / 0.8).softmax(-1), rows["flat"]
on_paper = (p * (z - (p * z).sum()) ** 2).sum() / 0.8**3
difference = (entropy_at(0.8 + 1e-5) - entropy_at(0.8 - 1e-5)) / 2e-5
torch.testing.assert_close(T.grad, on_paper)
torch.testing.assert_close(difference, on_paper, rtol=1e-6, atol=0)
print("derivation, autograd and finite difference agree")

# %% mystnb={"figure": {"name": "fig-gen-entropy", "caption": "Choice against temperature: the entropy of the next token for the two prompts, as an effective number of equally likely tokens, exp H."}, "image": {"alt": "Two rising curves on a logarithmic scale. The flat prompt climbs from 1 token at temperature 0.1 to several hundred at 2, the peaked one stays near 1 up to temperature 1 and then climbs too."}} tags=["nbval-ignore-output"]
temperatures = np.linspace(0.1, 2.0, 39)
choices = {s: [entropy_at(T, z).exp().item() for T in temperatures] for s, z in rows.items()}
ax = plots.lines(temperatures, choices, "temperature T", "effective number of choices", log="y")
plots.plain_ticks(ax)
for shape, curve in choices.items():
    print(shape, {f"T = {T:.1f}": round(curve[i], 1) for T, i in ((0.5, 8), (1.0, 18), (2.0, 38))})

# %% tags=["nbval-ignore-output"]
for temperature in (0.5, 1.0, 1.5):
    text = generate(model, start, 60, temperature=temperature, seed=4)
    print(f"T = {temperature}:", tokenizer.decode(start + text), "\n")

# %% [markdown]
# {numref}`fig-gen-temperature` reshapes both rows and {numref}`fig-gen-entropy` follows them over all temperatures. The
# three samples show the dilemma. At 1.5 words fall apart. At 0.5 the text keeps to what is commonest in the plays, here
# lords and lines that begin with *And*, and says little. At 1.0 the model is quoted faithfully, and now and then it
# says something absurd. To see why, count the absurd.
#
# ## The long tail
#
# Most tokens are hopeless at any given place. Each has a tiny probability, but there are hundreds of them. Let
# $\varepsilon$ be their total. A text of $L$ tokens escapes them all with probability $(1-\varepsilon)^L$, so a mishap
# has the chance
#
# $$
# 1 - (1 - \varepsilon)^L .
# $$ (eq-gen-tail)
#
# How large is $\varepsilon$ in our model? Say that a token is in the tail if it has less than a thousandth of the
# probability of the likeliest one. We average over fresh text.


# %%
@torch.no_grad()
def distributions(windows=48):
    ids = torch.tensor(fresh[: windows * context]).view(windows, context)
    p = model(ids).softmax(-1)
    return p[:, 15:-1].flatten(0, 1), ids[:, 16:].flatten()  # with at least 16 tokens of context


everywhere, actual = distributions()
tail = (everywhere * (everywhere < everywhere.amax(-1, keepdim=True) / 1000)).sum(-1).mean().item()
share = (everywhere < everywhere.amax(-1, keepdim=True) / 1000).float().mean().item()

# %% tags=["hide-input", "nbval-ignore-output"]
glue("gen_tail", 100 * tail, display=False)
glue("gen_tail_share", 100 * share, display=False)
glue("gen_mishap", 1 - (1 - tail) ** 200, display=False)

# %% [markdown]
# At an average position {glue:text}`gen_tail_share:.0f` % of the vocabulary is in the tail. Together these tokens hold
# {glue:text}`gen_tail:.1f` % of the probability, and by {eq}`eq-gen-tail` a text of 200 tokens meets one of them with
# probability {glue:text}`gen_mishap:.2f`. One is enough: the model must continue from it as if it had been said on
# purpose. Rare tokens are also those whose probability was learnt worst. So the next three rules cut the tail
# off.
#
# ## Top-k, top-p, min-p
#
# Each rule keeps a set $S$ of tokens and scales it to sum to one, $q_S(i) = p_i / p(S)$ for $i \in S$. They differ in
# the set.
#
# - {term}`Top-k sampling` keeps the $k$ likeliest tokens {cite}`fan2018`.
# - {term}`Top-p sampling`, or nucleus sampling, keeps the fewest likeliest tokens that together hold the probability
#   $p$ or more {cite}`holtzman2020`.
# - Min-p sampling keeps the tokens at least $p$ times as likely as the likeliest one {cite}`nguyen2025minp`.
#
# By hand, for 0.5, 0.3, 0.15, 0.05: top-k with $k = 2$ keeps the first two and makes them 0.625 and 0.375. Top-p with
# 0.9 needs the third too, since 0.8 is not yet 0.9. Min-p with 0.2 keeps what has 0.1 or more: the same three.

# %%
p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
warpers = {
    "top_k": (2, logits_process.TopKLogitsWarper, [0.5, 0.3, 0, 0]),
    "top_p": (0.9, logits_process.TopPLogitsWarper, [0.5, 0.3, 0.15, 0]),
    "min_p": (0.2, logits_process.MinPLogitsWarper, [0.5, 0.3, 0.15, 0]),
}
for name, (value, warper, kept) in warpers.items():
    ours = next_token_probs(p.log(), **{name: value})
    torch.testing.assert_close(ours, torch.tensor(kept).double() / sum(kept), rtol=0, atol=1e-7)
    torch.testing.assert_close(ours, warper(value)(None, p.log()[None]).softmax(-1)[0])
    print(name, ours.numpy().round(3))

# %% mystnb={"figure": {"name": "fig-gen-topk", "caption": "Top-k with k = 4 in one picture. Where the distribution is flat, good tokens are lost; where it is peaked, three poor ones are kept."}, "image": {"alt": "Left: four bars grow, the other eight vanish. Right: the one high bar is unchanged."}}
picture(lambda z: next_token_probs(z, top_k=4), "top-k, k = 4")

# %% mystnb={"figure": {"name": "fig-gen-topp", "caption": "Top-p with p = 0.5 in one picture: as many tokens as half the probability needs, many on the left and one on the right."}, "image": {"alt": "Left: all twelve bars grow to about twice their height. Right: the one high bar becomes exactly 1."}}
picture(lambda z: next_token_probs(z, top_p=0.5), "top-p, p = 0.5")

# %% mystnb={"figure": {"name": "fig-gen-minp", "caption": "Min-p with p = 0.2 in one picture: what is at least a fifth as likely as the likeliest token stays."}, "image": {"alt": "Left: all twelve bars grow almost threefold, since even the last is more than a fifth as high as the first. Right: the one high bar becomes exactly 1."}}
picture(lambda z: next_token_probs(z, min_p=0.2), "min-p, p = 0.2")

# %% [markdown]
# Why scale what is kept in proportion, and not in some other way? Because this changes the model least.
#
# ```{prf:theorem} Truncation is the nearest distribution
# :label: thm-gen-truncation
# Among all distributions $q$ that give probability to a set $S$ only, $q_S$ has the smallest {term}`KL divergence` to
# the model, and that smallest value is $D(q_S \,\|\, p) = -\log p(S)$.
# ```
#
# ```{prf:proof}
# For $q$ on $S$, $D(q \,\|\, p) = \sum_{i \in S} q_i \log \frac{q_i}{p_i} = \sum_{i \in S} q_i \log
# \frac{q_i}{q_S(i)\, p(S)} = D(q \,\|\, q_S) - \log p(S)$. The first term is never negative, and zero at $q = q_S$
# only.
# ```
#
# The theorem tells the rules apart. Top-p guarantees $p(S) \ge p$, so it never departs from the model by more than
# $-\log p$ nats at any step: 0.11 for $p = 0.9$. Top-k gives no such guarantee. Where the distribution is flat the four
# tokens of {numref}`fig-gen-topk` may hold little. Min-p guarantees something else: no token is drawn that the
# model finds $1/p$ times less likely than its favourite.
#
# We check the theorem, and then ask what the rules do on real text: how many tokens does each keep, and is the token
# that the author wrote among them?

# %%
p = rows["flat"].softmax(-1)
q = next_token_probs(rows["flat"], top_k=4)
kept = q > 0
nearest = torch.special.xlogy(q, q / p).nan_to_num().sum()
torch.testing.assert_close(nearest, -p[kept].sum().log())
for _ in range(200):
    other = torch.rand(4, dtype=torch.float64).log().softmax(-1)
    assert (other * (other / p[kept]).log()).sum() >= nearest
print("200 other distributions on the same four tokens are all further from the model")

# %% mystnb={"figure": {"name": "fig-gen-kept", "caption": "Tokens kept at some eleven thousand positions of fresh text, sorted by the entropy of the model's distribution into ten groups: mean number kept in each group."}, "image": {"alt": "Three lines over entropy on a logarithmic scale. Top-k is a horizontal line at 20. Top-p with 0.9 rises from about 8 tokens at low entropy to almost 180 at high entropy. Min-p rises from 1 to a few dozen."}} tags=["nbval-ignore-output"]
rules = {
    "top-k, k = 20": {"top_k": 20},
    "top-p, p = 0.9": {"top_p": 0.9},
    "min-p, p = 0.1": {"min_p": 0.1},
}
sets = {name: next_token_probs(everywhere.log(), **rule) > 0 for name, rule in rules.items()}
order = entropy(everywhere).argsort().tensor_split(10)
groups = [entropy(everywhere)[part].mean().item() for part in order]
curves = {n: [s[part].sum(-1).double().mean().item() for part in order] for n, s in sets.items()}
ax = plots.lines(groups, curves, "entropy of the next token, nats", "tokens kept", log="y")
plots.plain_ticks(ax)
held = {name: (everywhere * kept).sum(-1) for name, kept in sets.items()}
for name, kept in sets.items():
    inside = kept.gather(-1, actual[:, None]).double().mean()
    print(f"{name}: worst p(S) {held[name].min():.2f}, the author's token kept at {inside:.2f}")

# %%
assert held["top-p, p = 0.9"].min() > 0.9 - 1e-6 > held["top-k, k = 20"].min()
spread = {name: max(curve) / min(curve) for name, curve in curves.items()}
assert spread["top-k, k = 20"] == 1 < 5 < spread["top-p, p = 0.9"]
print("top-p adapts to the shape of the distribution, top-k does not")

# %% [markdown]
# {numref}`fig-gen-kept` shows the difference at a glance. Top-k keeps twenty tokens after the name of a speaker, where
# one is right ({numref}`fig-gen-topk`, right), and twenty at the start of a sentence, where two hundred would do. Top-p
# ({numref}`fig-gen-topp`) and min-p ({numref}`fig-gen-minp`) follow the distribution. The lines printed with the figure
# are a caution. Each rule excludes, at a good number of places, the token that Shakespeare wrote: what is cut off is
# not only noise, and a text drawn in this way is more predictable than what the model has learnt.
#
# Rules can be combined. The order then matters, and `minilm` has that of `transformers`: penalty, temperature, top-k,
# top-p, min-p, each on the distribution that the one before it left.
#
# ## A penalty on repetition
#
# A different repair looks back at the text. The repetition penalty of CTRL {cite}`keskar2019` takes every token that
# occurred already and makes its logit smaller by a factor $\theta > 1$:
#
# $$
# z_i' = \begin{cases} z_i / \theta & z_i > 0 \\ z_i\, \theta & z_i \le 0 \end{cases}
# \qquad \text{for } i \text{ in the text so far.}
# $$ (eq-gen-penalty)
#
# (The paper only divides. Dividing a negative logit would raise it, so every library adds the second line.) The rule is
# crude, and one look at {eq}`eq-gen-softmax` shows how. Adding a constant to all logits changes no probability. It does
# change what {eq}`eq-gen-penalty` does, which depends on where zero happens to lie.

# %%
z, seen = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64), [0, 2]
by_hand = torch.tensor([2 / 1.5, 1.0, -1.5], dtype=torch.float64)
torch.testing.assert_close(penalise(z, seen, 1.5), by_hand)
theirs = logits_process.RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([seen]), z[None].clone())
torch.testing.assert_close(theirs[0], by_hand)
print("penalised          ", penalise(z, seen, 1.5).softmax(-1).numpy().round(3))
print("same, logits plus 5", penalise(z + 5, seen, 1.5).softmax(-1).numpy().round(3))

# %% mystnb={"figure": {"name": "fig-gen-penalty", "caption": "A repetition penalty of 1.5 in one picture, as if the three likeliest tokens of each prompt had been said before."}, "image": {"alt": "Left: the first three bars fall below the fourth, and the others grow. Right: the high bar of the line end shrinks."}}
picture(lambda z: penalise(z, z.topk(3).indices.tolist(), 1.5).softmax(-1), "penalty 1.5")

# %% [markdown]
# {numref}`fig-gen-penalty` shows the harm on the right. After the name of a speaker the line must end, but lines have
# ended before, so the one right token is punished for having been used. The penalty knows nothing of form, rhymes or
# names, and in a long text nearly every useful token has been used. ({ref}`ex-gen-ngrams` blocks repeated
# phrases instead.)

# %% [markdown]
# (sec-gen-documents)=
# ## "Once upon a time", by the documents' own code
#
# Documents 0 and 1 load the published GPT-2 from the network and let it write. Our model has the same architecture, so
# we save it in GPT-2's format, and the documents' programs run on a folder. With a network you can put the name `gpt2`
# back into the two lines.

# %%
gpt2 = tempfile.mkdtemp()  # with a network: gpt2 = "gpt2"
save_gpt2(model, tokenizer, gpt2)
print(sorted(os.listdir(gpt2)))

# %% [markdown]
# Document 0, as printed apart from the name:

# %% tags=["nbval-ignore-output"]
hf_tokenizer = GPT2Tokenizer.from_pretrained(gpt2)
hf_model = GPT2LMHeadModel.from_pretrained(gpt2)

input_text = "Once upon a time"
input_ids = hf_tokenizer.encode(input_text, return_tensors="pt")

output = hf_model.generate(input_ids, max_length=50, num_return_sequences=1)
decoded_text = hf_tokenizer.decode(output[0], skip_special_tokens=True)

print(decoded_text)

# %% [markdown]
# It runs. No play contains "Once upon a time", and so there is no fairy tale: the model goes on as a play would. Now we
# check what the document says about the arguments.
#
# 1. *"`max_length` is the maximum length of the generated text."* It counts the prompt too ({ref}`err-max-length`).
#    What limits the continuation is `max_new_tokens`.
# 2. *"`num_return_sequences` is the number of generated texts."* Only with sampling or beams ({ref}`err-num-return`).
# 3. `encode` returns ids without the attention {term}`mask` ({ref}`err-attention-mask`). The library warns. For a
#   single prompt it guesses right; {ref}`sec-gen-batches` shows a case where no guess helps.

# %%
same = generate(model, tokenizer.encode(input_text), 50 - input_ids.shape[1], temperature=0.0)
assert output[0, input_ids.shape[1] :].tolist() == same
try:
    hf_model.generate(input_ids, max_length=50, num_return_sequences=2)
except ValueError as error:
    print("two greedy texts:", str(error).split(".")[0])
print(f"max_length=50: {output.shape[1]} tokens in all, {len(same)} of them new; minilm's the same")

# %% [markdown]
# Document 1 wants more: `max_length=200, temperature=0.7`, for "creative" stories and poems. 200 tokens fit into our
# model's {term}`context length`; past it there would be no learned position to add ({ref}`err-length`). All is as
# printed but the name. We also keep what the library has to say.


# %%
said, notes = [], logging.Handler()
notes.emit = lambda record: said.append(record.getMessage())
transformers.logging.add_handler(notes)

# %% [markdown]
# The program of document 1:

# %% tags=["nbval-ignore-output"]
inputs = hf_tokenizer.encode("Once upon a time", return_tensors="pt")
outputs = hf_model.generate(inputs, max_length=200, temperature=0.7)

print(hf_tokenizer.decode(outputs[0]))

# %% [markdown]
# Is that the work of a temperature? We run the same call with others, and without any.

# %%
plain = hf_model.generate(inputs, max_length=200)
for temperature in (0.01, 0.7, 5.0):
    again = hf_model.generate(inputs, max_length=200, temperature=temperature)
    assert again.equal(plain) and again.equal(outputs)
transformers.set_seed(0)
drawn = hf_model.generate(inputs, max_length=200, do_sample=True, temperature=0.7)
assert not drawn.equal(plain)
[note] = [one for one in said if "temperature" in one]
print(
    "every temperature gives the same greedy text, and do_sample=True another; the library noted:"
)
print(note.split(" Set")[0])

# %% [markdown]
# **The temperature did nothing** ({ref}`err-temperature`). Sampling is off unless one asks for it, and dividing all
# logits by a positive number does not change which one is largest. The library notes it once, on the side, and the
# program prints a text that looks like the result of its settings. With `do_sample=True` the argument works. The
# library's `top_k=50` comes with it, as a default that nobody wrote down.
#
# In `minilm` the mistake is harder to make: `generate` samples, and temperature 0 *is* greedy decoding. One more trap
# of this program is invisible here. Its last line decodes without `skip_special_tokens=True`, so a model that ends its
# text prints `<|endoftext|>` ({ref}`err-special-tokens`). Ours has never seen one, since the plays were joined without
# it.
#
# ## Degeneration, measured
#
# Greedy text looked repetitive. How bad is it, and is the model to blame or the choice? Holtzman and colleagues
# {cite}`holtzman2020` answered with measurements on GPT-2, and we repeat them on our small model. From the validation
# plays we take 96 passages of 112 tokens. The first 32 are the prompt; the 80 that follow are what a human wrote there.

# %%
PROMPT, NEW, PASSAGES = 32, 80, 96
places = np.linspace(0, len(fresh) - PROMPT - NEW, PASSAGES).astype(int)
passages = [fresh[i : i + PROMPT + NEW] for i in places]
starts = [ids[:PROMPT] for ids in passages]
EVERY = 4  # searching is slow: beams continue every fourth prompt

# %% [markdown]
# Each sampler continues every prompt once, row $b$ of the batch with seed $b$. So each row of the coming table averages
# over 96 prompts *and* 96 seeds. Beam search with four beams, explained in the next section, takes every fourth prompt.

# %%
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "greedy, penalty 1.3": {"temperature": 0.0, "repetition_penalty": 1.3},
    "T = 0.7": {"temperature": 0.7},
    "top-k, k = 20": {"top_k": 20},
    "top-p, p = 0.9": {"top_p": 0.9},
    "min-p, p = 0.1": {"min_p": 0.1},
    "T = 1": {},
    "T = 1.3": {"temperature": 1.3},
}
texts = {"human": [ids[PROMPT:] for ids in passages]}
texts["beam, 4 beams"] = [beam(model, ids, NEW, n_beams=4)[0].ids for ids in starts[::EVERY]]
for name, how in SETTINGS.items():
    texts[name] = generate_batch(model, starts, NEW, **how)

# %% [markdown]
# Three measures, all computed on the 80 new tokens:
#
# - *nats per token*: the {term}`surprisal` of the text under the model that wrote it, the mean of $-\log p(w_t)$;
# - *repeated 4-grams*: the share of 4-grams that occurred earlier in the same text. Its complement is known as
#   *distinct-4* {cite}`li2016diversity`;
# - *judge*: nats per token under a second opinion, the Kneser–Ney 5-gram of {ref}`ch-ngram`, which has read the same
#   plays and did not take part in the writing.

# %%
stacked = torch.tensor(tokenizer.encode(shakespeare.text()))
judge = ngram.ModifiedKneserNey(count(stacked, 5, V))


@torch.no_grad()
def surprisals(prompts, texts):
    rows = torch.tensor([a + b for a, b in zip(prompts, texts, strict=True)])
    log_probs = model(rows[:, :-1]).log_softmax(-1)
    return -log_probs.gather(-1, rows[:, 1:, None])[:, PROMPT - 1 :, 0].double().numpy()


def repeated(ids, n=4):
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams)


assert repeated([1, 2, 3, 4, 5]) == 0 and repeated([7] * 8) == 4 / 5

# %%
measured = {}
for name, ids in texts.items():
    prompts = starts if len(ids) == PASSAGES else starts[::EVERY]
    opinion = -judge.score(torch.tensor([a + b for a, b in zip(prompts, ids, strict=True)]))
    measured[name] = {
        "nats per token": surprisals(prompts, ids).mean(-1),
        "repeated 4-grams": np.array([repeated(one) for one in ids]),
        "judge": opinion[:, PROMPT - 1 :].mean(-1).numpy(),
    }


def interval(x):
    found = bootstrap((x,), np.mean, n_resamples=2000, method="percentile", rng=0)
    return float(x.mean()), *map(float, found.confidence_interval)


# %% mystnb={"figure": {"name": "tab-gen-methods", "caption": "Text by people and by nine decoders with one model: means over prompts with 95 % bootstrap intervals. Beam search continues 24 prompts, everybody else 96."}} tags=["nbval-ignore-output"]
def cell(x):
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval(x))


heads = ["text", *measured["human"]]
table = [(name, *map(cell, found.values())) for name, found in measured.items()]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %%
means = {name: {k: float(v.mean()) for k, v in one.items()} for name, one in measured.items()}
low = {name: interval(found["repeated 4-grams"])[1] for name, found in measured.items()}
high = {name: interval(found["repeated 4-grams"])[2] for name, found in measured.items()}
surprise = {name: found["nats per token"] for name, found in means.items()}
for name, share in (("greedy", 0.75), ("beam, 4 beams", 0.5)):
    assert low[name] > 4 * high["human"], "they repeat several times as much as people do"
    assert surprise[name] < share * surprise["human"], "and every token is expected"
assert high["T = 1"] < low["greedy"] and high["top-p, p = 0.9"] < low["greedy"]
assert surprise["T = 0.7"] < surprise["T = 1"] < surprise["T = 1.3"]
assert abs(surprise["T = 1"] / surprise["human"] - 1) < 0.1
print("greedy and beam text: far less surprising than human text, and repetitive")
print("text sampled at T = 1: as surprising to the model as human text, within a tenth")

# %% tags=["hide-input", "nbval-ignore-output"]
short = {"human": "human", "greedy": "greedy", "beam": "beam, 4 beams", "plain": "T = 1"}
for name, key in short.items():
    glue(f"gen_nats_{name}", surprise[key], display=False)
    glue(f"gen_again_{name}", 100 * means[key]["repeated 4-grams"], display=False)
    glue(f"gen_judge_{name}", means[key]["judge"], display=False)

# %% [markdown]
# {numref}`tab-gen-methods` holds the chapter's main result. People write text that surprises the model, at
# {glue:text}`gen_nats_human:.1f` nats per token, and {glue:text}`gen_again_human:.0f` % of their 4-grams occurred
# before within the eighty tokens. Greedy and beam search produce what no person writes: text in which every token is
# expected, at {glue:text}`gen_nats_greedy:.1f` and {glue:text}`gen_nats_beam:.1f` nats, and of which
# {glue:text}`gen_again_greedy:.0f` % and {glue:text}`gen_again_beam:.0f` % has just been said. The same weights,
# sampled at $T = 1$, surprise themselves as much as people surprise them, at {glue:text}`gen_nats_plain:.1f` nats. So
# the weights are not to blame for the loops. *The most probable text is not a typical text.*
#
# There is a reason, and it is arithmetic, not linguistics. Throw a coin that shows heads with probability 0.6 a hundred
# times. The single likeliest outcome is heads a hundred times, and nobody has ever seen it. Typical outcomes have
# about sixty heads; each is less probable than the champion, but there are $10^{28}$ of them. Information theory calls
# them the typical set: long sequences from a stationary ergodic source with entropy $H$ nats per symbol almost surely
# have a surprisal per symbol close to $H$ {cite}`coverthomas2006`. Maximising probability leads out of this set.
#
# The judge's column keeps us honest about the model. The judge, too, finds greedy and beam text bland, less surprising
# than what people wrote, which it rates at {glue:text}`gen_judge_human:.1f` nats. But the text sampled at $T = 1$ it
# rates at {glue:text}`gen_judge_plain:.1f`: to somebody else, our small model's text is stranger than Shakespeare's.
# Sampling is faithful. What the model has got wrong, it writes down. This gap closes as models get better; the gap of
# greedy and beam search does not, and Holtzman and colleagues found it in a GPT-2 eight hundred times as large as ours.
# The rules that cut lie in between, and the judge likes them better.
#
# The penalty of 1.3 removes the repetitions altogether: fewer are left than in human text. In the other columns it
# hardly moves. It cures the symptom that it was made for.
#
# {numref}`fig-gen-steps` shows the same in time. It is the figure that made the point in {cite}`holtzman2020`: the
# probability of each written token, step by step.

# %% mystnb={"figure": {"name": "fig-gen-steps", "caption": "Probability that the model gave to each token of three continuations of one prompt: by a person, by greedy decoding, and drawn with top-p 0.9."}, "image": {"alt": "Three panels over 80 steps. Human text jumps between nearly 0 and 1 at every step. The curve of greedy text often falls to about 0.1, but never below 0.03. The sampled text jumps like the human one."}} tags=["nbval-ignore-output"]
names = ("human", "greedy", "top-p, p = 0.9")
pick = int(np.argsort(measured["greedy"]["repeated 4-grams"])[PASSAGES // 2])
for ax, name in zip(plots.panels(3, size=(9.0, 2.6)), names, strict=True):
    curve = np.exp(-surprisals(starts[pick : pick + 1], texts[name][pick : pick + 1])[0])
    plots.lines(range(NEW), {name: curve}, "step", "" if ax.get_ylabel() else "probability", ax=ax)
    ax.set_title(name)
    written = np.exp(-surprisals(starts, texts[name]))
    print(f"{name}: {np.mean(written < 0.01):.0%} of the tokens had a probability below 1 %")

# %%
unlikely = {name: np.mean(surprisals(starts, texts[name]) > np.log(100)) for name in names}
assert unlikely["greedy"] < 0.01 < 0.1 < unlikely["human"]
print("people use tokens of less than 1 % probability all the time, greedy decoding never")

# %% [markdown]
# Human text mixes the obvious with the unexpected. Surprise is where the information is: a text without improbable
# tokens says, in the sense of Shannon, next to nothing.
#
# ### Why it loops
#
# That greedy text ends in a loop needs no experiment.
#
# ```{prf:theorem} Greedy text repeats itself for ever
# :label: thm-gen-loop
# Let each next token be a function of the last $m$ tokens of the text. Then the text is periodic from some place on.
# ```
#
# ```{prf:proof}
# There are $V^m$ windows of $m$ tokens, so among the first $V^m + 1$ windows of the text two are equal. The next token
# is a function of the window, so what follows the second is what followed the first, up to the second and beyond: the
# stretch between them is repeated without end.
# ```
#
# The theorem does not say *soon*: with $V = 1024$ and a context of 256 tokens the bound has 771 digits. For a trigram
# model $m$ is 2, and we can watch it happen. {numref}`fig-gen-loop` sets greedy text of the two models beside sampled
# and human text: how much of each stretch of forty tokens was said before?


# %%
def stretches(ids, width=40):
    """For each stretch, the share of its 4-grams that occurred earlier in the text."""
    grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
    old = np.array([gram in set(grams[:i]) for i, gram in enumerate(grams)])
    return [old[i : i + width].mean() for i in range(0, len(ids) - width + 1, width)]


LONG, openings = 200, [ids[:8] for ids in starts[::12]]
trigram = ngram.ModifiedKneserNey(count(stacked, 3, V))
runs = {
    "trigram, greedy": generate_batch(trigram, openings, LONG, temperature=0.0),
    "GPT, greedy": generate_batch(model, openings, LONG, temperature=0.0),
    "GPT, T = 1": generate_batch(model, openings, LONG),
    "human": [fresh[i : i + LONG] for i in places[::12]],
}

# %% mystnb={"figure": {"name": "fig-gen-loop", "caption": "Share of the 4-grams in each stretch of forty tokens that occurred earlier in the same text: means over eight texts of 200 tokens."}, "image": {"alt": "Four lines over the position in the text. Greedy trigram text climbs to 1 within the first stretches and stays. Greedy GPT text climbs as well, a little later. Sampled text stays at 0, and human text rises slowly to below 0.2."}} tags=["nbval-ignore-output"]
curves = {name: np.mean([stretches(ids) for ids in found], 0) for name, found in runs.items()}
plots.lines(range(40, LONG + 1, 40), curves, "tokens written", "share said before")
for name, curve in curves.items():
    print(f"{name:16}", curve.round(2))

# %%
assert curves["trigram, greedy"][-1] > 0.9 and curves["GPT, greedy"][-1] > 0.3
assert curves["GPT, greedy"][-1] > 3 * max(curves["GPT, T = 1"][-1], curves["human"][-1])
print("by 200 tokens the greedy trigram is in its loop, and the greedy GPT there or on its way")

# %% [markdown]
# Human text ends well above the few hundredths of {numref}`tab-gen-methods`, for two reasons. These texts are longer,
# and the further one reads, the more has been said before, by people too. And there are only eight: the first is a list
# of persons, others are dialogues in which the names of the speakers come back. Over all our passages at this length
# the last point of the human line would lie below a tenth.
#
# A long memory delays the loop and does not prevent it. And in large models memory makes it worse. They learn to look
# up earlier occurrences of the current phrase and to expect what followed them: some attention heads do nothing else
# {cite}`olsson2022`. In real text that is a good bet, since names and refrains do come back. In its own text the bet is
# always won, and so each repetition makes the next one likelier {cite}`xu2022loop`. Sampling is the way out: sooner or
# later it draws something else.
#
# ### Can a machine tell?
#
# Nats and repeats are two aspects of quality. A blunter question covers more: can a classifier tell the continuations
# from human ones? We use the oldest there is, Bayes' rule with a counting model for each side: a text goes to the
# author whose bigram model finds it more probable. Half of the passages train it, the other half are judged, then the
# halves change places. A text that cannot be told apart gives 0.5.


# %%
def detected(machine, human):
    right = []
    for half in (0, 1):
        sides = []
        for texts in (machine, human):
            mine = torch.tensor([token for ids in texts[half::2] for token in ids])
            sides.append(ngram.WittenBell(count(mine, 2, V)))
        for side, texts in enumerate((machine, human)):
            left = torch.tensor(texts[1 - half :: 2])
            ratio = (sides[0].score(left) - sides[1].score(left)).sum(-1)
            right += ((ratio > 0) if side == 0 else (ratio <= 0)).tolist()
    return interval(np.array(right, dtype=float))


caught = {name: detected(texts[name], texts["human"]) for name in SETTINGS}

# %% mystnb={"figure": {"name": "fig-gen-detect", "caption": "How well a bigram classifier tells generated continuations from human ones: share of 192 decisions that are right, with a 95 % interval. Guessing gives 0.5."}, "image": {"alt": "A dot chart. Greedy decoding is recognised nearly always, with and without penalty. Sampling at temperatures 1 and 1.3 is recognised in about three of four cases, top-p in eight of ten, and the other rules lie between these and greedy decoding."}} tags=["nbval-ignore-output"]
values = [found[0] for found in caught.values()]
plots.dots(list(caught), values, "right decisions", [found[1:] for found in caught.values()])
print({name: round(found[0], 2) for name, found in caught.items()})

# %% [markdown]
# {numref}`fig-gen-detect` holds a surprise. Greedy text is caught nearly always, no wonder. But the text at $T = 1$,
# which the judge found strange, is among the *hardest* to catch, and the rules that cut, which the judge preferred, are
# easier. The two instruments look for different faults. The judge asks whether the text is *plausible*; the detective
# sees also what is *missing*, and a rule that cuts the tail leaves out every rare word. A decoder trades one fault for
# the other {cite}`pillutla2021`; no single number says which is better.

# %%
assert caught["T = 1"][2] < caught["greedy"][1], "greedy text is the easier to recognise"
assert means["greedy"]["judge"] < means["human"]["judge"] < means["T = 1"]["judge"]
assert means["T = 0.7"]["judge"] < means["T = 1"]["judge"] < means["T = 1.3"]["judge"]
print("bland and easily recognised, or lively and strange: plausibility and variety are traded")

# %% [markdown]
# A bigram classifier with some eight thousand tokens of training is a weak detective; a stronger one would find more.
# The trade is also why a claim such as "generates fluent and accurate text" (document 1) needs a decoder in the
# sentence before it can be true or false ({ref}`err-quality-claims`).

# %% [markdown]
# ## Beam search: looking for the most probable text
#
# Greedy decoding takes the best *step*. It may miss the best *text*, whose probability is the product of all steps. A
# toy shows it: after "My" come "lord" with 0.6 or "good" with 0.4; after "lord" five things are about equally
# likely; after "good" it is surely "lord".

# %%
toy_words = ["My", "lord", "good", ",", ".", "and", "of", "in"]
table = torch.zeros(8, 8, dtype=torch.float64)
table[0, [1, 2]] = torch.tensor([0.6, 0.4], dtype=torch.float64)
table[1, 3:] = torch.tensor([0.24, 0.22, 0.2, 0.18, 0.16], dtype=torch.float64)
table[2, 1] = 1.0
table[3:, 0] = 1.0


class Toy:
    vocab_size, context = 8, 1

    def __call__(self, ids):
        return table[ids].log()


def spelled(ids):
    return " ".join(toy_words[i] for i in ids)


# %% [markdown]
# Eight words and two steps make 64 texts. We may try them all.

# %%
probability = {
    pair: (table[0, pair[0]] * table[pair]).item() for pair in product(range(8), repeat=2)
}
best = max(probability, key=probability.get)
path = generate(Toy(), [0], 2, temperature=0.0)
print(f'greedy: "My {spelled(path)}", probability {probability[tuple(path)]:.2f}')
print(f'best:   "My {spelled(best)}", probability {probability[best]:.2f}')

# %% [markdown]
# With $V^L$ texts, trying them all ends here. {term}`Beam search` keeps the $n$ most probable beginnings. At each step
# it extends every one of them by every token, and keeps the $n$ best of the results. One beam is greedy decoding;
# infinitely many would be trying everything. A beginning that reaches a stop token leaves the beam and is kept as a
# result. Results of different length are compared by
#
# $$
# \mathrm{score} = \frac{\log P(w_1 \dots w_L)}{L^{\alpha}},
# $$ (eq-gen-beam)
#
# where the *length penalty* $\alpha$ is 0 for plain log-probability and 1 for the mean per token. Sutskever and
# colleagues used beams for translation {cite}`sutskever2014`; the normalisation is a variant of {cite}`wu2016`.
#
# By hand, for texts of equal length:


# %%
def beam_by_hand(log_probs, start, steps, n):
    beams = [(0.0, [start])]
    for _ in range(steps):
        longer = [
            (score + log_probs(ids)[i], [*ids, i])
            for score, ids in beams
            for i in range(len(log_probs(ids)))
        ]
        beams = sorted(longer, reverse=True)[:n]
    return beams


for n in (1, 2):
    by_hand = beam_by_hand(lambda ids: table[ids[-1]].log().tolist(), 0, 2, n)
    ours = beam(Toy(), [0], 2, n_beams=n)
    np.testing.assert_allclose([h.log_prob for h in ours], [score for score, _ in by_hand])
    assert ours[0].ids == by_hand[0][1][1:]
    name = f"{n} beam" + "s" * (n > 1)
    print(f'{name}: "My {spelled(ours[0].ids)}", probability {np.exp(ours[0].log_prob):.2f}')

# %% [markdown]
# And on the trained model, against `transformers`: same weights, same prompt, the same text, for several widths and
# length penalties, with the end of a line as the stop token.

# %%
ends = {i for i in range(V) if b"\n" in tokenizer.token_bytes(i)}
prompt = tokenizer.encode("KING HENRY.\nMy lord, I")
options = {"max_new_tokens": 24, "eos_token_id": sorted(ends), "pad_token_id": 0}
cases = list(product((2, 4, 8), (0.0, 1.0, 2.0)))
for n, alpha in cases:
    given = torch.tensor([prompt])
    theirs = hf_model.generate(
        given,
        attention_mask=torch.ones_like(given),
        num_beams=n,
        length_penalty=alpha,
        **options,
    )[0, len(prompt) :].tolist()
    ours = beam(model, prompt, 24, n, alpha, stop=ends)[0].ids
    length = next((i for i, token in enumerate(theirs) if token in ends), len(theirs))
    assert ours == theirs[:length]
print(f"{len(cases)} searches, the same text as transformers each time")

# %% [markdown]
# ## The beam curse
#
# More beams find texts of higher probability. Are these better texts? We let 1, 2, 4 and 8 beams continue the same
# prompts, and measure what they look for, and what they were not told to look for.

# %%
WIDTHS = (1, 2, 4, 8)
few = starts[:: 2 * EVERY]
searched = {n: [beam(model, ids, NEW, n_beams=n)[0] for ids in few] for n in WIDTHS}
likely = {n: np.array([h.log_prob / NEW for h in found]) for n, found in searched.items()}
again = {n: np.array([repeated(h.ids) for h in found]) for n, found in searched.items()}
human = measured["human"]

# %% mystnb={"figure": {"name": "fig-gen-beams", "caption": "More beams find more probable text (left), further from what people write (dashed), and it repeats itself (right). Means over 12 prompts with 95 % intervals."}, "image": {"alt": "Two line charts against the number of beams. Left: mean log-probability per token rises from 1 to 8 beams and lies far above the line of human text. Right: the share of repeated 4-grams stays many times as high as the human line near zero."}} tags=["nbval-ignore-output"]
left, right = plots.panels(2, size=(8.4, 3.0), share_y=False)
for ax, name, values, people in (
    (left, "log-probability per token", likely, -human["nats per token"].mean()),
    (right, "repeated 4-grams", again, human["repeated 4-grams"].mean()),
):
    middle, lower, upper = zip(*(interval(values[n]) for n in WIDTHS), strict=True)
    series = {"search": middle, "human": [people] * len(WIDTHS)}
    plots.lines(WIDTHS, series, "beams", name, bands={"search": (lower, upper)}, ax=ax)
    print(name, [round(v, 2) for v in middle], f"human {people:.2f}")

# %%
assert likely[8].mean() > likely[1].mean() > -human["nats per token"].mean()
assert min(again[n].mean() for n in WIDTHS) > 3 * human["repeated 4-grams"].mean()
print("more beams: more probable text, and always far more repetition than human text")

# %% [markdown]
# {numref}`fig-gen-beams` says that the search succeeds and the result is poor: everything that makes human text human
# is an *error* of the search. Where texts may differ in length, it gets worse. We ask for the rest of a line, from the
# name of the speaker to the next line end, and let plain log-probability choose ($\alpha = 0$).

# %%
speeches = list(re.finditer(r"\n\n[A-Z ]+\.\n", shakespeare.text("validation")))[20::60]
text = shakespeare.text("validation")
cues = [tokenizer.encode(text[m.end() - 120 : m.end()])[-48:] for m in speeches]
replies = [tokenizer.encode(text[m.end() : m.end() + 200].split("\n")[0]) for m in speeches]
lengths = {"human": np.array([len(ids) for ids in replies], dtype=float)}
drawn = generate_batch(model, cues, 40, stop=ends)
lengths["sampling"] = np.array([len(ids) for ids in drawn], dtype=float)
for n in (1, 4, 16, 64):
    found = [beam(model, ids, 40, n, length_penalty=0.0, stop=ends)[0] for ids in cues]
    lengths[f"{n} beam" + "s" * (n > 1)] = np.array([len(h.ids) for h in found], dtype=float)

# %% mystnb={"figure": {"name": "fig-gen-short", "caption": "The beam curse: tokens in a speaker's first line, by a person, by sampling, and found by beam search on plain log-probability. Means over some thirty lines with 95 % intervals."}, "image": {"alt": "A dot chart. Human lines have about 15 tokens, sampled ones about 12. Lines found by beam search get shorter as the number of beams grows, down to almost no token with 64 beams."}} tags=["nbval-ignore-output"]
spans = {name: interval(values) for name, values in lengths.items()}
values = [span[0] for span in spans.values()]
plots.dots(list(spans), values, "tokens in the line", [span[1:] for span in spans.values()])
print({name: round(span[0], 1) for name, span in spans.items()})

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    firsts = torch.stack([model(torch.tensor([ids]))[0, -1].softmax(-1) for ids in cues])
glue("gen_empty", 100 * firsts[:, sorted(ends)].sum(-1).mean().item(), display=False)
shorter = lengths["1 beam"] - lengths["64 beams"]
assert interval(lengths["human"] - lengths["64 beams"])[1] > 0 and interval(shorter)[1] > 0
assert abs(lengths["sampling"].mean() - lengths["human"].mean()) < 4
print("64 beams find shorter lines than one; sampling stays within four tokens of human length")

# %% [markdown]
# Every further token costs probability, so the most probable text is a short one ({numref}`fig-gen-short`). With 64
# beams most speakers say nothing at all: the line end comes first. The empty line is improbable, at
# {glue:text}`gen_empty:.0f` %, and still more probable than any *particular* line. In machine translation this is known
# as the *beam search curse*: quality falls as the beam gets wider {cite}`koehn2017`, and an exact search finds that the
# most probable translation of many sentences is the *empty* one {cite}`stahlberg2019`. The errors of a narrow search
# had been a hidden virtue. The length penalty of {eq}`eq-gen-beam` is a repair of the symptom.
#
# When is beam search right, then? When there is essentially one right answer, and the prompt pins it down: a
# transcription, a translation with a modest beam, an answer in a fixed format. When many answers are good, as in
# everything that the essays call creative, sample.
#
# (sec-gen-batches)=
# ## Batches: prompts of different length
#
# A processor likes to work on many rows at once, and rows of a {term}`batch` have one length. Prompts have not. So the
# short ones are filled up with {term}`padding`, and the question is on which side, and who tells the model.
#
# With `transformers` one pads a decoder on the *left* (its default is the right), so that all rows end in their last
# real token, and passes a {term}`mask` that hides the padding. `minilm` pads on the *right*: by causality no real token
# sees what stands to its right, so the prompt needs no mask; the logits are read at each row's last real token, and the
# cache forgets the rest.

# %%
lines = ["ROMEO.\nO, she doth teach", "HAMLET.\nTo be, or not to be, that is the", "What"]
rows_of_ids = [tokenizer.encode(line) for line in lines]
alone = [generate(model, ids, 30, temperature=0.0) for ids in rows_of_ids]
together = generate_batch(model, rows_of_ids, 30, temperature=0.0)
assert together == alone
print("prompts of", [len(ids) for ids in rows_of_ids], "tokens: together as alone")

# %% tags=["nbval-ignore-output"]
hf_tokenizer.pad_token = hf_tokenizer.eos_token
plan = {"max_new_tokens": 30, "pad_token_id": 0, "eos_token_id": None}
for side in ("left", "right"):
    hf_tokenizer.padding_side = side
    batch = hf_tokenizer(lines, return_tensors="pt", padding=True)
    width = batch.input_ids.shape[1]
    for mask in (batch.attention_mask, torch.ones_like(batch.attention_mask)):
        theirs = hf_model.generate(batch.input_ids, attention_mask=mask, **plan)[:, width:].tolist()
        hidden = "with" if not mask.all() else "without"
        right = sum(a == b for a, b in zip(theirs, alone, strict=True))
        assert (right == 3) == (side == "left" and hidden == "with")
        print(f"padding {side}, {hidden} mask: {right} of 3 as alone")

# %% [markdown]
# Only one of the four is right for every prompt, and none of them raises an error. This is the case in which the call
# `encode` of the essays, which gives no mask, must not be used ({ref}`err-attention-mask`).
#
# Sampling in a batch has a trap of its own. If all rows draw from one generator, then what row 3 says depends on how
# much row 2 has drawn. In `minilm` each row has its own, seeded with `seed + b`, so a text is reproducible without its
# neighbours.

# %%
drawn = generate_batch(model, rows_of_ids, 30, seed=7, top_p=0.9)
for b, ids in enumerate(rows_of_ids):
    assert drawn[b] == generate(model, ids, 30, seed=7 + b, top_p=0.9)
print("each row is what its own seed gives alone")

# %% [markdown]
# ## Where to stop
#
# A text needs an end. The model can be asked: a *stop token*, when drawn, ends the row. (Without it, `max_new_tokens`
# cuts the text wherever it is.) In a chat model the stop token is a special one that marks the end of a turn. Ours has
# the end of the line. Rows stop at different times; those that go on must not notice.

# %% tags=["nbval-ignore-output"]
cue = tokenizer.encode("ROMEO.\n")
verses = generate_batch(model, [cue] * 5, 40, stop=ends, top_p=0.9)
for ids in verses:
    print(f"{len(ids):3} tokens: {tokenizer.decode(ids)}")

# %%
for b, ids in enumerate(verses):
    assert ids == generate(model, cue, 40, stop=ends, seed=b, top_p=0.9)
    assert not ends & set(ids)
print("every row stops for itself; the stop token is not part of the text")

# %% [markdown]
# And a reader need not wait for the end. `stream` is an iterator that yields each token when it is known; `generate` is
# the list of what it yields. (A token can be a part of a character, and the end of a text can be a phrase of several
# tokens. Both matter in practice, and
# {ref}`ex-gen-stop` treats the second.)

# %% tags=["nbval-ignore-output"]
for token in stream(model, start, 40, top_p=0.9, seed=3):
    print(tokenizer.decode([token]), end="|", flush=True)

# %% [markdown]
# (sec-gen-cache)=
# ## The cache: exact, and fast
#
# The loop at the start of this chapter reads the whole text again for every new token. Most of that work is repetition.
# By causality the keys and values of old tokens do not depend on new ones ({ref}`ch-attention`), so they can be kept:
# the {term}`KV cache`. Each step then computes one row, the new one, in every layer.
#
# First the exactness. One pass over the whole text and 112 passes over one token each must give the same logits.

# %%
with torch.no_grad():
    ids = torch.tensor(passages[:1])
    whole, cache = model(ids), model.new_cache(batch=1)
    pieces = [model(token, cache) for token in ids.split(1, dim=1)]
assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-3 * whole.abs().max()
with_cache = [generate(model, ids, 60, seed=2) for ids in starts[:4]]
without = [generate(model, ids, 60, seed=2, cache=False) for ids in starts[:4]]
assert with_cache == without
print("same logits, up to the rounding of sums; same texts")

# %% [markdown]
# Now the cost. Let $N$ be the number of weights that a token is multiplied by. Each weight costs one multiplication and
# one addition, and attention over $S$ tokens adds $2SD$ multiplications and additions in each of the $L$ layers:
#
# $$
# \text{FLOPs per token read} = 2N + 4LDS .
# $$ (eq-gen-flops)
#
# With the cache a step reads one token. Without, step $t$ reads $t$ of them. To write $n$ tokens takes about $n$ reads
# in the first case and $n^2/2$ in the second. What is saved in work is paid in memory: keys and values, of $G$ heads
# with $d$ entries, in $L$ layers, for each row and each token:
#
# $$
# \text{cache bytes} = 2\, L\, G\, d \cdot B \cdot S \cdot \text{bytes per number}.
# $$ (eq-gen-bytes)


# %%
def flops(n_weights, layers, width, n):
    """To write n tokens, with the cache and without."""
    read = 2 * n_weights + 4 * layers * width * np.arange(1.0, n + 1)  # token s looks at s tokens
    return read.sum(), read.cumsum().sum()


def weights(vocab, layers, width):
    return 12 * layers * width**2 + vocab * width  # the matrices of a GPT-2 block, and the output


c = model.config
matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
assert matrices - c.context * c.d_model == weights(V, c.n_layers, c.d_model)
assert 2 * cache.k.nbytes == 2 * c.n_layers * c.d_model * context * 4
print(f"our model: {weights(V, c.n_layers, c.d_model):,} weights per token")

# %%
llama = 32 * (4 * 4096**2 + 3 * 4096 * 11_008) + 32_000 * 4096
shapes = [  # name, vocabulary, layers, width, context, bytes per number, weights
    ("ours", V, c.n_layers, c.d_model, context, 4, None),
    ("GPT-2, 124M", 50_257, 12, 768, 1024, 2, None),
    ("GPT-2, 1.5B", 50_257, 48, 1600, 1024, 2, None),
    ("LLaMA, 7B", 32_000, 32, 4096, 2048, 2, llama),
]

# %% mystnb={"figure": {"name": "tab-gen-cost", "caption": "Writing a text as long as the context, for one reader: arithmetic with and without the cache, and what the cache holds at the end. Ours in 32-bit numbers, the others in 16 bits. Shapes of GPT-2 from Radford et al. 2019, of LLaMA from Touvron et al. 2023; the latter's MLP is counted by its own width."}}
table = []
for name, vocab, layers, width, n, size, known in shapes:
    w = known or weights(vocab, layers, width)
    fast, slow = flops(w, layers, width, n)
    held = 2 * layers * width * n * size / 1e6
    table.append((name, n, f"{fast:.1e}", f"{slow:.1e}", f"{slow / fast:.0f}", f"{held:,.1f}"))
heads = ["model", "tokens", "FLOPs, cache", "FLOPs, none", "ratio", "cache, MB"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# {numref}`tab-gen-cost` explains why nobody generates without a cache, and why the cache is a problem in its own right:
# a 7-billion-parameter model holds a gigabyte of keys and values *for one reader* with 2,048 tokens. So query heads
# share keys and values (fewer $G$, {cite}`ainslie2023`), and servers hand out cache memory in pages {cite}`kwon2023`.
#
# What the arithmetic promises, the clock must confirm. We time every step of a text that starts short and runs past the
# context.


# %%
def steps(cache, n=context + 24, rounds=3):
    seconds = np.full(n, np.inf)
    for _ in range(rounds):
        last = time.perf_counter()
        for i, _ in enumerate(stream(model, starts[0][:4], n, temperature=0.0, cache=cache)):
            seconds[i], last = min(seconds[i], time.perf_counter() - last), time.perf_counter()
    return 1000 * seconds


spent = {"no cache": steps(False), "cache": steps(True)}

# %% mystnb={"figure": {"name": "fig-gen-cache", "caption": "Milliseconds per token against the length of the text, with and without a cache, on the machine that stored this page; the best of three runs. Beyond the context both must read the whole window."}, "image": {"alt": "Two curves over the length of the text. Without a cache the time per token rises with the length up to the context and stays there. With a cache it is low and nearly flat up to the context, where it jumps up to the other curve."}} tags=["nbval-ignore-output"]
places = np.arange(4, 4 + len(spent["cache"]))
plots.lines(places, spent, "tokens in the text", "milliseconds per token")
inside = slice(8, context - 8)
ratio = spent["no cache"][inside].sum() / spent["cache"][inside].sum()
print(f"within the context, no cache takes {ratio:.1f} times as long")

# %% [markdown]
# {numref}`fig-gen-cache` shows two things. Within the context the cached step hardly notices the length: at this size
# most of a step is the fixed cost of calling some hundred small kernels, which {eq}`eq-gen-flops` does not count. And
# at the context's end there is a cliff. The window moves by one token, every token in it gets another position, and all
# keys and values change. The cache is worthless there, and `minilm` drops it, so that the text stays exactly what it
# would be without one. Models that must run on for long need positions that survive a shift, or a context that is not
# used up.
#
# ### Bytes, not arithmetic
#
# A step with one row multiplies every weight by one number. A large model's processor spends its time fetching weights,
# not multiplying: decoding is bound by *memory*. (In a model as small as ours, the fixed cost of the calls plays that
# part.) With $B$ rows, the same weights, fetched once, do $B$ times the work {cite}`pope2022`. So a batch is nearly
# free at first: {numref}`fig-gen-batch` lets it grow from 1 row to 64.


# %% mystnb={"figure": {"name": "fig-gen-batch", "caption": "Tokens per second against the number of rows in the batch, on the machine that stored this page; the line from the first point is what a free lunch would give."}, "image": {"alt": "A rising curve on two logarithmic axes. It climbs almost as steeply as the proportional line at first and bends below it for large batches."}} tags=["nbval-ignore-output"]
def rate(rows):
    begin = time.perf_counter()
    generate_batch(model, starts[:rows], 32, temperature=0.0)
    return rows * 32 / (time.perf_counter() - begin)


sizes = (1, 2, 4, 8, 16, 32, 64)
rates = [max(rate(rows) for _ in range(2)) for rows in sizes]
ideal = [rates[0] * rows for rows in sizes]
ax = plots.lines(
    sizes, {"measured": rates, "proportional": ideal}, "rows", "tokens per second", log="xy"
)
plots.plain_ticks(ax, "xy")
print(dict(zip(sizes, (round(r) for r in rates), strict=True)))

# %% [markdown]
# How does this compare with the library that everybody uses? Same weights, same greedy text, the two taking turns.
# `make bench` runs the fuller comparison.


# %% tags=["nbval-ignore-output"]
def race(rounds=5, n=64):
    ids = torch.tensor(starts[:1])
    mask, plan = (
        torch.ones_like(ids),
        {"max_new_tokens": n, "pad_token_id": 0, "eos_token_id": None},
    )
    spent = {"minilm": [], "transformers": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        ours = generate(model, starts[0], n, temperature=0.0)
        between = time.perf_counter()
        theirs = hf_model.generate(ids, attention_mask=mask, **plan)[0, PROMPT:].tolist()
        spent["minilm"].append(between - begin)
        spent["transformers"].append(time.perf_counter() - between)
        assert ours == theirs
    return {who: n / np.median(times) for who, times in spent.items()}


speed = race()
print({who: f"{tokens:.0f} tokens/s" for who, tokens in speed.items()})
print(f"ratio {speed['minilm'] / speed['transformers']:.2f}")

# %% [markdown]
# ## Creative, or copied?
#
# Document 1 asks whether a large language model can produce creative content, and answers yes: stories, poems, lyrics,
# advertisements, whose quality and appropriateness one should check. Of creativity we can measure one side: is the
# text new? We look up every sequence of eight tokens of the continuations in the four megabytes of plays that the
# model was trained on. Human text from *other* plays gives the scale, since playwrights reuse phrases too.


# %%
def fingerprints(ids, n=8):
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(ids, dtype=np.uint64), n)
    return windows @ (np.uint64(6364136223846793005) ** np.arange(n, dtype=np.uint64))


known = np.unique(fingerprints(stacked))


def copied(texts):
    return np.isin(np.stack([fingerprints(ids) for ids in texts]), known).mean(-1)


# %% tags=["nbval-ignore-output"]
shares = {name: copied(ids) for name, ids in texts.items()}
for name, values in shares.items():
    print(f"{name:20} {{:.3f}} [{{:.3f}}, {{:.3f}}]".format(*interval(values)))

# %% tags=["nbval-ignore-output"]
assert shares["T = 1"].mean() < 0.1 and shares["T = 1"].mean() < shares["greedy"].mean()
assert interval(shares["beam, 4 beams"])[1] > 2 * interval(shares["T = 1"])[2]
print("less than a tenth of what is sampled at T = 1 stands in the training text word for word")
glue("gen_copied_beam", 100 * float(shares["beam, 4 beams"].mean()), display=False)
glue("gen_copied_human", 100 * float(shares["human"].mean()), display=False)
glue("gen_copied_plain", 100 * float(shares["T = 1"].mean()), display=False)

# %% [markdown]
# Of the sampled text {glue:text}`gen_copied_plain:.1f` % stands in the training plays, of the human text
# {glue:text}`gen_copied_human:.1f` %: sampling is new, sequence by sequence, even by the standard of a playwright. Beam
# search is not. It finds {glue:text}`gen_copied_beam:.0f` % of its text in the training plays, mostly titles and stage
# directions: the most probable text is what was said most often. (With a model that has seen each text many times the
# numbers change; see {cite}`carlini2023` and {ref}`ch-ngram`, where a table of counts recites.) New is not good,
# though. Whether a line is *good*, no number in this chapter has said: our measures compare distributions of text. That
# a text is fluent does not make it true or logical ({ref}`err-logical`), and no choice of decoder can change what the
# model has learnt to find probable. The decoder does decide how often the improbable gets its turn, and the harmful
# with it: the essay's advice to check what comes out stands.
#
# The other answers of the essays about generation, in short:
#
# - "You can still use a pretrained model on a personal computer to fine-tune or generate" (document 1): true, and here
#   even for training. Generation needs the weights in memory and, by {numref}`tab-gen-cost`, the cache beside them.
# - "Text generation: news, stories, mails" (documents 0 and 2) names uses, for each of which the right decoder differs:
#   a reply in a fixed format wants a low temperature, a story does not.
# - "Generates coherent, logically correct text" (document 2) is more than any next-token rule promises
#   ({ref}`err-logical`). And not every model that the essays list can be used like this at all: BERT predicts masked
#   tokens, not the next one ({ref}`err-predict-next`).
# - "Input of any length" (document 2): {numref}`fig-gen-cache` shows what happens at the end of the context, and
#   `transformers` refuses outright ({ref}`err-length`).
#
# ## The answer
#
# **Given the probabilities, which token should we write?** Neither the likeliest nor just any. On our model text that
# is sought for its probability, by greedy decoding or by beams, has {glue:text}`gen_nats_greedy:.1f` or
# {glue:text}`gen_nats_beam:.1f` nats of surprisal per token where human text has {glue:text}`gen_nats_human:.1f`, and
# it repeats itself many times as often; more search makes it more probable, and shorter, and no more human. Sampling
# from the model itself has human surprisal and is harder to recognise than text from the rules that cut, at the price
# of everything that the model has got wrong. Cutting the tail by a rule that follows the shape of the distribution,
# top-p or min-p, buys plausibility with variety; how much, is for the use to say. How the choice is made costs next
# to nothing. How the model is called costs everything, and the cache gives the same text at a fraction of the work.

# %% [markdown]
# ## What we learnt
#
# - A model is a distribution. A decoder makes a text of it, and its settings belong to every claim about the text.
# - Temperature raises probabilities to the power $1/T$; entropy grows with $T$ at the rate $\operatorname{Var}(z)/T^3$.
#   Without sampling it does nothing, and the program of document 1 shows that nobody notices.
# - Top-k keeps a fixed number, top-p a fixed share, min-p a fixed ratio. Only the last two follow the shape of the
#   distribution. Scaling what is kept is the nearest distribution to the model, at a cost of $-\log p(S)$.
# - The most probable text is not typical: greedy and beam text is bland, and every rule that takes the next token
#   from the last $m$ alone, without chance, ends in a loop.
# - Plausibility and variety are traded: what a second model likes best is easy to recognise as made by a machine.
# - Beam search finds more probable texts than greedy decoding, and with plain log-probability shorter ones.
# - Prompts of different length can share a batch, with the padding hidden and a generator for each row.
# - The KV cache is exact within the context. It turns quadratic work into linear work, and arithmetic into memory.

# %% [markdown]
# ## Exercises
#
# ```{exercise} Typical sampling
# :label: ex-gen-typical
#
# Meister and colleagues suppose that people choose words whose surprisal is near the entropy. Locally typical sampling
# {cite}`meister2023` takes this literally. Rank the tokens by how far their surprisal $-\log p_i$ is from the entropy
# $H(p)$, nearest first; keep the fewest that together hold probability `mass` or more; scale. Write
# `typical(logits, mass)` for one row of logits.
# ```


# %% tags=["exercise"]
def typical(logits, mass):
    """The distribution of locally typical sampling, (V,) to (V,)."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def typical(logits, mass):
    """The distribution of locally typical sampling, (V,) to (V,)."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    order = (-log_p - entropy(p)).abs().argsort()
    before = p[order].cumsum(-1) - p[order]
    kept = order[before < mass]
    return torch.zeros_like(p).index_put((kept,), p[kept] / p[kept].sum())


# %% tags=["check"]
for trial in range(20):
    z = 3 * torch.randn(50, generator=torch.Generator().manual_seed(trial), dtype=torch.float64)
    for mass in (0.2, 0.5, 0.9):
        theirs = logits_process.TypicalLogitsWarper(mass)(None, z[None]).softmax(-1)[0]
        torch.testing.assert_close(typical(z, mass), theirs, msg="not what transformers keeps")
p = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)  # entropy 0.95 nats; surprisals 0.51, 1.61
assert typical(p.log(), 0.5).tolist() == [1, 0, 0]

# %% [markdown]
# ```{exercise} No phrase twice
# :label: ex-gen-ngrams
#
# Instead of punishing every used token, forbid only those that would complete an n-gram that the text already contains.
# Write `forbidden(ids, n)`: the set of such tokens after the list `ids`. For $n = 1$ these are all tokens used.
# ```


# %% tags=["exercise"]
def forbidden(ids, n):
    """The tokens that would complete an n-gram that ``ids`` already contains."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def forbidden(ids, n):
    """The tokens that would complete an n-gram that ``ids`` already contains."""
    last = ids[len(ids) - n + 1 :]
    return {ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == last}


# %% tags=["check"]
assert forbidden([1, 2, 3, 1, 2], 3) == {3}
assert forbidden([1, 2, 3, 1, 2], 2) == {3} and forbidden([1, 2, 3], 2) == set()
assert forbidden([1, 1], 2) == {1} == forbidden([1], 1), "the last n-gram counts too"
generator = np.random.default_rng(0)
for n in (1, 2, 3, 4):
    ids = generator.integers(0, 4, 40).tolist()
    theirs = logits_process.NoRepeatNGramLogitsProcessor(n)(torch.tensor([ids]), torch.zeros(1, 4))
    assert forbidden(ids, n) == set(theirs[0].isinf().nonzero().flatten().tolist()), n

# %% [markdown]
# ```{exercise} Stop at a phrase
# :label: ex-gen-stop
#
# A speech ends with an empty line, which is two tokens, and other tokenizers may cut it in other places. Write
# `until(pieces, end)`: an iterator over the strings `pieces`, which arrive one by one, that yields text as early as
# possible but never any part of the phrase `end`, nor what follows it. Text that *might* be the start of `end` has to
# wait. If the phrase never comes, all text is yielded.
# ```


# %% tags=["exercise"]
def until(pieces, end):
    """The text of ``pieces``, as it arrives, up to the first occurrence of ``end``."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def until(pieces, end):
    """The text of ``pieces``, as it arrives, up to the first occurrence of ``end``."""
    held = ""
    for piece in pieces:
        held += piece
        if end in held:
            yield held[: held.index(end)]
            return
        wait = max(n for n in range(len(end)) if n == 0 or held.endswith(end[:n]))
        yield held[: len(held) - wait]
        held = held[len(held) - wait :]
    yield held


# %% tags=["check"]
assert "".join(until(["a", "b\n", "\nc"], "\n\n")) == "ab"
assert "".join(until(["a\n", "b\n"], "\n\n")) == "a\nb\n", "the phrase never came"
assert "".join(until(["x-", "->y"], "-->")) == "x", "the phrase came in two pieces"
assert "".join(until(["x--", "->y"], "-->")) == "x-", "the first dash is text"
assert "".join(until(["x--", ">y"], "-->")) == "x", "both dashes have to wait"
for pieces, first in ((["ab", "c", "STOP"], "ab"), (["abS", "c", "STOP"], "ab")):
    waiting = iter(pieces)
    assert next(filter(None, until(waiting, "STOP"))) == first, "what cannot belong to the phrase"
    assert len(list(waiting)) == 2, "is yielded at once"
for cut in product((1, 2, 3), repeat=3):
    text = "to be or END not"
    edges = np.cumsum([0, *cut * 4])
    parts = [text[a:b] for a, b in pairwise(edges)]
    assert "".join(until(parts, "END")) == (
        "to be or " if "END" in "".join(parts) else "".join(parts)
    )

# %% [markdown]
# ```{exercise} Speculative decoding
# :label: ex-gen-speculative
#
# A small, fast model proposes a token from its distribution $q$; the large one, with distribution $p$, accepts the
# proposal $i$ with probability $\min(1, p_i / q_i)$. If it refuses, the token is drawn from the part of $p$ that $q$
# left uncovered, $\max(p - q, 0)$, scaled to sum to one. Show that the token that comes out has distribution $p$
# {cite}`leviathan2023`. Then write `speculate(p, q)`: the vector of acceptance probabilities, and the distribution
# after a refusal (if nothing is uncovered, return $p$). Both may hold zeros; where $q_i = 0$ any number from 0 to 1
# will do, but not nan. Several accepted tokens cost the large model one pass.
# Chapter 12 does it with guesses that are certain of themselves ({ref}`sec-llm-guess`).
# ```


# %% tags=["exercise"]
def speculate(p, q):
    """Probability to accept each proposal, and the distribution to draw from after a refusal."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def speculate(p, q):
    """Probability to accept each proposal, and the distribution to draw from after a refusal."""
    accept = torch.where(q > 0, p / q, 1.0).clamp(max=1)
    rest = (p - q).clamp(min=0)
    return accept, rest / rest.sum() if rest.sum() > 0 else p


# %% tags=["check"]
for trial in range(20):
    g = torch.Generator().manual_seed(trial)
    p, q = torch.randn(2, 9, generator=g, dtype=torch.float64).mul(2).softmax(-1)
    accept, rest = speculate(p, q)
    assert (accept <= 1).all() and (rest >= 0).all()
    torch.testing.assert_close(q * accept + (1 - (q * accept).sum()) * rest, p)
    torch.testing.assert_close((q * accept).sum(), torch.minimum(p, q).sum(), msg="accept more")
accept, rest = speculate(p, p)
assert (accept == 1).all() and torch.equal(rest, p), "nothing is uncovered: p itself"
p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])  # after top-k there are zeros
accept, rest = speculate(p, q)
assert accept[0] == 0.5 and ((accept >= 0) & (accept <= 1)).all() and rest.tolist() == [0, 1, 0]

# %% [markdown]
# ```{exercise} Room for the cache
# :label: ex-gen-room
#
# A server has `memory` bytes left after loading a model. Write `readers(config, memory, tokens, size)`: how many
# readers with texts of `tokens` tokens it can serve at once, at `size` bytes a number. Use {eq}`eq-gen-bytes`; mind
# `config.n_kv_heads`, which is `None` where every head has its own keys and values.
# ```


# %% tags=["exercise"]
def readers(config, memory, tokens, size=2):
    """The number of texts whose keys and values fit into ``memory`` bytes."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def readers(config, memory, tokens, size=2):
    """The number of texts whose keys and values fit into ``memory`` bytes."""
    heads = config.n_kv_heads or config.n_heads
    one = 2 * config.n_layers * heads * (config.d_model // config.n_heads) * tokens * size
    return int(memory // one)


# %% tags=["check"]
held = model.new_cache(batch=3, size=64)
exact = held.k.nbytes + held.v.nbytes
assert readers(model.config, exact, 64, size=4) == 3 == readers(model.config, exact, 64, 4)
assert readers(model.config, exact - 1, 64, 4) == 2, "a part of a reader is no reader"
shared = replace(model.config, n_kv_heads=1)
assert readers(shared, exact, 64, 4) == 3 * model.config.n_heads
assert readers(model.config, exact, 64) == 6, "two bytes a number unless told otherwise"

# %% [markdown]
# ## Further reading
#
# - Holtzman and colleagues {cite}`holtzman2020` is the paper behind most of this chapter: degeneration measured, top-p
#   proposed. Fan and colleagues {cite}`fan2018` introduced top-k for stories; Nguyen and colleagues
#   {cite}`nguyen2025minp` min-p; Meister and colleagues {cite}`meister2023` typical sampling.
# - Welleck and colleagues {cite}`welleck2020` change the training objective instead of the decoder; Xu and colleagues
#   {cite}`xu2022loop` study the loop of {numref}`fig-gen-loop`.
# - Koehn and Knowles {cite}`koehn2017` and Stahlberg and Byrne {cite}`stahlberg2019` on what wide beams do to
#   translation.
# - Pillutla and colleagues {cite}`pillutla2021` compare distributions of text with one number, MAUVE, where this
#   chapter uses several.
# - Pope and colleagues {cite}`pope2022` on the arithmetic and memory of inference at scale; Kwon and colleagues
#   {cite}`kwon2023` on cache memory in pages; Leviathan and colleagues {cite}`leviathan2023` on speculative decoding.
