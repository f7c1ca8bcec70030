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
# (ch-bert)=
# # BERT: reading in both directions
#
# **What does a model gain by looking at both sides of a word, what does it have to give up for it, and is it worth it
# on a task that counting words solves in a fraction of a second?**
#
# *About four minutes on two cores: a small BERT and its one-sided twin train from scratch, a published one is
# taken apart, and then fine-tuned. You need {ref}`ch-attention` for masks, {ref}`ch-transformer` for the blocks,
# {ref}`ch-gpt` for the objective that this chapter departs from, and {ref}`ch-ngram` for the baselines. Two archives
# are fetched at the first run, 97 MB together.*
#
# A {term}`GPT` reads from left to right because it is made to write from left to right. Somebody who wants to know
# whether a review praises a film does not write anything. The whole review lies there. Why should the third word of it
# be blind to the fourth? {term}`BERT` {cite}`devlin2019` is the Transformer for readers: the {term}`encoder` of the
# first Transformer {cite}`vaswani2017`, without its decoder, and with an objective of its own.
#
# The plan:
#
# 1. measure what the other side is worth, by counting alone, before any network;
# 2. see why the objective of the last chapters breaks, and what replaces it;
# 3. train a small BERT from scratch, and beside it the same network with one eye shut;
# 4. prove that its scores do not make a language model, however much they look like one;
# 5. open published weights, and check our code against the library's, layer by layer;
# 6. ask what the hidden states know, with a control for what the question itself teaches;
# 7. classify: five methods on one data set, from a coin to fine-tuning, with intervals, and the split that flatters all
#    of them.

# %%
import inspect
import math
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from IPython.display import Markdown
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabulate import tabulate
from torch import nn
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from minilm import archive, attention, bert, data, ngram, plots, presets
from minilm.batching import derived_seed, sample, windows
from minilm.contract import IGNORE, loss
from minilm.counts import count
from minilm.gpt import GPT
from minilm.heads import Classifier, mean_pool
from minilm.machine import threads
from minilm.tokenizer import Characters
from minilm.train import TrainConfig, train
from minilm.transformer import Config
from minilm.wordpiece import pieces, tidy, words

plots.use_style()
transformers.utils.logging.disable_progress_bar()

# %% [markdown]
# (sec-bert-directions)=
# ## What the other side is worth
#
# *To b_ or not to be.* Everybody fills the gap, and nobody does it from the left alone: *To b* goes on in many ways.
# Gaps to be filled from both sides are an old instrument. Under the name of {term}`cloze test` they have measured since
# 1953 how readable a text is {cite}`taylor1953`. For us they are a measurement that needs no network.
#
# The text is the small Shakespeare text of {ref}`ch-training`, in characters, with its last tenth held out. We cut
# rows of 64 characters from the held-out part, and in each we hide one character that has at least eight others on
# either side. Whoever wants to fill the gap may look at the whole row. This test stays the same up to the end of the
# section on pretraining.

# %%
train_text, held_out = presets.texts("small")
units = Characters.train(train_text + held_out, specials=("[MASK]",))
hidden_id, T = units.specials["[MASK]"], 64
ids = torch.tensor(units.encode(train_text))

# %%
rows = windows(torch.tensor(units.encode(held_out)), context=T - 1, stride=28)
each = torch.arange(len(rows))
at = torch.randint(8, T - 8, (len(rows),), generator=torch.Generator().manual_seed(0))
truth = rows[each, at]
gapped = rows.clone()
gapped[each, at] = hidden_id
print(f"{len(rows)} gaps; the first:")
print(repr(units.decode(rows[0].tolist())))
print(f"place {at[0]}, hidden: {units.decode([int(truth[0])])!r}")

# %% [markdown]
# The first three who try are counting models of {ref}`ch-ngram`. One reads from the left. One is trained on the text
# written backwards, so it knows $P(w \mid r)$, the chance of a character given those to its *right*. How can the two be
# joined? Write $\ell$ for what stands on the left and $r$ for what stands on the right. If, given the character $w$,
# the two sides had nothing to do with each other, Bayes' rule would give
#
# $$
# P(w \mid \ell, r) \;\propto\; P(w)\, P(\ell \mid w)\, P(r \mid w) \;\propto\;
# \frac{P(w \mid \ell)\; P(w \mid r)}{P(w)} .
# $$ (eq-bert-both)
#
# The assumption is false, as most useful ones are. The product needs no training beyond the two halves.

# %%
order = 5
V = units.vocab_size
forward = ngram.ModifiedKneserNey(count(ids, order, V))
backward = ngram.ModifiedKneserNey(count(ids.flip(0), order, V))
alone = ngram.ModifiedKneserNey(count(ids, 1, V))

# %%
steps = torch.arange(order - 1, 0, -1)
to_left, to_right = (
    rows[each[:, None], at[:, None] - steps],
    rows[each[:, None], at[:, None] + steps],
)
fills = {
    "unigram": alone(to_left)[:, -1],
    "left, counted": forward(to_left)[:, -1],
    "right, counted": backward(to_right)[:, -1],
}
product = fills["left, counted"] + fills["right, counted"] - fills["unigram"]
fills["both, counted"] = product.log_softmax(-1)

# %% [markdown]
# Two numbers for each: the share of gaps filled rightly, with its 95 % interval, and the mean surprise in nats.


# %%
def half_width(share, n):
    """Half of the 95 % interval of a share measured on n cases."""
    return 1.96 * math.sqrt(share * (1 - share) / n)


def judged(log_probs):
    answers = truth[: len(log_probs)]
    right = (log_probs.argmax(-1) == answers).double().mean().item()
    nats = -log_probs.gather(-1, answers[:, None]).mean().item()
    return right, half_width(right, len(answers)), nats


# %% mystnb={"figure": {"name": "tab-bert-counting", "caption": "Filling one gap in 64 held-out characters, by counting. Share right with the half width of its 95 % interval, and nats per gap."}}
heads = ["who fills the gap", "right", "±", "nats"]
table = [(name, *judged(log_probs)) for name, log_probs in fills.items()]
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt=".2f"))

# %% [markdown]
# {numref}`tab-bert-counting` answers the first third of the question. The two sides are worth about the same, and
# together they are worth far more than either: most of the gaps that one side leaves open are closed by the other. This
# is why a model that *reads* should look both ways. It is the reason for everything that follows.
#
# (sec-bert-masks)=
# ## Masks, of three kinds
#
# The word *mask* now gets a third meaning, and the three should be kept apart.
#
# - The {term}`causal mask` lets position $t$ look at positions up to $t$. A GPT has it; BERT does not.
# - The *{term}`padding` mask* keeps everybody from looking at what only fills up short rows of a {term}`batch`. BERT
#   needs it as soon as it reads more than one text at a time.
# - The token `[MASK]` hides a token *from the model* by taking its place in the input. It is part of the text,
#   everybody looks at it, and it has an embedding like any other token.
#
# The first two are one thing to the code: a table of who may look at whom. For four positions of which the last is
# padding:

# %%
inside = torch.tensor([[True, True, True, False]])  # (B, T): where a token stands
causal = attention.causal_mask(4, 4)
both_ways = inside[:, None, :].expand(1, 4, 4)[0]  # every query, the same keys
for name, table in (("causal", causal), ("padding", both_ways)):
    print(name, *table.int().tolist(), sep="\n")

# %% [markdown]
# The row of a padded position is not blank. What stands there is computed and never used, and a row in which nobody may
# be looked at would have no weights to divide by. By hand, in one head: the padded text must give what the text gives
# by itself.

# %%
torch.manual_seed(0)
q, k, v = torch.randn(3, 4, 8, dtype=torch.float64)
scores = q @ k.T / 8**0.5
weights = scores.masked_fill(~inside, -math.inf).softmax(-1)
torch.testing.assert_close((weights @ v)[:3], attention.attention(q[:3], k[:3], v[:3]))
torch.testing.assert_close(weights @ v, attention.attention(q, k, v, both_ways))
print("padding seen by nobody: the text is read as if it stood alone")

# %% [markdown]
# The essays pass from BERT to GPT without a word about this table ({ref}`err-predict-next`). It is the whole
# architectural difference.
#
# (sec-bert-encoder)=
# ## The encoder
#
# In code: `BERT` is the `Stack` of {ref}`ch-transformer` without the causal mask. Three more differences to our GPTs
# are of 2018, not of principle. All four are fields or arguments, so the diff of two models is short:
#
# - the {term}`norm <layer normalization>` comes *after* each sum (`norm_first=False`, the order of 2017);
# - the GELU is computed with the error function itself, not the tanh form (`activation="gelu_erf"`);
# - to the embeddings of token and position a third is added, which says whether a token belongs to the *first or second
#   text* of a row; and the sum is normed.
#
# What comes out is not a score for each token of a vocabulary. It is a vector for each position, a {term}`hidden
# state`, and what to do with it is a later decision.

# %%
shape = Config(
    V, context=T, d_model=128, n_layers=3, n_heads=4, activation="gelu_erf", positions="rotary"
)
torch.manual_seed(0)
encoder = bert.BERT(replace(shape, norm_first=False)).eval()
states = encoder(gapped[:2], torch.ones(2, T, dtype=torch.bool))
print(tuple(gapped[:2].shape), "->", tuple(states.shape))


# %% [markdown]
# Does it look both ways, and does it look past the padding? Change one character of the input, and see which hidden
# states move.


# %%
def moved(model, row, place, mask=None):
    """Which positions notice that the token at `place` is another one."""
    other = row.clone()
    other[0, place] = (other[0, place] + 1) % V
    with torch.no_grad():
        gap = (model(row, mask) - model(other, mask)).abs().amax(-1)[0]
    return (gap > 0).tolist()


# %%
row, six = rows[:1, :8], torch.arange(8)[None] < 6
print("BERT, place 3 changed:  ", "".join(".#"[m] for m in moved(encoder, row, 3)))
print("BERT, padding changed:  ", "".join(".#"[m] for m in moved(encoder, row, 7, six)[:6]))
torch.manual_seed(0)
one_eyed = GPT(replace(shape)).eval()
print(
    "GPT,  place 3 changed:  ",
    "".join(".#"[m] for m in moved(lambda i, _: one_eyed(i), row, 3)),
)

# %% [markdown]
# (sec-bert-objective)=
# ## An objective for both eyes
#
# Why not train this network on the next token? {ref}`sec-gpt-leak` has shown what happens: the answer stands one place
# to the right, the network copies it, the loss falls to nothing, and nothing has been learnt. With both eyes open a
# target must not stand in the input. So take it out. That is the {term}`masked language model`: choose some positions
# $M$ of a text $w$, hide their tokens, and ask for them,
#
# $$
# L(\theta) = - \mathbb{E}_{w}\, \mathbb{E}_{M} \; \frac{1}{|M|} \sum_{t \in M} \log P_\theta\bigl(w_t \mid \tilde
# w\bigr),
# $$ (eq-bert-objective)
#
# where $\tilde w$ is the text with the tokens of $M$ hidden. As a `Batch` it needs nothing new: the hidden positions
# have targets, all others `IGNORE`.
#
# BERT's recipe has two numbers in it that everybody quotes. *15 %* of the tokens are chosen. With more, too little is
# left to guess from; with fewer, a row teaches too little. (Later work found that 40 % can be better, for large models
# above all {cite}`wettig2023`.) And of the chosen ones only *80 %* become `[MASK]`; 10 % are replaced by a random token
# and 10 % stay as they are. In use there are no `[MASK]`s. A network that is only ever asked where it sees that token
# may leave all other positions unprepared; if any token might be wrong, and might be asked for, each must be kept in
# mind. By hand:

# %%
torch.manual_seed(0)
sample_rows = windows(ids, context=T - 1)[:2000]
draws = torch.rand(2, *sample_rows.shape)
chosen = draws[0] < 0.15
random_ids = torch.randint(1, V, sample_rows.shape)

# %%
inputs = sample_rows.clone()
inputs[chosen & (draws[1] < 0.8)] = hidden_id
swap = chosen & (draws[1] >= 0.8) & (draws[1] < 0.9)
inputs[swap] = random_ids[swap]
targets = torch.where(chosen, sample_rows, IGNORE)

# %% [markdown]
# `bert.mask_tokens` does this with a seed of its own. {numref}`tab-bert-fates` counts what becomes of a token under
# both.

# %% mystnb={"figure": {"name": "tab-bert-fates", "caption": "What becomes of the tokens: shares of all tokens in 2,000 rows, by hand and by the package. A random token is the old one now and then."}}
batch = bert.mask_tokens(sample_rows, hidden_id, range(1, V))


def fates(inputs, targets):
    asked = targets != IGNORE
    return {
        "asked for": asked,
        "asked for, shown as [MASK]": asked & (inputs == hidden_id),
        "asked for, shown as another token": asked
        & (inputs != hidden_id)
        & (inputs != sample_rows),
        "asked for, shown as it is": asked & (inputs == sample_rows),
        "not asked for, yet changed": ~asked & (inputs != sample_rows),
    }


mine, theirs = fates(inputs, targets), fates(batch.inputs[0], batch.targets)
table = [(name, mine[name].double().mean(), theirs[name].double().mean()) for name in mine]
Markdown(tabulate(table, ["fate", "by hand", "minilm"], tablefmt="pipe", floatfmt=".3f"))

# %% [markdown]
# (sec-bert-pretraining)=
# ## Pretraining, small
#
# `MaskedLM` puts a small output layer on the encoder: a linear layer, the activation, a norm, and the embedding table
# turned round, as in {ref}`ch-gpt`. For speed it takes the norm first and rotary positions, as the twin does. The
# training loop is that of {ref}`ch-training`, unchanged. Beside it trains the twin with one eye shut: a GPT with the
# same blocks, the same number of steps, the same rows of text. It is asked for the next character at every position.

# %%
how = TrainConfig(
    400, 16, 0.02, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=100
)
text_rows = sample(ids, context=T, batch_size=16)


def masked_rows(step):
    return bert.mask_tokens(text_rows(step).inputs[0], hidden_id, range(1, V), seed=step)


# %%
@torch.no_grad()
def fill(model, place, n=None):
    """Log-probabilities (n, V) at a place of each gapped row, or of the first n."""
    parts = zip(gapped[:n].split(500), place[:n].split(500), strict=True)
    logits = [model(part)[torch.arange(len(part)), where] for part, where in parts]
    return torch.cat(logits).log_softmax(-1)


def watched(place):
    return lambda model: {"right": judged(fill(model, place, 400))[0]}


# %% tags=["nbval-ignore-output", "remove-output"]
torch.manual_seed(1)
small_bert = bert.MaskedLM(shape)
bert_log = train(small_bert, masked_rows, how, watched(at))

# %% tags=["nbval-ignore-output", "remove-output"]
torch.manual_seed(1)
twin = GPT(shape)
twin_log = train(twin, text_rows, how, watched(at - 1))

# %% [markdown]
# The GPT's guess for place $t$ is what it says at place $t - 1$, so the gap itself does not disturb it.
# {numref}`fig-bert-curves` shows how the two learn.

# %% mystnb={"figure": {"name": "fig-bert-curves", "caption": "Share of gaps filled rightly while the two networks train on the same rows. The horizontal lines are counting, from one side and from both. The curves are measured on the first 400 gaps, the lines on all of them."}, "image": {"alt": "Line chart over 400 steps. The line of the GPT starts at 0.41 and flattens at the line of one-sided counting. The line of BERT starts far below it, at 0.27, and passes it at the end, far below the line of two-sided counting."}}
curves = {
    "BERT, both sides": [record["right"] for record in bert_log],
    "GPT, left side": [record["right"] for record in twin_log],
}
ax = plots.lines([record["step"] for record in bert_log], curves, "step", "share right")
for name, style in (("left, counted", ":"), ("both, counted", "--")):
    ax.axhline(judged(fills[name])[0], color="0.4", linestyle=style, label=name)
ax.legend()
asked = sum((masked_rows(step).targets != IGNORE).sum().item() for step in range(50)) / 50
print(
    f"questions per step: BERT about {asked / 1000:.2f} thousand, GPT {16 * T / 1000:.2f} thousand"
)

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-bert-fill", "caption": "The same gaps, all contestants. Share right with the half width of its 95 % interval, and nats per gap; one training run each."}}
with threads():
    fills["GPT, left side"] = fill(twin.eval(), at - 1)
    fills["BERT, both sides"] = fill(small_bert.eval(), at)
table = [(name, *judged(log_probs)) for name, log_probs in fills.items()]
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt=".2f"))

# %% [markdown]
# Two things stand in {numref}`tab-bert-fill`. After the same steps on the same rows, at about the same cost, the
# network with both eyes open fills more gaps than its twin. And both are beaten by the product of two tables, which
# has seen the whole text at once and stores every run of five characters. One-sided counting is where BERT has got to
# after 400 steps; neither network has read half of the text yet.
#
# The curves in {numref}`fig-bert-curves` say why it is not more. The twin learns faster at first, and BERT overtakes
# it late, because it is asked so little: of the positions in a row, 15 in 100 have a target, where the twin has one
# at every position. (The published BERT took a million steps of 256 rows {cite}`devlin2019`.) ELECTRA
# {cite}`clark2020electra` removes that handicap by asking about every position whether its token has been exchanged.
#
# Here is what the two say about the gaps that document 3 would call "understanding" ({ref}`err-predict-next`). The
# sentences are ours; the underscore is the gap.


# %% tags=["nbval-ignore-output"]
def guesses(text, n=3):
    row = torch.tensor([[hidden_id if c == "_" else units.encode(c)[0] for c in text]])
    place = text.index("_")
    two = small_bert(row)[0, place].softmax(-1), twin(row)[0, place - 1].softmax(-1)
    return [
        " ".join(f"{units.tokens[int(i)]!r} {p[i]:.2f}" for i in p.topk(n).indices) for p in two
    ]


for text in (
    "To be or not to b_, that is the question",
    "Good ni_ht, my lord",
    "Wh_t is thy name?",
):
    by_both, by_left = guesses(text)
    print(f"{text}\n   both sides: {by_both}\n   left side:  {by_left}")

# %% [markdown]
# (sec-bert-pseudo)=
# ## Not a language model
#
# {numref}`tab-bert-fill` is measured in nats, and nats can be turned into {term}`bits per byte`. Two-sided counting
# would come out as the best model of this book, ahead of every GPT. Should it get a row in the table of
# {ref}`sec-gpt-ruler`?
#
# It should not. A row of that table says how many bits a text costs, because by the {term}`chain rule` the conditional
# probabilities multiply to the probability of the text. Filling gaps gives other factors,
#
# $$
# \mathrm{PL}(w) = \prod_{t=1}^{T} P(w_t \mid w_{\ne t}),
# $$ (eq-bert-pseudo)
#
# each given *all* other tokens. This product is known in statistics as the {term}`pseudo-likelihood`
# {cite}`besag1975`, and for BERT it has been proposed as a score for sentences {cite}`salazar2020`. Take a text of two
# tosses of a coin whose second toss always repeats the first. It is worth one bit. But each toss, given the other, is
# certain: $\mathrm{PL} = 1 \cdot 1$, for *HH* and for *TT*. Two texts of probability one. What the tosses share is paid
# for by nobody.
#
# ```{prf:theorem} Gaps are cheaper than texts
# :label: thm-bert-pseudo
# For every distribution $P$ over texts of $T$ tokens,
#
# $$
# \mathbb{E}\bigl[-\log \mathrm{PL}(w)\bigr] = \sum_{t=1}^{T} H(W_t \mid W_{\ne t}) \;\le\; H(W),
# $$ (eq-bert-bound)
#
# with equality only where the tokens are independent.
# ```
#
# ```{prf:proof}
# The chain rule gives $H(W) = \sum_t H(W_t \mid W_{<t})$. Every term of the sum in {eq}`eq-bert-bound` is conditioned
# on more, and conditioning never adds entropy. For equality no $W_t$ may depend on what follows it once its past is
# known; for $t = 1$ that says $W_1$ is independent of all others, then $W_2$ is, and so on.
# ```
#
# So the pseudo-likelihood promises too much exactly where a text hangs together, that is, where there is something to
# model. We check the theorem on a random source of 81 texts: four tokens, each one of three.

# %%
generator = torch.Generator().manual_seed(0)
joint = torch.rand(3, 3, 3, 3, generator=generator, dtype=torch.float64) ** 4
joint /= joint.sum()
entropy = -(joint * joint.log()).sum().item()
conditionals = [joint / joint.sum(t, keepdim=True) for t in range(4)]
pseudo = sum(-(joint * one.log()).sum().item() for one in conditionals)
sum_of_products = math.prod(conditionals).sum().item()
print(f"entropy of the source {entropy:.2f} nats, by gaps {pseudo:.2f}")
print(f"sum of the pseudo-likelihoods of all 81 texts: {sum_of_products:.2f}")

# %% [markdown]
# The sum says it without any expectation: probabilities of all texts sum to one, and these sum to several times that.
#
# The factors of a trained network have one more defect. They need not come from *any* common distribution, since
# nothing makes its answer about one place agree with its answer about another. Hide two neighbours, and fill them in
# one after the other: left first, then right given left; or right first. Under a distribution both orders cost the
# same, by the chain rule. For the small BERT the bill depends on the order in which one pays:


# %%
some, one = rows[:400], torch.arange(400)


@torch.no_grad()
def bill(first, second):
    """Nats for filling two gaps, the first one while the second is still open."""
    both_open, one_open = some.clone(), some.clone()
    both_open[one, first] = both_open[one, second] = one_open[one, second] = hidden_id
    cost = 0
    for question, place in ((both_open, first), (one_open, second)):
        log_probs = small_bert(question)[one, place].log_softmax(-1)
        cost = cost - log_probs.gather(1, some[one, place][:, None])[:, 0]
    return cost


# %%
with threads():
    left_first, right_first = bill(at[:400], at[:400] + 1), bill(at[:400] + 1, at[:400])
apart = (left_first - right_first).abs().mean().item()
print(f"mean price of two gaps: {left_first.mean():.1f} nats")
print(f"mean difference between the two orders: more than 0.1 nats: {apart > 0.1}")

# %% [markdown]
# What BERT gives up is now in plain view. It cannot say how probable a text is, so it has no row in the table of bits
# per byte, and it cannot write by drawing one token after the other, which document 3 expects of it when it calls BERT
# a model that generates ({ref}`err-predict-next`). Its pseudo-likelihood can *rank* sentences of equal length, with
# care {cite}`salazar2020`. What it does well is reading.
#
# (sec-bert-weights)=
# ## Published weights
#
# The real BERT has 12 blocks of width 768, or 24 of 1024, and was trained on 3.3 billion words {cite}`devlin2019`. We
# take a smaller relative with published weights. *all-MiniLM-L6-v2* has six blocks of width 384: every second block of
# a model that learned to imitate the attention of a larger one {cite}`wang2020`. It was then tuned to give similar
# vectors to texts that belong together {cite}`reimers2019`. It has lost its output layer on the way, so it cannot fill
# gaps any more. Everything else of a BERT is there. Its card says what one may do with it, and what is not known about
# it:

# %%
card = data.card("all-minilm")
for field in ("source", "licence", "problems"):
    print(f"{field}: {getattr(card, field)}")

# %% [markdown]
# ### WordPiece
#
# Weights are worth nothing without the tokenizer that they were trained with. BERT's is {term}`WordPiece`
# {cite}`schuster2012,wu2016`. It first *tidies* a text: control characters go, capitals and accents go in *uncased*
# models such as ours, every Chinese character becomes a word. Then it cuts at white space and around every punctuation
# mark. Then each word is spelled from the left, each time with the longest piece that there is. A piece that continues
# a word begins with `##`. By hand that is a loop of six lines.


# %%
def spelled(word, vocab):
    found, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1)
        fits = [e for e in ends if ("##" if start else "") + word[start:e] in vocab]
        if not fits:
            return []  # becomes [UNK], the whole word
        found.append(("##" if start else "") + word[start : fits[0]])
        start = fits[0]
    return found


# %%
minilm, tokenizer = bert.load("all-minilm")
for word in ("language", "unaffable", "perplexity", "tokenization", "語"):
    assert spelled(word, tokenizer.vocab) == pieces(word, tokenizer.vocab)
    print(f"{word}: {' '.join(spelled(word, tokenizer.vocab)) or '[UNK]'}")

# %% [markdown]
# How are the pieces chosen? Much as in the byte pair encoding of {ref}`ch-text`, by merging, with a score that asks
# how much likelihood a merge gains. Three differences to {term}`byte-level BPE` matter in use. Text is lost: from the
# ids of an uncased model nobody can tell *US* from *us*. A word with an unknown character becomes `[UNK]` as a whole,
# whereas bytes can spell anything. And what a model pays for these tokens can no longer be divided by the bytes of the
# text, so even a *causal* model on WordPiece would not stand in our table without more ado.

# %%
for text in ("Élan vital", "elan VITAL", "US or us?", "naïve 語言 🙂"):
    print(f"{text!r} -> {[tokenizer.tokens[i] for i in tokenizer.encode(text)]}")

# %% [markdown]
# A text becomes a row `[CLS] text [SEP]`. `[CLS]` is a place for whatever concerns the whole text, `[SEP]` ends each of
# one or two texts. Shorter rows are filled up with `[PAD]`, and the mask says where tokens stand.

# %%
ids_, inside = tokenizer.batch(["The film is a joy.", "A joy?"])
for row, mask in zip(ids_, inside, strict=True):
    print([tokenizer.tokens[i] for i in row], mask.int().tolist())

# %% [markdown]
# ### The same numbers
#
# Now the test that this book asks of every architecture. `transformers` {cite}`wolf2020` opens the original files, our
# code opens the original files, and both read the same texts, one of them with things in it that tokenizers stumble
# over. All hidden states must agree, after every block, to $10^{-5}$.

# %%
folder = Path(tempfile.mkdtemp())
for path, content in archive.members(card, r"/model/[\w.]+\.(json|txt|safetensors)$"):
    (folder / Path(path).name).write_bytes(content)
their_model = transformers.BertModel.from_pretrained(folder).eval()
their_tokenizer = transformers.BertTokenizer.from_pretrained(folder)

# %%
texts = [
    "The capital of France is Paris.",
    "Élan\tvital\u200b, 語言 & naïve: isn't it?!",
    "x",
    "word " * 300,
]
ids_, inside = tokenizer.batch(texts)
encoded = their_tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
assert torch.equal(ids_, encoded.input_ids)

# %%
with torch.no_grad():
    ours = minilm.states(ids_, inside)
    theirs = their_model(**encoded, output_hidden_states=True).hidden_states
worst = max((a - b)[inside].abs().max().item() for a, b in zip(ours, theirs, strict=True))
assert worst < 1e-5
print(f"{len(ours)} layers of hidden states, {inside.sum()} tokens: equal to 1e-5")

# %% [markdown]
# `bert.save` goes the other way: a folder that `from_pretrained` opens. The tests of the package do both with random
# weights as well, and compare tokens on every character of Unicode 3.2.
#
# (sec-bert-knows)=
# ## What the hidden states know
#
# Before BERT, a word had one vector, whatever stood around it. A hidden state belongs to a word *in its place*. Does it
# know more than the word? We need a property that depends on the place, and labels for it. Annotated corpora have
# {term}`parts of speech <part of speech>` and worse; we take one that lies in the text itself. The tokenizer has thrown
# away all capitals. In *New York* the word *new* was part of a name, in *a new law* it was not. **Can a hidden state
# tell that a word was written with a capital?** The sentences are from the Wikipedia corpus of {ref}`ch-text`; the
# first word of a sentence is left out, and so are sentences with letters outside ASCII.


# %%
def sentences(split, n):
    articles = getattr(data.load("wikipedia"), split)
    text = " ".join(article.text.replace("\n", " ") for article in articles)
    found = re.split(r"(?<=[.!?]) (?=[A-Z])", text)
    found = [s for s in found if s.isascii() and 8 <= len(s.split()) <= 40]
    picks = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:n]
    return [found[i] for i in picks]


def occurrences(sentence):
    """For each word but the first: the place of its first token, the word, and whether it had a capital."""
    place, found = 1, []
    for word in words(tidy(sentence, lower=False)):
        if word.isalpha():
            found.append((place, word.lower(), word[0].isupper()))
        place += len(tokenizer.encode(word))
    return found[1:]


# %%
print(occurrences("A new law of New York came in May."))

# %% [markdown]
# Few words have a capital, so we take all of these and equally many others: a coin is right half of the time. For each
# we keep the hidden state at its first token, in all seven layers, from the sum of embeddings (layer 0) to the last
# block (layer 6).


# %%
def collect(split, n):
    texts = sentences(split, n)
    found = [(i, *one) for i, text in enumerate(texts) for one in occurrences(text)]
    capital = [one for one in found if one[3]]
    order = np.random.default_rng(0).permutation(len(found))
    others = [found[i] for i in order if not found[i][3]][: len(capital)]
    by_text = defaultdict(list)
    for one in capital + others:
        by_text[one[0]].append(one[1:])
    vectors, words_, labels = [], [], []
    for places, ids, mask in bert.by_length(tokenizer, texts):
        with torch.no_grad():
            layers = torch.stack(minilm.states(ids, mask), 2)  # (B, T, layers, D)
        for row, text in enumerate(places):
            for place, word, label in by_text[text]:
                vectors.append(layers[row, place])
                words_.append(word)
                labels.append(label)
    return torch.stack(vectors), words_, torch.tensor(labels)


# %%
with threads():
    learn, learn_words, learn_labels = collect("train", 1000)
    exam, exam_words, exam_labels = collect("validation", 500)
print(
    f"occurrences: about {len(learn) / 1000:.1f} thousand to learn from, {len(exam) / 1000:.1f} to be tested on"
)

# %% [markdown]
# A {term}`probe` is a classifier so simple that what it finds must have been there. Ours is linear, fitted by least
# squares with a small ridge: one line of linear algebra, no training loop. Even a linear probe can learn words by
# heart, though: 384 numbers identify a word, and most words are always written one way. So it gets two controls. The
# first is a table of the training words, each with its usual spelling; a word that is not in it is taken for a name.
# The second is a {term}`control task` {cite}`hewitt2019control`: every *word* is given a random label, and the same
# probe learns those. What it can do there is memory, and a property of the place cannot be had by memory.


# %%
def probe(inputs, labels, ridge=10.0):
    """Weights of the best linear guess of labels ±1, with a constant."""
    x = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    y = 2.0 * labels.double() - 1
    return torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def says(weights, inputs):
    return torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double() @ weights > 0


def coin(word):
    return derived_seed(word) % 2 == 1


def share(guess, labels, where=slice(None)):
    return (guess == labels)[where].double().mean().item()


# %%
usual = defaultdict(Counter)
for word, label in zip(learn_words, learn_labels.tolist(), strict=True):
    usual[word][label] += 1
table_says = torch.tensor([usual[w][True] >= usual[w][False] for w in exam_words])
both_ways = {w for w, c in usual.items() if min(c[True], c[False]) >= 3}
unsure = torch.tensor([w in both_ways for w in exam_words])

# %% mystnb={"figure": {"name": "fig-bert-probe", "caption": "Probes for a lost capital, layer by layer, on articles that no probe has seen. Where a word is written both ways, only its neighbours can tell. The control has random labels, one a word: what it reaches is memory."}, "image": {"alt": "Line chart over layers 0 to 6. The probe on all words rises from 0.82 at layer 0 to 0.91 at layer 3 and falls to 0.84 at layer 6. On words written both ways it rises from 0.77 to 0.96 within two layers and falls back to 0.80. The control task starts at 0.66, reaches 0.68 at layer 1, and falls to 0.56."}}
coins = [torch.tensor([coin(w) for w in one]) for one in (learn_words, exam_words)]
known = torch.tensor([w in usual for w in exam_words])
lines = defaultdict(list)
for layer in range(7):
    guess = says(probe(learn[:, layer], learn_labels), exam[:, layer])
    control = says(probe(learn[:, layer], coins[0]), exam[:, layer])
    lines["capital, all words"].append(share(guess, exam_labels))
    lines["capital, words written both ways"].append(share(guess, exam_labels, unsure))
    lines["control, known words"].append(share(control, coins[1], known))
plots.lines(range(7), lines, "layer", "share right")
print(tabulate({"layer": range(7), **lines}, headers="keys", floatfmt=".2f"))
print(
    f"table of words: all {share(table_says, exam_labels):.2f}, "
    f"written both ways {share(table_says, exam_labels, unsure):.2f} (n = about {unsure.sum() / 100:.0f} hundred)"
)

# %% [markdown]
# Read {numref}`fig-bert-probe` from the line of the words written both ways. There the sum of embeddings (layer 0)
# does as well as the table and no better: it knows the word, and the word does not settle the matter. One block later
# nearly all of the missing part is there. It can only have come from the neighbours, by attention. On all words the
# probe beats the table in every layer, since it also judges words that the table has never seen.
#
# The control moves the other way. A coin tossed for each word is remembered best near the input, where a state is
# little but its word, and is forgotten on the way up. So the rise in the middle is not memory.
#
# And then the last layers *lose* the property again. This encoder was tuned to give whole texts similar vectors when
# they are about the same thing. Whether a word belonged to a name no longer matters for that. What a layer holds is
# what some later layer, or the objective, has use for.
#
# ### Neighbours in context
#
# The same can be seen without any probe. Take the occurrences of words that are written both ways. For each, find the
# most similar occurrence *of the same word*, by cosine, in the training articles. How often is it one of the same kind,
# a name for a name? {numref}`fig-bert-neighbours` has the answer by layer, with the same hill; below it stand four
# occurrences of *new*.

# %% mystnb={"figure": {"name": "fig-bert-neighbours", "caption": "How often the nearest occurrence of the same word has the same kind, name or not, by layer. The line is what a neighbour drawn at random would give."}, "image": {"alt": "Line chart over layers 0 to 6. At layer 0 the share is 0.68, close to the line of chance at 0.65; it rises to 0.92 at layer 3 and falls to 0.73 at layer 6."}}
learn_at = defaultdict(list)
for i, word in enumerate(learn_words):
    learn_at[word].append(i)


def nearest(layer, i):
    same = torch.tensor(learn_at[exam_words[i]])
    return same[torch.cosine_similarity(learn[same, layer], exam[i, layer], dim=-1).argmax()].item()


hard = [i for i in range(len(exam)) if unsure[i]]
agree = [
    np.mean([bool(learn_labels[nearest(layer, i)] == exam_labels[i]) for i in hard])
    for layer in range(7)
]
chance = np.mean(
    [usual[exam_words[i]][bool(exam_labels[i])] / len(learn_at[exam_words[i]]) for i in hard]
)
ax = plots.lines(range(7), {"nearest neighbour": agree}, "layer", "same kind")
ax.axhline(chance, color="0.4", linestyle=":", label="at random")
ax.legend()
print("by layer:", " ".join(f"{a:.2f}" for a in agree), f"  at random: {chance:.2f}")

# %%
context = [
    "He was born in New York and moved to Boston.",
    "The parliament passed a new law against it.",
    "The club plays in New Jersey every summer.",
    "They built a new house near the river.",
]
ids_, inside = tokenizer.batch(context)
place = (ids_ == tokenizer.vocab["new"]).int().argmax(1)
with torch.no_grad():
    layers = minilm.states(ids_, inside)
for layer in (0, 3, 6):
    v = nn.functional.normalize(layers[layer][torch.arange(4), place], dim=-1)
    print(f"layer {layer}\n", (v @ v.T).numpy().round(2))

# %% [markdown]
# Rows and columns are the four sentences. At layer 0 all four are nearly the same vector: one word, and a little
# position. Higher up, the two parts of names move together and the two adjectives do, and the pairs part. This is
# what *contextual* means, and it is why the similarity of two words is no longer one number {cite}`ethayarajh2019`.
# The essays say that a model "understands" its text. What can be shown is more modest and more useful: properties
# that depend on context are there to be read off by a linear function ({cite}`tenney2019` has eight more of them, in
# roughly the order of the classical pipeline).
#
# (sec-bert-sentences)=
# ## One vector for a text
#
# A classifier or a search needs one vector for a text, not one for each token. `bert.embed` takes the mean of the last
# hidden states, padding aside, and scales it to length one, so a product of two vectors is a cosine. That is how this
# model was tuned {cite}`reimers2019`, on pairs of texts that belong together. What did the tuning teach it to care
# about? Vary two things in a sentence, what it speaks of and what it says of it:

# %%
topics = ["acting", "music", "plot", "camera work"]
verdicts = [("wonderful", "terrible"), ("brilliant", "awful"), ("a delight", "a bore")]
grid = [(t, v) for t in topics for pair in verdicts for v in pair]
vectors = bert.embed(minilm, tokenizer, [f"The {t} is {v}." for t, v in grid])
cosines = (vectors @ vectors.T).numpy()

# %%
opposite = {frozenset(pair) for pair in verdicts}
pairs = [(i, j) for i in range(len(grid)) for j in range(i)]
turned = [
    cosines[p]
    for p in pairs
    if grid[p[0]][0] == grid[p[1]][0] and {grid[p[0]][1], grid[p[1]][1]} in opposite
]
moved_on = [
    cosines[p] for p in pairs if grid[p[0]][0] != grid[p[1]][0] and grid[p[0]][1] == grid[p[1]][1]
]
print(f"same topic, opposite verdict: mean cosine {np.mean(turned):.2f}")
print(f"same verdict, other topic:    mean cosine {np.mean(moved_on):.2f}")

# %% [markdown]
# To this model a sentence with the opposite verdict is closer than one with the same verdict on something else. That is
# what it was tuned for: texts belong together when they are about the same thing. For a search it is right. For the
# question whether somebody liked a film it bodes ill, and we come back to it.
#
# (sec-bert-sentiment)=
# ## Five ways to read a review
#
# Now the task. *Rotten Tomatoes* {cite}`pang2005` has short sentences from film reviews, half of them for the film and
# half against. The rights in these sentences are unclear: critics wrote them, researchers gave them out. So the book
# fetches them only when this cell asks for them, passes none of them on, and prints none of them, which is why you will
# see no example here except in your own notebook.

# %%
reviews = data.load_labelled("rotten-tomatoes")
print(reviews.card.licence)
text_of = {split: [t for t, _ in getattr(reviews, split)] for split in data.SPLITS}
label_of = {split: np.array([y for _, y in getattr(reviews, split)]) for split in data.SPLITS}
for split in data.SPLITS:
    print(f"{split}: {len(text_of[split])} texts, {label_of[split].mean():.2f} positive")

# %% [markdown]
# (sec-bert-leak)=
# ### First the split
#
# How should a test set be drawn? At random, says every tutorial. The table that these reviews come from is sorted,
# and neighbours in it resemble each other: reviews of one film stand together, share names and plots, and mostly
# agree. A random split puts half a film into training and asks about the other half. What that flatters can be
# measured. The same archive holds 25,000 longer reviews from IMDb {cite}`maas2011`, with at most thirty for one film.
# We train one classifier twice: on *blocks* of fifty neighbours (the split of this book), and on a random split of
# the same reviews with the same sizes. The classifier is a {term}`bag of words`: TF-IDF weights of words and pairs of
# words, and logistic regression.

# %%
imdb = data.load_labelled("imdb")
everything = [one for split in data.SPLITS for one in getattr(imdb, split)]
labels = np.array([label for _, label in everything])
hashed = HashingVectorizer(n_features=2**18, ngram_range=(1, 2), norm=None, alternate_sign=False)
counts = hashed.transform([text for text, _ in everything])  # each text by itself, so nothing leaks
sizes = [len(getattr(imdb, split)) for split in data.SPLITS]


def scored(order):
    """Train on the first part of an order, test on the last; accuracy on the test part."""
    train_at, test_at = order[: sizes[0]], order[-sizes[2] :]
    model = make_pipeline(TfidfTransformer(sublinear_tf=True), LogisticRegression(C=10))
    return model.fit(counts[train_at], labels[train_at]).score(counts[test_at], labels[test_at])


# %%
by_block = scored(np.arange(len(labels)))
at_random = scored(np.random.default_rng(0).permutation(len(labels)))
print(f"blocks {by_block:.3f}; random {at_random:.3f}")
print(f"half width of a 95 % interval: {half_width(by_block, sizes[2]):.3f}")

# %% [markdown]
# Same reviews, same classifier, same sizes. The random split reports more, by over twice the half width of the
# interval, and the surplus is hardly ability: the other half of the same films was there to learn from. Whoever
# compares a published 90 % with an honest 88 % may throw away the better method. So the split of this book takes
# blocks: within each class fifty neighbours stay together, seven blocks of ten train, one validates, two test, and what
# still nearly repeats a later split is removed. A film may straddle the border of a block, so even this split flatters
# a little.
#
# (On long reviews like these, the bag of words is hard to beat. With a clear opinion in hundreds of words, there are
# always some that give it away {cite}`wangmanning2012`. The sentences of Rotten Tomatoes have twenty words on average,
# and are the better test for a reader.)
#
# ### A coin, a word list, a bag of words
#
# Three baselines, in the order of their age. The *majority* class knows nothing. A {term}`lexicon` is a list of words
# with a number for each, made by people; VADER {cite}`hutto2014` has 7,500 words and a few rules for negation and
# emphasis, and needs no training at all. The bag of words learns its own list. Its one setting, the strength of the
# penalty, is chosen on validation.

# %%
right = {"majority": label_of["test"] == round(label_of["train"].mean())}

vader = SentimentIntensityAnalyzer()
compound = np.array([vader.polarity_scores(text)["compound"] for text in text_of["test"]])
right["lexicon"] = (compound > 0) == label_of["test"]
print(f"sentences without a word of the lexicon: {np.mean(compound == 0):.2f}")

# %%
bag = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
bags = {"train": bag.fit_transform(text_of["train"])}
bags |= {split: bag.transform(text_of[split]) for split in ("validation", "test")}


def best(inputs, penalties, steps=()):
    """Logistic regression whose penalty is chosen on validation."""
    tried = [
        make_pipeline(*steps, LogisticRegression(C=C, max_iter=2000)).fit(
            inputs["train"], label_of["train"]
        )
        for C in penalties
    ]
    return max(tried, key=lambda model: model.score(inputs["validation"], label_of["validation"]))


# %%
word_model = best(bags, (1, 3, 10, 30))
right["bag of words"] = word_model.predict(bags["test"]) == label_of["test"]
weights, names = word_model[-1].coef_[0], bag.get_feature_names_out()
order = weights.argsort()
print("most against:", *names[order[:8]], "\nmost for:    ", *names[order[::-1][:8]], sep="  ")

# %% [markdown]
# (sec-bert-frozen)=
# ### The frozen probe
#
# Now the encoder. Leave its weights as they are, embed every sentence, and train a linear classifier on the vectors.
# This is how embeddings are often used, since the expensive part is done once. We keep the mean hidden states of
# *all* layers; the reason will appear.


# %%
@torch.no_grad()
def layer_means(texts):
    means = torch.empty(len(texts), 7, 384)
    for places, ids, mask in bert.by_length(tokenizer, texts, length=64):
        means[places] = torch.stack([mean_pool(x, mask) for x in minilm.states(ids, mask)], 1)
    return means.numpy()


# %%
with threads():
    vectors = {split: layer_means(text_of[split]) for split in data.SPLITS}
last = {split: v[:, 6] for split, v in vectors.items()}
right["frozen probe"] = (
    best(last, (0.001, 0.01, 0.1), [StandardScaler()]).predict(last["test"]) == label_of["test"]
)
for name in ("bag of words", "frozen probe"):
    print(f"{name}: {right[name].mean():.2f}")

# %% [markdown]
# The encoder was tuned on more than a billion pairs of texts, as its makers say, and the bag of words has read 6,129
# sentences. Yet on these vectors a linear classifier does no better than counting words; it does a little worse. Why?
# Three guesses can be tested:
#
# - *The vectors are too short.* 384 numbers against tens of thousands of words and pairs. Then a bag of words
#   squeezed to 384 numbers should lose as much.
# - *The information is in the model, but not in its last layer.* Then other layers, or all of them together, should do
#   better.
# - *The tuning threw it away.* The last section has shown what the vectors care about. Then the last layer should be
#   worse than those below it.

# %%
views = {
    f"mean of layer {layer}": {s: v[:, layer] for s, v in vectors.items()} for layer in (0, 2, 4, 6)
}
views["all seven layers"] = {s: v.reshape(len(v), -1) for s, v in vectors.items()}
squeeze = TruncatedSVD(384, n_iter=2, random_state=0).fit(bags["train"])
views["bag of words, squeezed to 384"] = {s: squeeze.transform(b) for s, b in bags.items()}
answer = {split: torch.tensor(label_of[split] == 1) for split in data.SPLITS}


def least_squares(view):
    """Accuracy of a linear probe on validation and on test; the ridge is the best on validation."""
    scale = StandardScaler().fit(view["train"])
    inputs = {s: torch.tensor(scale.transform(view[s])) for s in data.SPLITS}
    fitted = [probe(inputs["train"], answer["train"], ridge) for ridge in (100, 1000, 10000)]
    splits = ("validation", "test")
    scores = [tuple(share(says(w, inputs[s]), answer[s]) for s in splits) for w in fitted]
    return max(scores, key=lambda pair: pair[0])  # level on validation: the smaller ridge


# %% mystnb={"figure": {"name": "tab-bert-why", "caption": "Why the frozen probe does not win: linear probes on other views of the same sentences. The ridge is chosen on validation, so the test column is the one to trust. Half widths of 95 % intervals: 0.03 and 0.02."}}
table = [(name, view["train"].shape[1], *least_squares(view)) for name, view in views.items()]
whole = [word_model.score(bags[s], label_of[s]) for s in ("validation", "test")]
table.append(("bag of words, whole", bags["train"].shape[1], *whole))
heads = ["view", "numbers per text", "validation", "test"]
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt=".2f"))

# %% [markdown]
# {numref}`tab-bert-why` decides, if it is read with care. On *validation* the middle layer and all layers together
# shine, four points ahead of the last. On *test*, which had no part in any choice, the lead of the middle layer is
# about half as large. Whoever looks at many numbers and keeps the best keeps some luck with it, and 800 sentences
# leave room for three points of luck. One paired interval says it for layer 4:


# %%
def gain(a, b):
    """How much more often b is right than a, on the same texts, and half of its paired 95 % interval."""
    d = b.astype(float) - a.astype(float)
    return d.mean(), 1.96 * d.std(ddof=1) / math.sqrt(len(d))


middle = {split: v[:, 4] for split, v in vectors.items()}
model = best(middle, (0.001, 0.01, 0.1), [StandardScaler()])
middle_right = model.predict(middle["test"]) == label_of["test"]
print(f"probe of layer 4 on the test sentences: {middle_right.mean():.2f}")
more, width = gain(right["frozen probe"], middle_right)
print(f"more than the probe of the last layer, paired: {more:.2f} ± {width:.2f}")

# %% [markdown]
# The probes of {numref}`tab-bert-why` are fitted by least squares, these two by logistic regression, as the frozen
# probe was, and with it nothing is left of the lead. So the last layer has thrown little away, and another layer is no
# cure. What remains is the first guess. *At equal length* the encoder is ahead: its 384 numbers are worth more than
# 384 numbers made of the bag. But the bag is not that short. It has a number for every word and pair, tens of
# thousands of them, and can give each word of praise a weight of its own, where a mean over a sentence has room for
# what the sentence is about and little else. With all layers, seven times as long, the encoder draws level. Nobody
# chose those directions for sentiment, and a linear classifier can only use the ones that are there.
#
# That suggests what to do: let the task choose the directions.
#
# (sec-bert-finetuning)=
# ## Fine-tuning
#
# {term}`Fine-tuning <fine-tuning>` lets everything move: one linear layer on the mean of the hidden states, zero at the
# start, and every weight of the encoder trained with it. The loss is the cross-entropy of the class, our
# `contract.loss` on a vocabulary of two. Document 1 says that fine-tuning maximises accuracy
# ({ref}`err-accuracy-objective`). It cannot, since accuracy does not change when weights change a little; the
# cell after the training looks at that, and {ref}`ch-finetuning` looks closer.
#
# Three things keep it short. Texts of similar length share a batch, because padding costs as much as text. The learning
# rate is small, $10^{-4}$, and falls from there to zero: the weights are good and should not be thrown away. And every
# text is read once.

# %%
examples, batch_size = reviews.train, 16
stream = bert.labelled(tokenizer, examples, batch_size, length=64)
filled = np.mean([stream(step).inputs[1].double().mean().item() for step in range(100)])
print(f"real tokens among those computed: {filled:.2f}")

# %%
fresh = Classifier(minilm, n_classes=2)
first = stream(0)
print(f"first loss {loss(fresh(*first.inputs), first.targets):.2f}, log 2 = {math.log(2):.2f}")

# %% [markdown]
# `bert.classifier` trains such a model on this stream, with AdamW and the schedule of {ref}`ch-training`. Since
# {ref}`ch-classification` will use it again, it is kept once it is trained.

# %% tags=["nbval-ignore-output", "remove-output"]
tuned, tuned_log = bert.classifier("rotten-tomatoes")

# %%
with threads():
    logits = bert.logits(tuned, tokenizer, text_of["test"])
right["fine-tuned"] = logits.argmax(1).numpy() == label_of["test"]

# %% tags=["nbval-ignore-output"]
seconds = tuned_log[-1]["seconds"]
print(f"{seconds:.0f} s of training on the machine that stored this page")

# %% [markdown]
# Here is why accuracy cannot be what gradient descent follows. Move the last bias by a little, and by a little more:
# the loss answers every time, the accuracy stands still, until a text changes sides and it jumps.

# %% tags=["nbval-ignore-output"]
answers = torch.tensor(label_of["test"])
for nudge in (0.0, 1e-4, 1e-3, 1e-2, 1e-1):
    moved_logits = logits.double() + torch.tensor([0.0, nudge])
    accuracy = (moved_logits.argmax(1) == answers).double().mean()
    print(f"bias + {nudge:.4f}: loss {loss(moved_logits, answers):.6f}, accuracy {accuracy:.4f}")

# %% [markdown]
# (sec-bert-result)=
# ### The result
#
# {numref}`tab-bert-result` has all five on the same 1,600 test sentences. The last column compares each with the one
# above it. It is a *paired* interval: both have read the same sentences, and those that both find hard cancel. With
# $a_i, b_i \in \{0, 1\}$ for right and wrong,
#
# $$
# \bar d \pm 1.96 \sqrt{\frac{\operatorname{Var}(d)}{n}}, \qquad d_i = b_i - a_i .
# $$ (eq-bert-paired)


# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-bert-result", "caption": "Sentiment of 1,600 held-out sentences of Rotten Tomatoes. Share right with the half width of its 95 % interval, and the gain over the row above with its paired interval."}}
table, before = [], None
for name, hits in right.items():
    step = "" if before is None else "{:+.2f} ± {:.2f}".format(*gain(before, hits))
    share_right = hits.mean()
    table.append((name, f"{share_right:.2f}", f"{half_width(share_right, len(hits)):.2f}", step))
    before = hits
Markdown(tabulate(table, ["method", "right", "±", "gain"], tablefmt="pipe", disable_numparse=True))

# %%
ahead, width = gain(right["bag of words"], right["fine-tuned"])
print(f"fine-tuning is ahead of the bag of words beyond the interval: {ahead > width}")

# %% [markdown]
# Read the table from the top. People's word list is worth something without a single label. Learning one's own list
# from 6,129 labels is worth more. The frozen vectors of a model that was tuned on more than a billion pairs of texts
# add nothing to that. And letting the same model move, for one pass over the same sentences, adds a little more than
# half of what each of the first two steps added.
#
# The price belongs to the result. The bag of words takes a fraction of a second, the fine-tuning some minutes on two
# cores, several hundred times as long, and afterwards every new sentence costs 10 million multiplications a token.
# Whether five or six points are worth that depends on what a mistake costs. The interval in the table is that of the
# test sentences. It does not contain what another seed would give; the seeds of the next figure are four to eight
# points apart where labels are few.
#
# (sec-bert-curve)=
# ## How many labels?
#
# Labels cost money, so the useful question is not who wins with 6,129 of them. {numref}`fig-bert-curve` repeats the
# comparison with 50 to all labels. Bag of words and probe are computed here, five random draws for each number; the
# fine-tuned points up to 800 were recorded, two seeds each, as a run for each would take longer than this notebook;
# the last one is the classifier above. All of it is measured on the validation sentences, since a curve is something
# one looks at and draws conclusions from. The test set has been looked at in several tables above, and has decided
# nothing: whatever was chosen was chosen on validation.


# %%
def draw(n, seed):
    return np.random.default_rng(seed).permutation(len(label_of["train"]))[:n]


def learning_curve(inputs, C, steps=()):
    curve = {}
    for n in sizes_tried:
        picks = [draw(n, seed) for seed in range(5 if n < 6000 else 1)]
        models = [
            make_pipeline(*steps, LogisticRegression(C=C, max_iter=2000)).fit(
                inputs["train"][p], label_of["train"][p]
            )
            for p in picks
        ]
        curve[n] = [m.score(inputs["validation"], label_of["validation"]) for m in models]
    return curve


# %%
sizes_tried = (50, 200, 800, 6129)
# %%
curves = {
    "bag of words": learning_curve(bags, 10),
    "frozen probe": learning_curve(last, 0.01, [StandardScaler()]),
    "fine-tuned": defaultdict(list),
}
for row in presets.recorded("labels")["rows"]:
    if (row["start"], row["how"]) == ("pretrained", "full") and row["labels"] in sizes_tried:
        curves["fine-tuned"][row["labels"]].append(row["log"][-1]["accuracy"])
with threads():
    guess = bert.logits(tuned, tokenizer, text_of["validation"]).argmax(1).numpy()
curves["fine-tuned"][6129].append((guess == label_of["validation"]).mean())

# %% mystnb={"figure": {"name": "fig-bert-curve", "caption": "Accuracy on 800 validation sentences by the number of labelled sentences, from 50 to all 6,129. Means over draws or seeds; the bands reach from the worst to the best of them."}, "image": {"alt": "Line chart with a logarithmic axis of labels. All methods rise. With 50 labels the frozen probe is ahead of bag of words; the bag catches up as labels grow and ends just below it. The fine-tuned encoder is close to the frozen probe up to 800 labels and clearly ahead with all of them."}}
means = {name: [np.mean(curve[n]) for n in sizes_tried] for name, curve in curves.items()}
bands = {
    name: ([min(curve[n]) for n in sizes_tried], [max(curve[n]) for n in sizes_tried])
    for name, curve in curves.items()
}
ax = plots.lines(sizes_tried, means, "labelled sentences", "share right", log="x", bands=bands)
plots.plain_ticks(ax, "x")
print(
    tabulate({"labels": sizes_tried, **means}, headers="keys", floatfmt=("d", ".2f", ".2f", ".2f"))
)

# %% [markdown]
# Three things to read off. With 50 labels the bag of words is a coin, because it knows no word that it has not seen
# with a label; it catches up with the frozen vectors only when there are thousands. The frozen vectors are the best
# bargain for few labels: up to some hundreds, training all weights gains little over training the head. And from 800
# labels to all of them the fine-tuned encoder gains eight points where the frozen one gains three, since it can still
# change its directions. Pretraining has not replaced labels; it has made each of them worth more.
# {ref}`ch-finetuning` asks the counter-question, what the same network does *without* its pretraining.
#
# One caution about the figure: the points of the fine-tuned encoder rest on two seeds, or one at the right end, and 800
# validation sentences measure a share to three points either way.
#
# (sec-bert-document)=
# ## The class of document 3
#
# Document 3, section 5, has a classifier of its own. Here it is, word for word but for the folder in place of the
# hub's name. (With a network, uncomment the original, and get a model with 110 million parameters.)


# %%
from transformers import BertModel, BertTokenizer


class BertForSequenceClassification(nn.Module):
    def __init__(self, num_labels):
        super(BertForSequenceClassification, self).__init__()  # noqa: UP008
        self.bert = BertModel.from_pretrained(folder)  # 'bert-base-uncased'
        self.classifier = nn.Linear(self.bert.config.hidden_size, num_labels)

    def forward(self, input_ids, attention_mask):
        outputs = self.bert(input_ids, attention_mask=attention_mask)
        pooled_output = outputs[1]
        logits = self.classifier(pooled_output)
        return logits


# %% [markdown]
# It runs. What does it do? The sample imports a tokenizer and never calls it, has no labels, no loss and no optimizer
# ({ref}`err-bert-untrained`). So we call the tokenizer for it, and ask three copies of the class, each with its own
# random last layer, about two hundred validation sentences, a hundred of each class.

# %%
hundred = [*text_of["validation"][:100], *text_of["validation"][-100:]]
hundred_labels = torch.tensor([*label_of["validation"][:100], *label_of["validation"][-100:]])
encoded = BertTokenizer.from_pretrained(folder)(
    hundred, padding=True, truncation=True, return_tensors="pt"
)
for seed in range(3):
    torch.manual_seed(seed)
    theirs = BertForSequenceClassification(num_labels=2).eval()
    with torch.no_grad(), threads():
        logits = theirs(encoded["input_ids"], encoded["attention_mask"])
    print(f"random layer {seed}: {(logits.argmax(1) == hundred_labels).double().mean():.2f} right")

# %% [markdown]
# Around one half, as a coin. The class is a place to put a classifier, and the classifier is missing. Three more
# remarks belong to it.
#
# `outputs[1]` has a name, `pooler_output`, and is not an average ({ref}`err-bert-pooler`). It is the last hidden
# state of `[CLS]` through one more linear layer and a tanh:

# %%
with torch.no_grad():
    outputs = theirs.bert(encoded["input_ids"][:4], attention_mask=encoded["attention_mask"][:4])
    dense = theirs.bert.pooler.dense
    by_hand = torch.tanh(outputs.last_hidden_state[:, 0] @ dense.weight.T + dense.bias)
torch.testing.assert_close(by_hand, outputs[1])
assert outputs[1] is outputs.pooler_output
print("outputs[1] = tanh(W h[CLS] + b)")

# %% [markdown]
# In the original BERT this layer was trained on the next-sentence task, which later models dropped
# {cite}`liu2019roberta`. MiniLM never had that task, and its tuning used the mean. Our `Classifier` therefore takes the
# mean as well. Beside the class of the document:

# %%
ours = Classifier(minilm, n_classes=2, dropout=0.0).eval()
ids_, inside = tokenizer.batch(hundred)
with torch.no_grad(), threads():
    hidden = their_model(input_ids=ids_, attention_mask=inside.long()).last_hidden_state
    ours.head.weight.normal_()
    torch.testing.assert_close(
        ours(ids_, inside), ours.head(mean_pool(hidden, inside)), atol=1e-3, rtol=1e-3
    )
print("the same encoder under both; the head of ours reads the mean")

# %% [markdown]
# And the name. `transformers` has a class `BertForSequenceClassification` of its own, with dropout, a loss, and a way
# to save it. After the cell above, that name means the document's class in this notebook, and whoever imports the
# library's below it gets the other one back, silently ({ref}`err-bert-name`):

# %%
mine = BertForSequenceClassification
from transformers import BertForSequenceClassification

print("the same class:", mine is BertForSequenceClassification)
arguments = inspect.signature(BertForSequenceClassification.forward).parameters
print("the library's takes labels, and gives a loss:", "labels" in arguments)

# %% [markdown]
# ## The answer
#
# *What does a model gain by looking at both sides, what does it give up, and is it worth it?* It gains what the other
# side of a gap is worth: by counting, 79 gaps in 100 are filled instead of 52 ({numref}`tab-bert-counting`). It gives
# up the chain rule: no probability of a text, no bits per byte, no writing ({prf:ref}`thm-bert-pseudo`), and it
# learns from a seventh of the tokens that it reads. On a task of reading the bargain pays, once the weights may move:
# {numref}`tab-bert-result` has fine-tuning about five points ahead of counting words. With the weights frozen it did
# not pay, and with a moment of bag of words you already have most of what can be had.
#
# ## What we learnt
#
# - Two sides of a gap are worth far more than one. Counting shows it before any network does.
# - Without a causal mask the target must be taken out of the input; that is all there is to `[MASK]`.
# - Few positions of a masked row have a target, so a masked model learns slowly at first.
# - The product of gap probabilities is not the probability of a text, and always looks too good.
# - Hidden states hold properties of a word in its place. A probe shows it only beside a table and a control task.
# - Vectors tuned for similarity of content put opposite verdicts close together.
# - The best of many numbers on validation is partly luck. Test it once on data that had no part in the choice.
# - Split where the data are clumped, not at random. Neighbours leak.
# - Majority, lexicon, bag of words, probe, fine-tuning: report all five, with intervals, on one test set that
#   chose none of them.
# - A classifier without labels and a loss is a coin.
#
# ## Exercises
#
# ```{exercise} The price of a row, gap by gap
# :label: ex-bert-pseudo
#
# Write `pseudo(model, ids, mask_id)`: the logarithm of the pseudo-likelihood {eq}`eq-bert-pseudo` of one row of ids
# `(T,)`, each token hidden in turn, as a float. The model maps `(B, T)` to logits `(B, T, V)`. One call of the model is
# enough: a batch of T copies, each with another gap.
# ```


# %% tags=["exercise"]
def pseudo(model, ids, mask_id):
    """The log-probability of each token given all others, summed over the row."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def pseudo(model, ids, mask_id):
    """The log-probability of each token given all others, summed over the row."""
    place = torch.arange(len(ids))
    copies = ids.repeat(len(ids), 1)
    copies[place, place] = mask_id
    with torch.no_grad():
        log_probs = model(copies)[place, place].log_softmax(-1)
    return log_probs[place, ids].sum().item()


# %% tags=["check"]
def echo(ids):
    """Knows that all tokens of a row are alike: certain of any token that it sees elsewhere."""
    seen = nn.functional.one_hot(ids, 4).sum(1, keepdim=True).expand(-1, ids.shape[1], -1).double()
    return torch.where(seen > 0, 0.0, -30.0).index_fill(-1, torch.tensor([3]), -30.0)


assert abs(pseudo(echo, torch.tensor([1, 1, 1]), 3)) < 1e-6, "each is certain, given the others"
assert abs(pseudo(echo, torch.tensor([0, 1]), 3) + 60) < 1e-3, "hidden, each looks like the other"
toy = bert.MaskedLM(Config(5, context=6, d_model=16, n_layers=1, n_heads=2)).eval()
row = torch.tensor([[0, 2, 1, 3, 1]])
wanted = 0.0
for t in range(5):
    asked = row.clone()
    asked[0, t] = 4
    wanted += toy(asked)[0, t].log_softmax(-1)[row[0, t]].item()
assert abs(pseudo(toy, row[0], 4) - wanted) < 1e-4, "one gap at a time"
even, many = lambda ids: torch.zeros(*ids.shape, 4), torch.zeros(600, dtype=torch.long)
assert abs(pseudo(even, many, 3) + 600 * math.log(4)) < 0.1, "add logarithms"
assert isinstance(pseudo(toy, row[0], 4), float), "as a float"
print("right")

# %% [markdown]
# ```{exercise} Greed against thrift
# :label: ex-bert-pieces
#
# WordPiece takes the longest piece each time. Write `fewest(word, vocab)`: the least *number* of pieces that spell the
# word, `##` and all; `None` where it cannot be spelled. (Work from the left, and keep for every prefix the least number
# of pieces that reach it.) The check finds words that greed spells with more pieces than needed, and some that it
# cannot spell at all.
# ```


# %% tags=["exercise"]
def fewest(word, vocab):
    """The least number of pieces that spell a word, or None."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def fewest(word, vocab):
    """The least number of pieces that spell a word, or None."""
    least = {0: 0}
    for end in range(1, len(word) + 1):
        ways = [
            least[start] + 1
            for start in least
            if ("##" if start else "") + word[start:end] in vocab
        ]
        if ways:
            least[end] = min(ways)
    return least.get(len(word))


# %% tags=["check"]
tiny = {"ab": 0, "a": 1, "##bcd": 2, "##c": 3, "##d": 4}
assert fewest("abcd", tiny) == 2 and len(pieces("abcd", tiny)) == 3, (
    "greed takes 'ab' and pays for it"
)
assert fewest("abcx", tiny) is None and fewest("bcd", tiny) is None, (
    "a piece with ## cannot begin a word"
)
assert fewest("aab", tiny) is None, "a piece without ## cannot go on a word"
assert fewest("a", tiny) == 1 and fewest("abc", {"ab": 0, "a": 0, "##bc": 0}) == 2
traps = dict.fromkeys("w ##x ##yz wxy ##z ##ab ##a ##bcd ##c ##d".split(), 0)
assert fewest("wxyzabcd", traps) == 4, "wxy ##z ##a ##bcd"
some_words = sorted(
    {w for s in sentences("validation", 300) for w in words(tidy(s)) if w.isalpha()}
)
greedy = {w: len(pieces(w, tokenizer.vocab)) for w in some_words}
assert all(fewest(w, tokenizer.vocab) <= n for w, n in greedy.items())
longer = sum(n > fewest(w, tokenizer.vocab) for w, n in greedy.items())
print(f"{len(some_words)} words; greed takes more pieces than needed for {longer}")

# %% [markdown]
# ```{exercise} Pairs of texts
# :label: ex-bert-pairs
#
# BERT can read two texts in one row. Write `pair(a, b, length)` for two lists of ids: the ids of
# `[CLS] a [SEP] b [SEP]` and the types, 0 up to and including the first `[SEP]`, then 1. If the row is too long, cut
# the end of the *longer* of the two texts, one token at a time (of equally long ones the second), until it fits.
# ```


# %% tags=["exercise"]
def pair(a, b, length):
    """Ids and types of a row with two texts, at most `length` long."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def pair(a, b, length):
    """Ids and types of a row with two texts, at most `length` long."""
    a, b = list(a), list(b)
    while len(a) + len(b) + 3 > length:
        (a if len(a) > len(b) else b).pop()
    first, second = [tokenizer.cls_id, *a, tokenizer.sep_id], [*b, tokenizer.sep_id]
    return first + second, [0] * len(first) + [1] * len(second)


# %% tags=["check"]
for a, b, length in (
    ("a b c", "d e", 99),
    ("a b c d e f", "g h", 9),
    ("a b", "c d e f", 7),
    ("a b c", "d e f", 8),
):
    wanted = their_tokenizer(a, b, truncation="longest_first", max_length=length)
    got = tuple(pair(tokenizer.encode(a), tokenizer.encode(b), length))
    assert len(got[0]) <= length and len(got[0]) == len(got[1])
    if len(a) != len(b):
        assert got == (wanted["input_ids"], wanted["token_type_ids"])
assert tuple(pair([7], [8], 99)) == ([101, 7, 102, 8, 102], [0, 0, 0, 1, 1])
a, b = [1, 2, 3, 4, 5], [7, 8, 9]
assert tuple(pair(a, b, 8)) == ([101, 1, 2, 3, 102, 7, 8, 102], [0] * 5 + [1] * 3), "in turn"
assert (a, b) == ([1, 2, 3, 4, 5], [7, 8, 9]), "the lists that were given must stay as they are"
print("rows of two texts as the library makes them")

# %% [markdown]
# ```{exercise} Is the difference real?
# :label: ex-bert-paired
#
# Two classifiers are right on `a` and `b`, arrays of truth values over the same texts. Write `swap_test(a, b, n,
# seed)`: the share of `n` random re-labellings whose difference of accuracies is at least as large, in absolute
# value, as the one observed. In a re-labelling, each text decides by a coin whether the two classifiers exchange
# their results there.
# ```


# %% tags=["exercise"]
def swap_test(a, b, n=2000, seed=0):
    """The p-value of a paired permutation test for the difference of two accuracies."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def swap_test(a, b, n=2000, seed=0):
    """The p-value of a paired permutation test for the difference of two accuracies."""
    d = b.astype(float) - a.astype(float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, len(d)))
    return np.mean(np.abs((signs * d).mean(1)) >= abs(d.mean()) - 1e-12)


# %% tags=["check"]
same = np.array([True, False] * 50)
assert swap_test(same, same) == 1.0, "no difference, no evidence"
none, full = np.zeros(100, bool), np.ones(100, bool)
assert swap_test(none, full) < 0.01 and swap_test(full, none) < 0.01, "in absolute value"
assert full.all() and not none.any(), "the arrays that were given must stay as they are"
assert swap_test(same, same | (np.arange(100) < 12)) < 0.1, "the pairs are lost"
few = np.array([False] * 3 + [True] * 97)
assert 0.2 < swap_test(few, full) < 0.3, "three coins agree in 2 of 8 cases"
assert round(3 * swap_test(few, full, 3), 9) in (0, 1, 2, 3), "a share of n re-labellings"
drawn = [swap_test(few, full, 500, seed) for seed in (1, 1, 2, 3, 4)]
assert drawn[0] == drawn[1] and len(set(drawn)) > 1, "seed is not used"
assert swap_test(right["majority"], right["fine-tuned"], 500) < 0.01
print(
    f"fine-tuned against bag of words: p below 0.01: {swap_test(right['bag of words'], right['fine-tuned']) < 0.01}"
)

# %% [markdown]
# ## Further reading
#
# - Devlin and colleagues {cite}`devlin2019`: the paper. Liu and colleagues {cite}`liu2019roberta` repeat it with care,
#   and find what mattered: more data and longer training, not the next-sentence task.
# - Clark and colleagues {cite}`clark2020electra` ask about every token instead of one in seven, by letting a small
#   model replace some of them.
# - Wettig and colleagues {cite}`wettig2023` ask whether 15 % is right.
# - Salazar and colleagues {cite}`salazar2020`: what pseudo-likelihoods are good for.
# - Hewitt and Liang {cite}`hewitt2019control` on what a probe proves; Tenney and colleagues {cite}`tenney2019` on the
#   order in which BERT's layers work.
# - Reimers and Gurevych {cite}`reimers2019`: sentences as vectors.
# - Wang and Manning {cite}`wangmanning2012`: how good a bag of words can be on short reviews.
