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
# (ch-t5)=
# # T5: from text to text
#
# **How does one network turn any text into any other, and how can we tell a good translation from a plausible one?**
#
# *About three minutes on two cores the first time, most of them for two trainings, and one afterwards. You need
# {ref}`ch-attention` for attention and masks, {ref}`ch-transformer` for the block, and {ref}`ch-generation` for greedy
# decoding and beams.*
#
# GPT goes on with a text. Many tasks do not look like that. A translation has a source that is finished before the
# first word of the target is written; so have a summary, a corrected sentence, a date to be brought into one format.
# For such tasks the Transformer was invented {cite}`vaswani2017`: an {term}`encoder` reads the source, a
# {term}`decoder` writes the target and looks back at what was read. {term}`T5` {cite}`raffel2020` is that model with
# two ideas on top. *Every* task is written as text in, text out, with a prefix that names the task. And before any of
# them, the model is trained to put removed pieces back into ordinary text.
#
# Here the right answers are known exactly, so that a mark is a fact and not an opinion. The plan:
#
# 1. four tasks with exact references, and what is held out of each, so that memory and skill can be told apart;
# 2. the one part that is new, positions as a bias on distances, derived, drawn and checked;
# 3. the whole model by hand, and its logits beside those of the `transformers` library;
# 4. one training on all four tasks, marked against baselines, with intervals;
# 5. pictures of {term}`cross-attention`, and a test of whether they tell the truth;
# 6. where it fails: names, and why no amount of training on the others helps;
# 7. what a prefix is, and what happens with one that was never trained;
# 8. span corruption, by hand and in a short training of its own.

# %%
import os
import re
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import roc_auc_score
from tabulate import tabulate

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers is our reference here; it needs no network
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from minilm import data, metrics, multitask, ngram, plots, presets, tasks
from minilm.attention import attention, attention_weights
from minilm.beam import beam
from minilm.contract import IGNORE, loss
from minilm.counts import count
from minilm.generate import generate
from minilm.layers import BUCKETS, relative_buckets
from minilm.spans import END, PAD, SPECIALS, corrupt, pairs, sample_spans, spans
from minilm.t5 import T5, answers, bias
from minilm.t5_files import FIXED, from_t5, to_t5, to_t5_config
from minilm.tokenizer import Characters, Words
from minilm.train import TrainConfig
from minilm.transformer import Config, parameters

plots.use_style()
logging.set_verbosity_error()
logging.disable_progress_bar()

# %% [markdown]
# (sec-t5-conditional)=
# ## A language model with a source
#
# Let $x = (x_1, \dots, x_S)$ be the source and $y = (y_1, \dots, y_T)$ the target. The model is a distribution over
# targets, one for each source, and the {term}`chain rule` takes it apart as in {ref}`ch-concepts`:
#
# $$
# P_\theta(y \mid x) = \prod_{t=1}^{T+1} P_\theta(y_t \mid y_{<t},\, x), \qquad y_{T+1} = \text{end}.
# $$ (eq-t5-conditional)
#
# So a decoder with a source is a {term}`language model <language model>` of the target, and everything of
# {ref}`ch-generation` applies to it. What has changed is who may look where, in {numref}`tab-t5-masks`.
#
# ```{list-table} Who may look where in an encoder-decoder.
# :name: tab-t5-masks
# :header-rows: 1
#
# * - attention
#   - queries from
#   - keys and values from
#   - may look at
# * - encoder
#   - source
#   - source
#   - all of the source, both directions
# * - decoder
#   - target
#   - target
#   - what has been written
# * - cross
#   - target
#   - the encoder's output
#   - all of the source
# ```
#
# Document 1 says of GPT, BERT, T5 and BART in one breath that they predict the next word ({ref}`err-predict-next`).
# Of T5's decoder it is true within {eq}`eq-t5-conditional`. But the objective scores the target only: no factor in it
# is a probability of the source, and so T5 gives no probability to a sentence, as GPT does. Its pretraining, with
# which this chapter ends, restores what was removed.
#
# (sec-t5-tasks)=
# ## Four tasks with exact references
#
# Translations are hard to mark, because a sentence can be translated in many ways; scores such as BLEU
# measure how much a translation looks like one of them. We choose phrases whose translation is fixed. The Unicode
# project keeps *CLDR*, a large table of what every language calls the other languages, the countries, the units, and
# how it writes dates, lists and amounts of money. People who speak the languages have checked it, programs all over the
# world print what it says, and the package Babel brings it along. `minilm.tasks` makes pairs of it.

# %%
splits = {name: tasks.load(name) for name in multitask.TASKS}
for parts in splits.values():
    seen = {}
    for pair in parts["train"]:
        seen.setdefault(pair.template, pair)
    for pair in list(seen.values())[:6]:
        print(f"{pair.source}  →  {pair.target}")

# %% [markdown]
# English to French and to Chinese, dates of ten languages to the ISO format, and questions for capitals. The first
# words of each source are the {term}`prefix <prompt>`: the only thing that tells the model what is wanted.
#
# Look at what a translator has to *do* here. Adjectives change places and agree in number (*Chilean pesos*, *pesos
# chiliens*). The Chinese speed puts the hour first. The Chinese date turns everything round. And a name is looked up,
# because nothing in the letters of *Germany* says *Allemagne*.
#
# ### What is held out
#
# A mark on phrases that were drawn like the training phrases says whether the model has learnt the *game*. It does not
# say what it would do with a new name. So there are several kinds of test, each with its own mark. A hash of the
# phrase or of the name decides, so that the split is the same for ever:
#
# - **phrase**: the phrase is new; its template and its names have been seen;
# - **template**: the form is new, although each part that matters has been seen: lists of four where training has lists
#   of two and three, *months ago* where it has *in 3 months* and *3 days ago*;
# - **name**: the name is new; a fifth of the common names, and all languages so rare that their code has three letters;
# - **language** (dates only): Danish, Catalan and Romanian, of which not one date was seen.


# %% mystnb={"figure": {"name": "tab-t5-data", "caption": "Pairs of source and target, by task, by split, and by what is new in a pair."}}
rows = []
for name, parts in splits.items():
    kinds = Counter(pair.stratum for pair in parts["test"])
    for stratum, n in sorted(kinds.items(), key=lambda item: -item[1]):
        held = sum(pair.stratum == stratum for pair in parts["validation"])
        train_size = len(parts["train"]) if stratum == "phrase" else 0
        rows.append((name, stratum, train_size, held, n))
heads = ["task", "new is the", "train", "validation", "test"]
Markdown(tabulate(rows, heads, tablefmt="pipe"))

# %% [markdown]
# {numref}`tab-t5-data` counts them. (The capitals have no new phrases: a question is either one of the 126 in
# training, which have no row here, or its country is new.) A split is worth what its check is worth. No source stands
# in two splits, and no held-out name stands in any training phrase:

# %%
for name in ("fr", "zh"):
    parts = splits[name]
    sources = [{pair.source for pair in parts[split]} for split in parts]
    assert not sources[0] & sources[1] and not sources[0] & sources[2]
    held = {
        one
        for split in ("validation", "test")
        for pair in parts[split]
        if pair.stratum == "name"
        for one in pair.names
    }
    used = {one for pair in parts["train"] for one in pair.names}
    print(name, "held-out names:", len(held), "- seen in training:", len(held & used))

# %% [markdown]
# The names in the training phrases are not equally frequent. Like words in a text ({ref}`ch-text`), few are common and
# most are rare, by construction: the name at rank $r$ of a random order is drawn with a weight of $1/(r+3)$. That will
# let us ask how often a name must be seen before it is known.
#
# (sec-t5-relative)=
# ## Positions as a bias
#
# The block is the one of {ref}`ch-transformer`: RMSNorm first, ReLU in the MLP, no biases in the linear layers. One
# thing is new. T5 adds nothing to the embeddings to tell positions apart. It adds a number to each {term}`attention`
# score, which depends on the head $h$ and on *how far* the key is from the query:
#
# $$
# \operatorname{score}_h(t, s) = q_t \cdot k_s + B_{h,\, \operatorname{bucket}(s - t)}.
# $$ (eq-t5-score)
#
# $B$ is learnt, one table for the encoder and one for the decoder, shared by all their layers. Cross-attention has
# none: a place in the target and one in the source have no distance.
#
# A separate number for every distance would be wasteful, and those for large distances would be seldom trained. So
# distances are put into *buckets*. With $n$ buckets for one direction, those below $n/2$ have a bucket each. Farther
# ones share, and the shares grow by a constant factor, until at distance $m$ everything beyond falls into the last:
#
# $$
# \operatorname{bucket}(d) = \begin{cases} d & d < n/2, \\[2pt]
# \min\Bigl(n - 1,\ \tfrac n2 + \Bigl\lfloor \tfrac n2 \cdot \dfrac{\log (d / \frac n2)}{\log (m / \frac n2)}
# \Bigr\rfloor\Bigr) & d \ge n/2. \end{cases}
# $$ (eq-t5-bucket)
#
# T5 has 32 buckets in all and $m = 128$. The encoder spends 16 on each direction, the decoder all 32 on what lies
# behind it. By hand, for the decoder: distance 18 gives $16 + \lfloor 16 \log(18/16) / \log 8 \rfloor = 16 + \lfloor
# 0.91 \rfloor$, so 16, 17 and 18 are one bucket; 19 gives $16 + \lfloor 1.32 \rfloor$ and begins the next.

# %%
near = [relative_buckets(torch.tensor(-d), both_sides=False).item() for d in range(0, 24)]
print("distance 0 to 23:", near)
left_right = relative_buckets(torch.arange(-10, 11), both_sides=True).tolist()
print("encoder, -10 to 10:", left_right)

# %% mystnb={"figure": {"name": "fig-t5-buckets", "caption": "T5's buckets: one for each small distance, then ever wider ones. Drawn for the keys before the query; beyond distance 128 all keys share one."}, "image": {"alt": "Two rising curves over the distance from 0 to 160. The decoder's climbs one bucket per step up to 16, then ever more slowly in steps up to bucket 31 at distance 113, and stays there. The encoder's does the same with half as many buckets: up to 8 straight, then slowly to 15 at distance 91."}}
distance = torch.arange(161)
curves = {
    "decoder": relative_buckets(-distance, both_sides=False).numpy(),
    "encoder, one direction": relative_buckets(-distance, both_sides=True).numpy(),
}
plots.lines(distance.numpy(), curves, "tokens between query and key", "bucket")
last = {name: int((buckets == buckets.max()).argmax()) for name, buckets in curves.items()}
print("the last bucket begins at distance:", last)

# %% [markdown]
# {numref}`fig-t5-buckets` says what T5 believes about language: the difference between one token back and two is
# worth a number of its own, that between a hundred and a hundred and ten is not. It also explains a practical virtue.
# GPT-2's table of positions ends at its {term}`context length`; a bias on distances has no end, since beyond 128
# every distance has a bucket. And only differences enter.
#
# ```{prf:theorem} A bias on distances does not know where it is
# :label: thm-t5-shift
# Let $b(t, s) = B_{\operatorname{bucket}(s-t)}$ be the matrix that is added to the scores. Then $b(t + c, s + c) = b(t,
# s)$ for every shift $c$. If in addition the tokens in a window, and all that its queries attend to, are moved by $c$,
# the outputs of an attention layer in that window are the same, moved by $c$.
# ```
#
# ```{prf:proof}
# $(s + c) - (t + c) = s - t$, so the bucket is the same. Queries, keys and values are computed at each position from
# what stands there, so they move along. A softmax over the same scores, in whatever places, gives the same weights.
# ```
#
# In other words, $b$ is constant along its diagonals. The function `bias` builds the matrix that the model adds; for
# the decoder it also holds the $-\infty$ that hides what has not been written.

# %%
table = torch.randn(BUCKETS, 4, generator=torch.Generator().manual_seed(0))
both = bias(table, torch.arange(200)[None], 200, both_sides=True)  # (1, H, T, S)
assert torch.equal(both[..., 1:, 1:], both[..., :-1, :-1])
left = bias(table, torch.arange(4)[None], 4, both_sides=False)
print(left[0, 0])

# %% [markdown]
# (sec-t5-model)=
# ## The model by hand
#
# Two stacks of blocks; the decoder's have a second attention whose queries come from the target and whose keys and
# values come from the *memory* $M$, the output of the encoder:
#
# $$
# \operatorname{Cross}(Y, M) = \operatorname{softmax}\bigl((Y W^Q) (M W^K)^\top\bigr)\, M W^V W^O .
# $$ (eq-t5-cross)
#
# Written out on a small model with random weights:

# %%
config = Config(100, context=64, d_model=32, n_layers=2, n_heads=4, eps=1e-6, **FIXED)
torch.manual_seed(0)
small = T5(config).double()


def attend(part, x, memory, mask):
    q, k, v = part.project(x, memory)  # (B, H, T, d), (B, H, S, d)
    return part.out(attention(q, k, v, mask).transpose(1, 2).flatten(2))


def encoded(model, source):
    places = torch.arange(source.shape[1])[None]
    mask = bias(model.encoder_bias.weight, places, source.shape[1], both_sides=True)
    x = model.embedding(source)
    for block in model.encoder.blocks:
        x = x + attend(block.attention, block.norm1(x), None, mask)
        x = x + block.mlp(block.norm2(x))
    return model.encoder.norm(x)


# %%
def decoded(model, target, memory):
    places = torch.arange(target.shape[1])[None]
    mask = bias(model.decoder_bias.weight, places, target.shape[1], both_sides=False)
    y = model.embedding(target)
    for block in model.decoder.blocks:
        y = y + attend(block.attention, block.norm1(y), None, mask)
        y = y + attend(block.cross, block.norm_cross(y), memory, None)
        y = y + block.mlp(block.norm2(y))
    return model.decoder.norm(y) * model.config.d_model**-0.5 @ model.embedding.weight.T


source, target = torch.randint(2, 100, (3, 20)), torch.randint(2, 100, (3, 7))
by_hand = decoded(small, target, encoded(small, source))
torch.testing.assert_close(by_hand, small(source, target))
print("by hand = minilm.t5.T5, logits", tuple(by_hand.shape))

# %% [markdown]
# Two details would be easy to miss. The output layer is the table of embeddings, as in GPT-2, but T5's embeddings
# start with entries of size 1, not 0.02, so their products with a normed vector of length $\sqrt D$ would be of size
# $\sqrt D$. The factor $D^{-1/2}$ before the product makes them 1. And {eq}`eq-t5-score` does not divide by $\sqrt
# d$. T5 starts its query weights smaller by that factor in its place, which is the same function; our `Attention`
# divides like everybody else's, so `to_t5` and `from_t5` put the factor into the weights when they change hands.
#
# Is it the T5 of the library that published it? The same random weights, both ways:

# %%
theirs = T5ForConditionalGeneration(T5Config(**to_t5_config(config))).double().eval()
theirs.load_state_dict(to_t5(small))  # strict: every weight has its place
mask = torch.arange(20) < torch.tensor([[20], [11], [1]])  # sources of three lengths
with torch.no_grad():
    ours = small(source, target, mask)
    reference = theirs(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    torch.testing.assert_close(ours, reference, rtol=0, atol=2e-6)
    back = from_t5(theirs.state_dict(), config)(source, target, mask)
torch.testing.assert_close(back, ours)  # and home again
print("logits as in transformers, to 2e-6, of size", f"{ours.abs().max():.0f}")

# %% [markdown]
# (The tolerance is 2e-6 although everything is in double precision, because their norm squares in single precision
# whatever it is given. The package's tests replace that one line and find both equal to 1e-12, and greedy and beam
# search writing the same text.)
#
# What does the second attention cost? Counted part by part, and compared with what PyTorch holds:

# %%
encoder, decoder = parameters(config), parameters(config, cross=True)
shared = encoder["embedding"]
total = sum(encoder.values()) + sum(decoder.values()) - shared + 2 * BUCKETS * config.n_heads
assert total == sum(p.numel() for p in small.parameters())
print(f"encoder {sum(encoder.values()) - shared:,}, decoder {sum(decoder.values()) - shared:,}, ")
print(f"embeddings {shared:,}, biases {2 * BUCKETS * config.n_heads}: {total:,} in all")

# %% [markdown]
# An encoder-decoder has more parameters than a decoder with as many layers, but it needs hardly more operations per
# token: no token passes through both stacks, and only those of the target pay for the second attention
# {cite}`raffel2020`.
#
# (sec-t5-writing)=
# ## Writing with a source in mind
#
# Writing goes token by token, as ever. The source is read once. `model.given(source)` does that and returns something
# that obeys the contract of {ref}`ch-concepts`: ids of a target in, logits of what follows out. So `generate`, `beam`
# and `evaluate` work on it unchanged, and so does the cache of {ref}`ch-generation`: the keys and values of what has
# been written are kept. The first token of every target is a start token, for which T5 takes the padding id.

# %%
writer = small.given(source[0].tolist())
greedy = generate(writer, [PAD], 12, temperature=0.0, stop={END})
assert greedy == generate(writer, [PAD], 12, temperature=0.0, stop={END}, cache=False)
library = theirs.generate(source[:1], max_new_tokens=12, do_sample=False)[0].tolist()
assert library[1:] == greedy + [END] * (len(greedy) < 12)
beams = theirs.generate(source[:1], max_new_tokens=12, do_sample=False, num_beams=4)[0].tolist()
best = beam(writer, [PAD], 12, n_beams=4, stop={END})[0].ids
assert best == [token for token in beams[1:] if token != END]
print("greedy and beam search write what transformers writes")

# %% [markdown]
# (sec-t5-batch)=
# ## One pair, and the loss
#
# Training is maximum likelihood of {eq}`eq-t5-conditional`. The decoder is given the *right* target, one place to the
# right, and has to say at every place what comes next; this is called {term}`teacher forcing`. All places are scored at
# once because the causal mask keeps each from seeing its answer. Two pairs as a batch:

# %%
batch = pairs([[50, 51, 52], [60]], [[70, 71], [80, 81, 82]])
for label, tensor in zip(("source", "decoder reads", "mask"), batch.inputs, strict=True):
    print(f"{label:14}", tensor.int().tolist())
print(f"{'has to say':14}", batch.targets.tolist())

# %% [markdown]
# 0 is padding and start, 1 is the end, and $-100$ marks what is not scored. Before training, what should the loss be?
# The last norm gives each vector the length $\sqrt D$; embeddings are standard normal; with the factor $D^{-1/2}$ a
# logit of an unrelated token is therefore standard normal. One token is related: the one just read, whose own
# embedding $e$ is still in the stream. With $|e|^2 \approx D$ its logit is $c = \rho \sqrt D$, where $\rho$ is the
# cosine of $e$ and the vector that comes out. So, as in {eq}`eq-gpt-first`,
#
# $$
# \mathbb E[\ell] \approx \mathbb E\bigl[\log\bigl(V e^{1/2} + e^{c}\bigr)\bigr].
# $$ (eq-t5-first)

# %%
torch.manual_seed(0)
fresh = T5(replace(multitask.SHAPE, vocab_size=1024))
read = torch.randint(2, 1024, (64, 17))
with torch.no_grad():
    logits = fresh(torch.randint(2, 1024, (64, 12)), read[:, :-1])
own = logits.gather(-1, read[:, :-1, None])  # the logit of the token just read
predicted = (1024 * torch.e**0.5 + own.exp()).log().mean()
print(
    f"log V {torch.tensor(1024.0).log():.1f}, predicted {predicted:.1f}, measured {loss(logits, read[:, 1:]):.1f}"
)

# %% [markdown]
# (sec-t5-training)=
# ## One model, four tasks
#
# All pairs go into one bag. The tokens are {term}`BPE` on both sides together, 1024 of them: Chinese characters,
# French endings and digits share one table. (Characters would do as well, with three times as many tokens, and the
# training would take three times as long.) Small tasks are repeated, or nothing of them would be learnt: the capitals
# have 126 questions beside more than twelve thousand phrases each for the translations.

# %%
mixed = multitask.mixture()
print(f"{len(mixed):,} training pairs:", dict(Counter(p.source.split(":")[0] for p in mixed)))
run = multitask.RUN
print(
    f"{run.steps} steps of {run.batch_size} pairs, {run.steps * run.batch_size / len(mixed):.1f} passes"
)

# %% tags=["nbval-ignore-output"]
model = multitask.trained()
units = model.tokenizer
print(f"{sum(p.numel() for p in model.model.parameters()):,} parameters,", end=" ")
print(f"{model.log[-1]['seconds']:.0f} seconds of training on this computer")

# %% mystnb={"figure": {"name": "fig-t5-loss", "caption": "The training loss, as the mean of the steps before each point."}, "image": {"alt": "A falling curve on a logarithmic scale over the steps of the training: from about 3 nats per token at the first point to well under 0.1 at the last."}} tags=["nbval-ignore-output"]
steps = [record["step"] for record in model.log]
nats = {"loss": [record["train_loss"] for record in model.log]}
ax = plots.plain_ticks(plots.lines(steps, nats, "step", "nats per token", log="y"))
print("first and last:", f"{nats['loss'][0]:.1f}, {nats['loss'][-1]:.2f}")

# %% [markdown]
# {numref}`fig-t5-loss` falls most at first, and then by about half with every hundred steps. A mean over a hundred
# steps does not show what happens within the first of them.
#
# (sec-t5-marks)=
# ## Marks
#
# A mark is the share of answers that equal the reference, character for character. There is no partial credit.
#
# What would be good? Three baselines. *Copying* returns the source; it is right where a name is the same in both
# languages. The *nearest* training source, by the words that it shares (TF-IDF of words and pairs of words), gives
# its target. The third is what a programmer would do: a **phrase book**. It knows every name that stood by
# itself in training, with its translation. From every training phrase it makes a form, by putting numbered slots in
# place of the names and numbers that it recognises on both sides: *\<0\> and \<1\>* is *\<0\> et \<1\>*. A new phrase
# is translated by finding its form and filling the slots.


# %%
def slots(text, names):
    """The text with slots for known names (the longest first) and numbers, and what was in them."""
    found = []

    def take(match):
        found.append(match[0])
        return f"<{len(found) - 1}>"

    return names.sub(take, text), found


def book(train, prefix):
    """Names and forms of all training phrases."""
    known = {p.source[len(prefix) :]: p.target for p in train if p.template == "name"}
    longest = sorted(known, key=len, reverse=True)
    names = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b|\d+")
    forms = {}
    for pair in train:
        form, inside = slots(pair.source[len(prefix) :], names)
        target = pair.target
        for number, text in enumerate(inside):
            target = target.replace(known.get(text, text), f"<{number}>", 1)
        forms.setdefault(form, Counter())[target] += 1
    return known, names, {form: targets.most_common(1)[0][0] for form, targets in forms.items()}


# %%
def looked_up(pairs, train, prefix):
    known, names, forms = book(train, prefix)
    for pair in pairs:
        form, inside = slots(pair.source[len(prefix) :], names)
        filled = lambda slot, inside=inside: known.get(inside[int(slot[1])], inside[int(slot[1])])
        yield re.sub(r"<(\d)>", filled, forms.get(form, ""))


def nearest(pairs, train):
    vectors = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))
    known = vectors.fit_transform(pair.source for pair in train)
    likeness = vectors.transform(pair.source for pair in pairs) @ known.T
    return [train[row.indices[row.data.argmax()]].target for row in likeness]


# %% [markdown]
# Settings were chosen on the validation pairs; this is the test, looked at once. The intervals are Wilson's
# {cite}`wilson1927`, which stay within 0 and 1 and are sensible where nothing, or everything, is right.


# %%
def percent(hits):
    return format(metrics.Estimate(*(100 * x for x in metrics.share(hits))), ".0f")


answers_by_task = {}
for name, parts in splits.items():
    test, train_pairs, prefix = parts["test"], parts["train"], tasks.PREFIXES[name]
    sources = [pair.source for pair in test]
    answers_by_task[name] = {
        "copy": [source[len(prefix) :] for source in sources],
        "nearest": nearest(test, train_pairs),
        "phrase book": list(looked_up(test, train_pairs, prefix)) if name in ("fr", "zh") else None,
        "T5": model(sources),
    }

# %% mystnb={"figure": {"name": "tab-t5-marks", "caption": "Right answers on the test pairs in per cent, with 95 % intervals for the model, by task and by what is new in a pair."}} tags=["nbval-ignore-output"]
rows, ways = [], ("copy", "nearest", "phrase book")
for name, found in answers_by_task.items():
    test = splits[name]["test"]
    for stratum in ("phrase", "template", "name", "language"):
        where = [i for i, pair in enumerate(test) if pair.stratum == stratum]
        if not where:
            continue
        hits = {
            way: [texts[i] == test[i].target for i in where]
            for way, texts in found.items()
            if texts
        }
        marks = [100 * np.mean(hits[way]) if way in hits else None for way in ways]
        rows.append((name, stratum, len(where), *marks, percent(hits["T5"])))
heads = ["task", "new is the", "pairs", "copy", "nearest", "phrase book", "T5"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".0f", missingval="–"))


# %%
def mark(name, stratum, way="T5"):
    """Share of right answers on one kind of test pair."""
    texts, test = answers_by_task[name][way], splits[name]["test"]
    hits = [text == p.target for text, p in zip(texts, test, strict=True) if p.stratum == stratum]
    return sum(hits) / len(hits)


assert all(mark(name, "phrase") > 0.75 for name in ("fr", "zh", "date"))
assert all(mark(name, "phrase", "phrase book") > mark(name, "phrase") for name in ("fr", "zh"))
assert all(mark(name, "name") < 0.1 for name in ("fr", "zh", "capital"))
assert all(mark(name, "template") < mark(name, "phrase") for name in ("fr", "zh", "date"))
print("new phrases: more than 3 in 4; new names: less than 1 in 10; the phrase book is ahead")

# %% [markdown]
# The rows of new phrases read well. Nine in ten are translated without a slip, into either language, dates are read
# nearly without fault, and so are most dates in languages that the model has never met: a *martie* is close enough to
# a *marzo*. Two things keep us sober.
#
# The phrase book is better. It needs no training, a moment of computing and two dozen lines, and is right where ours
# errs. Where a rule can be written down, write it down. The network has to find out from examples that one name can
# stand for another in a list, and what each name is called, and it pays with mistakes in the rarer ones. (What the
# phrase book cannot do is the next task. Dates, questions, a hundred tasks more would each need their own program; the
# network takes them all as they come, and that was T5's point.)
#
# And most of the other rows are much lower. New templates first:

# %% mystnb={"figure": {"name": "tab-t5-templates", "caption": "Right answers on templates that were never seen, in per cent of the test pairs. *de long* is a German date without the day of the week, *it full* an Italian one with it; training has them the other way round only."}} tags=["nbval-ignore-output"]
rows = []
for name in ("fr", "zh", "date"):
    test, found = splits[name]["test"], answers_by_task[name]
    for template in sorted({pair.template for pair in test if pair.stratum == "template"}):
        where = [i for i, pair in enumerate(test) if pair.template == template]
        hits = lambda texts, where=where, test=test: [texts[i] == test[i].target for i in where]
        by_book = round(100 * np.mean(hits(found["phrase book"]))) if name != "date" else "–"
        rows.append((name, template, len(where), by_book, percent(hits(found["T5"]))))
heads = ["task", "template", "pairs", "phrase book", "T5"]
Markdown(tabulate(rows, heads, tablefmt="pipe"))

# %% [markdown]
# {numref}`tab-t5-templates` has all three outcomes. *Months ago* succeeds: the network has seen *in 3 months* and *3
# days ago* and puts them together, which the phrase book, for all its rules, cannot. A list of four names is never
# right. A child who has read lists of two and three would not hesitate; the network writes three and leaves one out,
# because it has learnt how long lists are. (The phrase book has no form with four slots, and is silent.) And
# countries joined by *or* are a matter of the language: every other one is right in French, none in Chinese, although
# *or* has been seen between languages and *and* between countries in both. Whether a network combines what it knows
# cannot be told in advance; such failures are well documented {cite}`lake2018`.
#
# Some mistakes on phrases and templates, evenly picked from all of them:

# %% tags=["nbval-ignore-output"]
for name, found in answers_by_task.items():
    wrong = [
        (pair, text)
        for pair, text in zip(splits[name]["test"], found["T5"], strict=True)
        if text != pair.target and pair.stratum in ("phrase", "template")
    ]
    for pair, text in wrong[:: max(1, len(wrong) // 4)][:4]:
        source = pair.source.removeprefix(tasks.PREFIXES[name])
        print(f"{source}  →  {text}   (right: {pair.target})")

# %% [markdown]
# (sec-t5-pictures)=
# ## Where it looks
#
# Cross-attention can be drawn: row $t$ of {eq}`eq-t5-cross` says how the token written at $t$ spread its attention over
# the source. Nothing has to be trained for that; the weights are computed anyway, and a hook collects them.


# %%
def cross_attention(source):
    """The tokens of a source, those of the answer, and the attention (layers, heads, T, S) between them."""
    net, kept = model.model, []
    ids = model.encode(source)
    written = answers(net, [ids], 48)[0]
    look = lambda part, args: kept.append(attention_weights(*part.project(*args[:2])[:2])[0])
    hooks = [block.cross.register_forward_pre_hook(look) for block in net.decoder.blocks]
    with torch.no_grad():
        net(torch.tensor([ids]), torch.tensor([[PAD, *written]]))
    for hook in hooks:
        hook.remove()
    read = lambda tokens: [units.tokens[i].replace(" ", "_") for i in tokens]
    return read(ids), read([*written, END]), torch.stack(kept)


# %% mystnb={"figure": {"name": "fig-t5-date", "caption": "Cross-attention while a date is brought into ISO format: last layer, mean of the heads. Rows are the tokens written, from top to bottom; columns the tokens of the source. The further a cell's shade is from that of the page, the more attention. An underscore is a blank."}, "image": {"alt": "A matrix of grey cells. The rows of the answer, year, month and day from top to bottom, are strongest at different columns: the year's at the last tokens of the source, the month's at the month's name in the middle, the day's at the number before it. The order is reversed."}} tags=["nbval-ignore-output"]
source_tokens, written, maps = cross_attention("date: martes, 4 de marzo de 2025")
plots.heatmap(maps[-1].mean(0), written, source_tokens, "source", "answer", fmt=None)
print("answer:", "".join(written[:-1]))

# %% mystnb={"figure": {"name": "fig-t5-french", "caption": "Cross-attention while a phrase is translated into French, as in the figure before."}, "image": {"alt": "A matrix of grey cells for Friday, June 6, 2025. The French weekday looks at the word French in the prefix most, and at the English weekday second, the day number and the month at theirs although they stand in the other order, and the year at the year."}} tags=["nbval-ignore-output"]
source_tokens, written, maps = cross_attention("translate English to French: Friday, June 6, 2025")
ax = plots.heatmap(maps[-1].mean(0), written, source_tokens, "source", "answer", fmt=None)
ax.tick_params("x", labelrotation=30)
print("answer:", "".join(written[:-1]).replace("_", " "))

# %% [markdown]
# In {numref}`fig-t5-date` the strongest cells run against the order of writing. While the year is written, the decoder
# reads at the end of the source; while the month is, at the month's name; then it goes back to the day. Nobody has
# told it to align anything. The hyphens and the end, which are the same in every answer, look everywhere and nowhere.
# In {numref}`fig-t5-french` month and day cross, as the two languages have them in opposite order.
#
# Such pictures have been drawn since attention was invented {cite}`bahdanau2015`, and it is tempting to read them as
# "the model takes the year from there". That is a claim about causes, and it can be tested {cite}`jain2019`. For the
# dates of the test we ask two things about the moment when the year is written. *Where does it look:* what share of
# the attention falls on the tokens of the year? *What if it could not:* hide the memory of just these tokens from
# cross-attention, and see whether the right year still comes out. The encoder is left alone. If it has already spread
# the year to other positions, the decoder can find it there, whatever the picture says.

# %%
dates = [pair for pair in splits["date"]["test"] if pair.target[:4] in pair.source][:150]


def tokens_of(part, ids, text):
    """Which of the ids spell a part of the text, as a mask."""
    ends = torch.tensor([len(units.token_bytes(i)) for i in ids]).cumsum(0)
    start = text.encode().rindex(part.encode())
    return (ends > start) & (ends <= start + len(part.encode()))


@torch.no_grad()
def year(pair, hide=None):
    """Is the first token of the year right, where the marked tokens' memory cannot be seen?"""
    net, ids = model.model, model.encode(pair.source)
    wanted = units.encode(pair.target)[0]
    seen = torch.ones(1, len(ids), dtype=torch.bool) if hide is None else ~hide[None]
    memory = net.encode(torch.tensor([ids]))
    return net.decode(torch.tensor([[PAD]]), memory, seen)[0, 0].argmax().item() == wanted


# %% mystnb={"figure": {"name": "tab-t5-causal", "caption": "The first token of the year, over test dates: how often it is right when nothing, the tokens of the year, or as many others are hidden from cross-attention."}} tags=["nbval-ignore-output"]
mass, right, generator = [], defaultdict(list), torch.Generator().manual_seed(0)
for pair in dates:
    ids = model.encode(pair.source)
    there = tokens_of(pair.target[:4], ids, pair.source)
    attention_map = cross_attention(pair.source)[2]
    mass.append((attention_map[-1, :, 0, there].sum(-1).mean().item(), there.float().mean().item()))
    others = (~there).nonzero()[:, 0]
    some = others[torch.randperm(len(others), generator=generator)[: there.sum()]]
    random = torch.zeros_like(there).index_fill(0, some, True)
    for label, hide in (("nothing", None), ("the year", there), ("as many others", random)):
        right[label].append(year(pair, hide))
shares = torch.tensor(mass).mean(0)
print(f"attention on the year's tokens: {shares[0]:.2f}, if it were uniform: {shares[1]:.2f}")
rows = [(label, percent(hits)) for label, hits in right.items()]
Markdown(tabulate(rows, ["hidden", "right, per cent"], tablefmt="pipe"))

# %% [markdown]
# By {numref}`tab-t5-causal` the picture tells the truth. A fifth of the tokens get two thirds of the attention; without
# them the year is mostly lost, without as many others nothing happens. The encoder has left the year where it stood,
# and the decoder fetches it there. That is a result about these dates and this model, not about attention. It had to be
# measured: the encoder could have copied the year into every position, and the same picture would then have meant
# nothing.
#
# (sec-t5-names)=
# ## Where it fails: names
#
# {numref}`tab-t5-marks` has its worst rows at the names. Let us look from two sides. First, how often must a name be
# seen? Test phrases hold only names that occur in training, some in two phrases, some in hundreds. A phrase is as hard
# as its rarest name, so phrases are grouped by that.


# %% tags=["nbval-ignore-output"]
def by_frequency(language):
    """Share of right answers by how often the rarest name of a phrase was seen, and the counts behind it."""
    seen = Counter(n for pair in splits[language]["train"] for n in pair.names)
    groups = defaultdict(list)
    for pair, text in zip(splits[language]["test"], answers_by_task[language]["T5"], strict=True):
        if pair.names and pair.stratum != "template":
            rarest = min(seen[name] for name in pair.names)
            groups[min(rarest.bit_length(), 8)].append(text == pair.target)
    return groups


frequency = {label: by_frequency(code) for label, code in (("French", "fr"), ("Chinese", "zh"))}
bins = sorted(frequency["French"].keys() & frequency["Chinese"].keys())
labels = ["never", "once", *(f"{2**k}–{2 ** (k + 1) - 1}" for k in range(1, 7)), "128 or more"]

# %% mystnb={"figure": {"name": "fig-t5-frequency", "caption": "Right translations by how often the rarest name of the phrase occurs in the training pairs. Whiskers: 95 % intervals."}, "image": {"alt": "A dot chart with a row for each number of occurrences, never at the top. Both languages are near zero for names never seen and climb with each doubling; from some dozens of occurrences on nearly all translations are right."}} tags=["nbval-ignore-output"]
ax = None
for label, groups in frequency.items():
    share, *ends = 100 * np.transpose([metrics.share(groups[b]) for b in bins])
    spread = list(zip(*ends, strict=True))
    ax = plots.dots([labels[b] for b in bins], share, "right, per cent", spread, label, ax)
    print(label, [f"{value:.0f}" for value in share], "of", [len(groups[b]) for b in bins])
legend = ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

# %%
for groups in frequency.values():
    few = [hit for b in bins if 2 <= b <= 4 for hit in groups[b]]  # seen 2 to 15 times
    many = [hit for b in bins if b >= 6 for hit in groups[b]]  # 32 times or more
    assert sum(groups[0]) / len(groups[0]) < 0.1 < sum(few) / len(few) < 0.8
    assert sum(many) / len(many) > 0.85
print("never: nearly nothing; 2 to 15 times: in between; 32 times or more: nearly everything")

# %% [markdown]
# {numref}`fig-t5-frequency` climbs from nothing to everything, and both languages climb together. Among the names that
# were seen, it was drawn by lot which ones are rare. (The row *never* is of another kind: names by themselves, most of
# them of rare languages.) At a handful of occurrences about six in ten phrases are right, at thirty, nine in ten. (A
# phrase with two rare names can fail twice, so a single name is a little better off than its row.) What is called
# *knowing a word* is, for a model of this kind, a matter of counts.
#
# The second side is the names that were never seen. There the two target languages differ, and so do names. In
# French, many a name is the English one with another ending, or the same. In Chinese no letter survives. We sort the
# held-out names by how much of the English spelling the French reference keeps:


# %% mystnb={"figure": {"name": "tab-t5-names", "caption": "Names that were never seen, translated into French, by how similar the reference is to the English name."}} tags=["nbval-ignore-output"]
def likeness(pair):
    source = pair.source.removeprefix(tasks.PREFIXES["fr"]).lower()
    ratio = SequenceMatcher(None, source, pair.target.lower()).ratio()
    return "the same letters" if ratio == 1 else "similar" if ratio > 0.7 else "different"


groups = defaultdict(list)
for i, pair in enumerate(splits["fr"]["test"]):
    if pair.stratum == "name":
        lower = answers_by_task["fr"]["copy"][i].lower() == pair.target.lower()
        groups[likeness(pair)].append((answers_by_task["fr"]["T5"][i] == pair.target, lower))
rows = [
    (
        kind,
        len(groups[kind]),
        *(percent(way) for way in zip(*groups[kind], strict=True)),
    )
    for kind in ("the same letters", "similar", "different")
]
Markdown(tabulate(rows, ["reference is", "names", "T5", "copy, up to capitals"], tablefmt="pipe"))

# %% tags=["nbval-ignore-output"]
for language in ("fr", "zh"):
    test, found = splits[language]["test"], answers_by_task[language]["T5"]
    unseen = [i for i, pair in enumerate(test) if pair.stratum == "name"]
    for i in unseen[:: len(unseen) // 5][:5]:
        source = test[i].source.removeprefix(tasks.PREFIXES[language])
        print(f"{source}  →  {found[i]}   (right: {test[i].target})")

# %% [markdown]
# In {numref}`tab-t5-names`, where the French name has the letters of the English one, the humblest baseline of all
# would be right every time. The model is right in a few cases of a hundred. It has learnt names as wholes, a key and a
# value, and never to spell. When it meets a new name it does not hesitate: it writes a name that it knows, or glues
# one together from pieces.
#
# Why does more training on the other names not help? A name is given by convention. What the other pairs teach is the
# *rule* by which names are changed, as far as there is one; what they cannot teach is an exception.
#
# ```{prf:theorem} No learner knows an arbitrary name
# :label: thm-t5-names
# Let the translations of names be $y = f(x)$, and suppose that, given all pairs seen in training, the translation of
# an unseen name $x$ is distributed as $Q(\cdot \mid x)$. Then every translator, however trained, is right about $x$
# with a probability of at most $\max_y Q(y \mid x)$.
# ```
#
# ```{prf:proof}
# The translator answers $\hat y$, which is determined by $x$, by the training pairs and perhaps by random numbers of
# its own. Given the pairs, $y$ is independent of those numbers, so the probability that $\hat y = y$ is the mean of
# $Q(\hat y \mid x)$ over $\hat y$. A mean is no larger than the largest value.
# ```
#
# For a spelling that is copied, $\max_y Q$ is near 1 and a translator can be good; for *Deutsch* or *Allemagne* it is
# near 0. Architecture, size and patience do not enter. Only data do: the name itself in the training set, a dictionary
# to look it up in, or a text that mentions it. And the theorem is a ceiling; our model is well below it where a copy
# would be right. Copying letters that never stood together is a skill of its own, which BPE makes hard: an unseen name
# falls into pieces that were never copied in that order. There are networks with an explicit way to copy, for example
# {cite}`see2017`.
#
# ### Does it know that it does not know?
#
# The model has an opinion about its own answer: the probability that {eq}`eq-t5-conditional` gives to it. A mistake is
# less harmful if it comes with a low one. As a measure of separation we take the probability that a right answer has
# been given more confidence than a wrong one, the area under the ROC curve: 0.5 is none, 1 is perfect.


# %%
@torch.no_grad()
def confidence(sources, texts):
    """Log-probabilities of whole answers."""
    batch = pairs([units.encode(s) for s in sources], [units.encode(t) for t in texts])
    scored = batch.targets != IGNORE
    log_probs = model.model(*batch.inputs).log_softmax(-1)
    chosen = log_probs.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]
    return chosen.masked_fill(~scored, 0).sum(1)


# %% mystnb={"figure": {"name": "tab-t5-confidence", "caption": "All test pairs of a task: the share of right answers; the share of answers to which the model gives a probability above 1/2, and how many of these are right; and how well the probability separates right from wrong. In per cent but for the last column."}} tags=["nbval-ignore-output"]
rows = []
for name in ("fr", "zh", "date"):
    test, found = splits[name]["test"], answers_by_task[name]["T5"]
    starts = range(0, len(test), 200)
    sources = [pair.source for pair in test]
    parts = [confidence(sources[i : i + 200], found[i : i + 200]) for i in starts]
    sure = torch.cat(parts).exp()
    right = torch.tensor([text == pair.target for text, pair in zip(found, test, strict=True)])
    kept = sure > 0.5
    shares = [100 * share.float().mean() for share in (right, kept, right[kept])]
    rows.append((name, *shares, roc_auc_score(right, sure)))
heads = ["task", "right", "surer than 1/2", "of these right", "separation"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=("", ".0f", ".0f", ".0f", ".2f")))

# %%
assert all(area > 0.9 for *_, area in rows)
print("separation above 0.9 for every task")

# %% [markdown]
# The separation in {numref}`tab-t5-confidence` is nearly perfect. Greedy decoding hides it: from the text alone
# nobody can tell *Allemagne* from an invention. The probabilities can. Who asks only for answers with more than 1/2
# loses three translations in ten: about nine of ten mistakes, and one of eleven right answers. The model does not
# know these names, but it does know that it does not; it was merely never given a way to say so. ({ref}`ch-gpt` has
# more on calibration.)
#
# (sec-t5-prefix)=
# ## What a prefix is
#
# Document 2 gives T5 the text `Q: What is the capital of France?` and prints what comes back. Our model has learnt
# that question, with that very country, under the prefix `question:`. Here is the sample with our model in place of
# `t5-small`, first with the prefix of the document.

# %%
folder = Path(tempfile.mkdtemp())
units.save(folder / "bpe.json")
named = {"pad_token": "<pad>", "eos_token": "</s>"}
fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "bpe.json"), **named)
fast.save_pretrained(folder)
library = T5ForConditionalGeneration(T5Config(**to_t5_config(model.model.config)))
library.load_state_dict(to_t5(model.model))
library.save_pretrained(folder)

# %% tags=["nbval-ignore-output"]
tokenizer = AutoTokenizer.from_pretrained(folder)  # T5Tokenizer.from_pretrained("t5-small")
t5_small = T5ForConditionalGeneration.from_pretrained(folder)  # ... .from_pretrained("t5-small")

input_text = "What is the capital of France?"
for prefix in ("Q: ", "question: "):
    inputs = tokenizer.encode(prefix + input_text + "</s>", return_tensors="pt")
    outputs = t5_small.generate(inputs, max_length=50, num_return_sequences=1)
    print(f"{prefix:12}", tokenizer.decode(outputs[0], skip_special_tokens=True))

# %% [markdown]
# (T5's own tokenizer appends the end token by itself; ours is told to.) One question is an anecdote. All questions
# whose answers the model has learnt, under prefixes it knows and others:

# %% mystnb={"figure": {"name": "tab-t5-prefix", "caption": "Right answers to the questions for capitals that were in the training pairs, by prefix, in per cent, and what three of the answers look like."}} tags=["nbval-ignore-output"]
known = splits["capital"]["train"]
bare = [pair.source.removeprefix("question: ") for pair in known]
rows = []
for prefix in ("question: ", "Q: ", "", "answer: ", "date: ", "translate English to French: "):
    found = model([prefix + text for text in bare])
    hits = [text == pair.target for text, pair in zip(found, known, strict=True)]
    rows.append((f"`{prefix or 'none'}`", percent(hits), " / ".join(found[30:33])))
Markdown(tabulate(rows, ["prefix", "right", "answers"], tablefmt="pipe"))

# %% [markdown]
# So is the erratum wrong? In {numref}`tab-t5-prefix` the document's `Q:` works for most countries, and no prefix at
# all works as well. The reason is in the rest of the text. Of our four tasks only one has sources that begin with
# *What is the capital of*, so they give the task away by themselves, and an unknown prefix is merely noise at the
# beginning: a fifth of the answers are lost to it, with *answer:* half. But where the prefix says something else, it
# is believed before the question: `date:` turns a capital into a date, *translate English to French:* into invented
# French. (A token may be a piece of a character; an answer that lacks the other pieces has a � in it.)
#
# A prefix is not a command that is parsed. It is a part of the source like any other, and the model has learnt what
# followed such sources. If the rest decides the task, the prefix is superfluous. If not, it is all there is.
#
# The same from the other side: a task that was never trained, under a prefix that looks like those that were.

# %% mystnb={"figure": {"name": "tab-t5-german", "caption": "What known phrases become under prefixes, in per cent of 300 phrases: the French reference, the Chinese reference, or something else; and the number of answers with Germany or German in them."}} tags=["nbval-ignore-output"]
chinese = {p.source.removeprefix(tasks.PREFIXES["zh"]): p.target for p in splits["zh"]["train"]}
french = {p.source.removeprefix(tasks.PREFIXES["fr"]): p.target for p in splits["fr"]["train"]}
common = [source for source in french if source in chinese][:300]
prefixes = [f"translate English to {language}: " for language in ("French", "Chinese", "German")]
rows = []
for prefix in (*prefixes, "translate: ", "French: ", ""):
    found = model([prefix + source for source in common])
    shares = [
        sum(text == right[source] for text, source in zip(found, common, strict=True))
        for right in (french, chinese)
    ]
    percent = [round(100 * share / len(common)) for share in shares]
    german = sum("德国" in text or "llemand" in text or "llemagne" in text for text in found)
    rows.append((f"`{prefix or 'none'}`", *percent, 100 - sum(percent), german, found[5]))
heads = ["prefix", "French", "Chinese", "else", "with Germany in it", "one of them"]
Markdown(tabulate(rows, heads, tablefmt="pipe"))

# %% [markdown]
# {numref}`tab-t5-german`: nobody has shown the model a translation into German, and it does not refuse. Two thirds of
# its answers are *about* Germany or German: such a word in a source has always been something to translate, so that
# is what it does with it. With *translate:* alone it takes one of the two languages it knows: often a right answer to
# a question that nobody asked. An unknown prefix fails silently, which is the danger of it.
#
# What did the real T5 learn? Its questions came from reading-comprehension data, as `question: … context: …`, with a
# passage in which the answer stands {cite}`raffel2020`. `Q:` is in none of its tasks, and without a passage it is asked
# to answer from memory, which took a further training in the paper that studied it {cite}`roberts2020`. So what
# document 2's sample prints says little about T5's ability to answer questions ({ref}`err-t5-prefix`).
#
# And our model's ability? It has nearly all of 126 capitals by heart. Of the countries that were held out it was
# asked as well, in {numref}`tab-t5-marks`. Here are its answers to the first of them:

# %% tags=["nbval-ignore-output"]
test, found = splits["capital"]["test"], answers_by_task["capital"]["T5"]
capitals = {pair.target for pair in known}
for pair, text in list(zip(test, found, strict=True))[:6]:
    print(f"{pair.names[0]}: {text}   (right: {pair.target})")
print(
    "answers that are capitals of other countries:",
    sum(text in capitals for text in found),
    "of",
    len(test),
)

# %% [markdown]
# Fluent, confident, wrong: {term}`hallucination` in a model small enough to see why. It has been trained to answer
# every question of this form, never to say that it does not know, and {prf:ref}`thm-t5-names` says that it cannot
# know. A fact that is not in the data is not in the model.
#
# (sec-t5-spans)=
# ## Span corruption
#
# All four tasks needed pairs. Text without a partner is available in any amount, and T5's first training, {term}`span
# corruption`, lives on it. Take a text, remove some spans, and mark each gap by a {term}`sentinel`. The source is the
# text with the gaps, the target says what stood in each. The example of the paper, by our code:

# %%
sentence = "Thank you for inviting me to your party last week ."
words = Words.train(sentence, len(SPECIALS) + 256 + 11, specials=SPECIALS)
ids = words.encode(sentence)
hidden = torch.tensor([word in ("for", "inviting", "last") for word in sentence.split()])
source, target = corrupt(ids, hidden, sentinels=range(2, 66))
print(words.decode(source), words.decode(target), sep="\n")

# %% [markdown]
# Two properties distinguish this from BERT's masks ({ref}`ch-bert`). A gap does not tell how many tokens are missing,
# so the model has to decide that as well. And the target is short, since what is kept is not written again. How short?
# With a share $r$ of the $N$ tokens hidden in spans of mean length $\mu$, there are $rN/\mu$ sentinels on each side;
# with an end on both and the last sentinel of the target,
#
# $$
# S = N - rN + \frac{rN}{\mu} + 1, \qquad T = rN + \frac{rN}{\mu} + 2 .
# $$ (eq-t5-lengths)
#
# Which spans? The kept tokens are cut into as many pieces as there are spans, every way of cutting equally likely,
# and so are the hidden ones; pieces and spans take turns. For a window of 512 tokens, {eq}`eq-t5-lengths` holds up to
# rounding:

# %%
generator = torch.Generator().manual_seed(0)
hidden = spans(512, 0.15, 3.0, generator)
source, target = corrupt(list(range(100, 612)), hidden, range(2, 66))
n = round(round(512 * 0.15) / 3)
assert len(source) + 1 == 512 - 77 + n + 1 and len(target) + 1 == 77 + n + 2
print(
    f"512 tokens: source {len(source) + 1}, target {len(target) + 1}, of them hidden {hidden.sum()}"
)
print("the first 60, hidden ones as #:", "".join("#" if h else "." for h in hidden[:60]))

# %% [markdown]
# Now on real text, the plays of {ref}`ch-text`, character by character, for a minute at most. Of each window of 64
# characters 3 in 10 are hidden, twice T5's share: only what is hidden is scored, and we have little time. (GPT scores
# every token. That is what looking in both directions costs.)

# %% tags=["nbval-ignore-output"]
plays = data.load("shakespeare")
letters = Characters.train(plays.text("train") + plays.text("validation"), SPECIALS)
text = torch.tensor(letters.encode(plays.text("train")[:1_500_000]))
held = torch.tensor(letters.encode(plays.text("validation")[100_000:132_500])).reshape(500, 65)
torch.manual_seed(0)
filler = T5(replace(multitask.SHAPE, vocab_size=letters.vocab_size))
plan = TrainConfig(
    320, 40, 0.015, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=40
)
stream = sample_spans(text, 64, plan.batch_size, share=0.3)
log = presets.fit(filler, stream, plan, "spans", *multitask.DECISIVE)
print("nats per token of the targets:", [f"{record['train_loss']:.1f}" for record in log])

# %% [markdown]
# Is it any good? In 500 windows of held-out plays we hide one span of three characters in the middle, and ask what
# they cost, in nats per character. For comparison: the frequencies of single characters; a Kneser–Ney 5-gram
# ({ref}`ch-ngram`), which has counted all the training text and sees four characters to the left; and the model itself
# when everything to the right of the gap is cut off.

# %%
gap = slice(31, 34)
inside = [[2, *row[gap].tolist()] for row in held]  # what the sentinel hides
whole = [[*row[:31].tolist(), 2, *row[34:].tolist()] for row in held]
cut = [[*row[:31].tolist(), 2] for row in held]


@torch.no_grad()
def paid(sources):
    """Nats per hidden character of every window."""
    batch = pairs(sources, inside)
    log_probs = filler(*batch.inputs).log_softmax(-1)[:, 1:4]  # after the sentinel
    return -log_probs.gather(-1, batch.targets[:, 1:4, None])[..., 0].mean(1).double()


counting = ngram.ModifiedKneserNey(count(text, 5, letters.vocab_size))
shares = (torch.bincount(text, minlength=letters.vocab_size).double() + 1) / len(text)
bill = {
    "frequencies": -shares.log()[held[:, gap]].mean(1),
    "5-gram, from the left": -counting.score(held)[:, 30:33].mean(1),
    "T5, right side cut off": paid(cut),
    "T5, both sides": paid(whole),
}

# %% mystnb={"figure": {"name": "tab-t5-spans", "caption": "Nats per hidden character on held-out plays, with 95 % intervals over 500 windows."}} tags=["nbval-ignore-output"]
margin = lambda nats: 1.96 * nats.std().item() / len(nats) ** 0.5
rows = [(name, f"{nats.mean():.2f} ± {margin(nats):.2f}") for name, nats in bill.items()]
gain = bill["T5, right side cut off"] - bill["T5, both sides"]
print(
    f"what the right side is worth to T5: {gain.mean():.2f} ± {margin(gain):.2f} nats a character"
)
Markdown(tabulate(rows, ["method", "nats per character"], tablefmt="pipe"))

# %% tags=["nbval-ignore-output"]
read = lambda ids: letters.decode(ids).replace("\n", "/")
sources = [[*row, END] for row in whole[5:9]]
for row, filled in zip(held[5:9], answers(filler, sources, 8), strict=True):
    before, hidden, after = (
        read(row[part].tolist()) for part in (slice(10, 31), gap, slice(34, 55))
    )
    print(f"{before}[{hidden}]{after}   filled in: {read([i for i in filled if i > 65])!r}")

# %% [markdown]
# The loss of this training falls nicely, from 3.6 to 2.2 nats. {numref}`tab-t5-spans` shows what that is worth: *the
# model does not read what stands to the right of the gap*. With that half of the source cut off it pays the same, and
# nearly twice what the 5-gram pays. It seems to have learnt how frequent characters are, which one follows which within
# a gap, and that sentinels and the end come when they come. Nothing in the curve tells; the comparison with a part
# hidden does, and it is the same test that we put to the picture of the date.
#
# In {numref}`fig-t5-loss` the translations were down to one nat within two hundred steps, since every pair says the
# same thing: this word stands for that one. A gap in a play says less, and each of its sentinels has first to be
# found. T5's baseline was pretrained on 34 billion tokens {cite}`raffel2020`, forty thousand times as many as our
# windows held. So nothing follows from our minute about what span corruption is worth; {ref}`ch-bert` trains its
# relative, the masked language model, on half as many characters, and {ref}`ch-finetuning` measures what a
# pretraining brings to a task.
#
# ## The answer
#
# *How does one network turn any text into any other?* As a language model of the target that looks back at a source:
# two stacks, a bias on distances, one loss. The task is a part of the source. In one training our model learnt two
# translations, the dates of ten languages and nearly all of 126 capitals.
#
# *And how can we tell a good translation from a plausible one?* By references that are exact, and by saying of each
# test pair what is new in it. The model that is right on nine of ten new phrases is right on fewer than two new names
# in a hundred, and on no list of four. A mean over all of them would describe the mixture and not the model. All its
# answers look alike; its own probabilities, though, tell the right from the wrong. And by a baseline: on new phrases,
# where it translates best, a phrase book of two dozen lines does better.
#
# ## What we learnt
#
# - An encoder-decoder is a language model of the target with a source; generation, beams and loss stay as they were.
# - T5 tells positions apart by a learnt bias on bucketed distances, shared by all layers. It has no end.
# - With exact references a mark is a fact; what is new in a test pair, the phrase, the form or the name, decides what
#   the mark means.
# - Cross-attention shows where a decoder reads. Whether the information came from there is another question, and can be
#   tested by hiding.
# - A name that was never seen cannot be known where it is a convention, by any model.
# - A prefix is a part of the input like any other. One that was not trained means nothing, and the model answers
#   anyway.
# - Span corruption makes a text-to-text task of any text, with gaps of unknown length and short targets.
# - A falling loss does not show that a model reads its source. Hide a part: if the loss stays, that part was not read.
#
# ## Exercises
#
# ```{exercise} The bucket of a distance
# :label: ex-t5-bucket
#
# Write `bucket(d, n, m)`: {eq}`eq-t5-bucket` for one direction, a distance $d \ge 0$, $n$ buckets, and the last one
# reached at distance $m$. Use `math.log`, and mind what happens just below a power.
# ```


# %% tags=["exercise"]
def bucket(d, n=32, m=128):
    """The bucket of a distance d >= 0, of n buckets, where all distances from m on share the last."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def bucket(d, n=32, m=128):
    """The bucket of a distance d >= 0, of n buckets, where all distances from m on share the last."""
    import math

    exact = n // 2
    if d < exact:
        return d
    return min(n - 1, exact + int(math.log(d / exact) / math.log(m / exact) * (n - exact)))


# %% tags=["check"]
distances = [
    d for d in range(300) if d not in (32, 64)
]  # there the logarithms are whole numbers, up to rounding
expected = relative_buckets(-torch.tensor(distances), both_sides=False).tolist()
assert [bucket(d) for d in distances] == expected, "one of the default buckets is wrong"
both = relative_buckets(-torch.tensor(distances), both_sides=True).tolist()
assert [bucket(d, n=16) for d in distances] == both, "n is not used"
assert range(32)[bucket(20)] == 17, "a bucket is a place in a table: a whole number"
assert bucket(300, n=8, m=20) == 7 and bucket(5, n=8, m=20) == 4 and bucket(9, n=8, m=20) == 6
print("buckets as in T5")

# %% [markdown]
# ```{exercise} Undo the corruption
# :label: ex-t5-restore
#
# Write `restore(source, target, sentinels)`: the ids of the text that `corrupt` has taken apart. The target ends with
# a sentinel that hides nothing.
# ```


# %% tags=["exercise"]
def restore(source, target, sentinels):
    """The text whose gaps are sentinels in source, and are filled by what follows each of them in target."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def restore(source, target, sentinels):
    """The text whose gaps are sentinels in source, and are filled by what follows each of them in target."""
    filled, name = {}, None
    for token in target:
        if token in sentinels:
            name = token
            filled[name] = []
        else:
            filled[name].append(token)
    return [token for one in source for token in filled.get(one, [one])]


# %% tags=["check"]
assert restore([109, 2, 107], [2, 105, 106, 3], range(2, 66)) == [109, 105, 106, 107]
for seed in range(20):
    length = 10 + 5 * seed
    whole = [100 + i * i % 11 for i in range(length)]  # a text repeats its tokens
    hidden = spans(length, 0.3, 2.0, torch.Generator().manual_seed(seed))
    assert restore(*corrupt(whole, hidden, range(2, 66)), range(2, 66)) == whole, seed
source, target = [5, 70, 6], [70, 7, 71]
assert restore(source, target, range(70, 80)) == [5, 7, 6], "sentinels is not used"
assert (source, target) == ([5, 70, 6], [70, 7, 71]), "the lists that were given must stay"
print("every text is whole again")

# %% [markdown]
# ```{exercise} An interval for a share
# :label: ex-t5-wilson
#
# With $k$ of $n$ right, the naive interval $\hat p \pm z \sqrt{\hat p (1 - \hat p) / n}$ says that 15 wrong of 15
# prove a share of exactly zero. Wilson's interval holds all $p$ for which $|\hat p - p| \le z \sqrt{p (1 - p) / n}$.
# Solve that for $p$, and write `interval(k, n, z)`, the pair of its ends. Do not call `binomtest`.
# ```


# %% tags=["exercise"]
def interval(k, n, z=1.959964):
    """The two values of p at which |k / n - p| = z sqrt(p (1 - p) / n)."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def interval(k, n, z=1.959964):
    """The two values of p at which |k / n - p| = z sqrt(p (1 - p) / n)."""
    share, width = k / n, z * z / n
    middle = (share + width / 2) / (1 + width)
    half = (share * (1 - share) * width + width * width / 4) ** 0.5 / (1 + width)
    return middle - half, middle + half


# %% tags=["check"]
for k, n in ((0, 15), (15, 15), (3, 20), (700, 1000)):
    low, high = interval(k, n)
    ends = binomtest(k, n).proportion_ci(method="wilson")
    assert abs(low - ends.low) < 1e-6 and abs(high - ends.high) < 1e-6, (k, n)
assert "binomtest" not in interval.__code__.co_names, "solve for p"
assert interval(5, 10, z=1.0)[1] < interval(5, 10, z=2.0)[1], "a larger z makes a wider interval"
assert all(abs((0.3 - p) ** 2 - p * (1 - p) / 10) < 1e-9 for p in interval(3, 10, z=1))
print(f"0 of 15 right: at most {100 * interval(0, 15)[1]:.0f} % could be")

# %% [markdown]
# ```{exercise} Where the loss comes from
# :label: ex-t5-shift
#
# Write `decoder_rows(target)`: for one target without its end, the pair (what the decoder reads, what it has to say),
# both lists of the same length, with `PAD` as start and `END` as end. Do not call `pairs`. The check trains nothing; it
# compares the loss with that of `pairs`, and with the probability of the whole target by {eq}`eq-t5-conditional`.
# ```


# %% tags=["exercise"]
def decoder_rows(target):
    """What the decoder reads and what it has to say, place by place."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def decoder_rows(target):
    """What the decoder reads and what it has to say, place by place."""
    return [PAD, *target], [*target, END]


# %% tags=["check"]
source, target = [50, 51, 52], [70, 71, 72, 73]
read, say = decoder_rows(target)
assert len(read) == len(say) == 5, "the end has to be said as well"
assert "pairs" not in decoder_rows.__code__.co_names, "write it out"
logits = small(torch.tensor([[*source, END]]), torch.tensor([read]))
mine = loss(logits, torch.tensor([say]))
batch = pairs([source], [target])
torch.testing.assert_close(mine, loss(small(*batch.inputs), batch.targets))
chain = 0.0
for t, token in enumerate([*target, END]):  # one factor at a time, nothing to the right in sight
    step = small(torch.tensor([[*source, END]]), torch.tensor([[PAD, *target[:t]]]))
    chain -= step[0, -1].log_softmax(-1)[token]
torch.testing.assert_close(5 * mine, chain)
print("the loss is the mean of", len(say), "factors")

# %% [markdown]
# ## Further reading
#
# - Raffel and colleagues {cite}`raffel2020`: T5, and an unusually thorough comparison of objectives, architectures,
#   mixtures and sizes.
# - Vaswani and colleagues {cite}`vaswani2017`: the encoder-decoder for translation with which the Transformer began.
# - Sutskever and colleagues {cite}`sutskever2014` and Bahdanau and colleagues {cite}`bahdanau2015`: the same idea with
#   recurrent networks, without attention and with it.
# - Lewis and colleagues {cite}`lewis2020bart` damage text in more ways than one, and compare.
# - Roberts and colleagues {cite}`roberts2020`: how many facts fit into the weights.
# - Jain and Wallace {cite}`jain2019`: why a picture of attention is not an explanation.
# - See and colleagues {cite}`see2017`: a decoder that can copy.
