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
# (ch-finetuning)=
# # Fine-tuning: from a model of language to one that does a task
#
# **A pretrained model has read far more than we can label. How much is that worth when a task comes along, how little
# of the model has to move, and what does the move cost?**
#
# *About four minutes on two cores. You need {ref}`ch-transformer`; {ref}`ch-bert` for the encoder and the reviews,
# {ref}`ch-llm` for SmolLM2 and its chat template, {ref}`ch-training` for AdamW. Runs that take longer than a notebook
# should were recorded, with the command that repeats them.*
#
# Document 1 of the five essays describes in its section 3 how large models are made, in two stages. In
# {term}`pretraining` a model learns the statistics of language from text that nobody has labelled. In
# {term}`fine-tuning` it goes on learning on labelled data of one task. The order matters, since the first stage needs
# no labels and much computing, and the second needs labels and little computing. Earlier chapters were about the first
# stage. This one is about the second, in all the forms in which it is practised today:
#
# 1. say what is minimised, and why it is not the accuracy;
# 2. measure what pretraining is worth, in labels;
# 3. put a head on an encoder that finds an answer in a text;
# 4. move less: a frozen encoder, and {term}`LoRA`, derived, merged, and opened by a library that we did not write;
# 5. teach SmolLM2 a format by examples in its chat template, and measure what it has forgotten;
# 6. learn from preferences, without and with a flaw in the reward.

# %%
import contextlib
import copy
import io
import itertools
import random
import tempfile
import time
from functools import partial

import numpy as np
import torch
from babel import Locale
from IPython.display import Markdown
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tabulate import tabulate
from torch import nn

from minilm import bert, chat, data, llama, lora, metrics, plots, presets, tasks
from minilm.batching import pad
from minilm.contract import IGNORE, Batch, loss
from minilm.finetune import Example, draws, examples, turn
from minilm.generate import generate_batch
from minilm.gpt import GPT
from minilm.gpt2_files import save_gpt2
from minilm.heads import Classifier, SpanHead, best_span, frozen, trainable
from minilm.lora_files import save_lora
from minilm.machine import threads
from minilm.preference import Preference, divergence, dpo_loss, pairs
from minilm.train import TrainConfig, train
from minilm.transformer import Config

plots.use_style()
SLOW_START = {"weight_decay": 0.01, "betas": (0.9, 0.999), "schedule": "linear", "final": 0.0}

# %% [markdown]
# (sec-ft-objective)=
# ## Two stages, two objectives
#
# The first stage minimises the cross-entropy of the next token, or of a hidden one. About the second, document 1 says
# that it maximises "a task-specific objective such as classification accuracy". That cannot be meant literally
# ({ref}`err-accuracy-objective`). {term}`Gradient descent` asks how the objective changes when the weights change a
# little. Accuracy counts texts, and a small change of the weights moves no text across the border between two classes.
# Its slope is zero almost everywhere, and where it is not zero it does not exist.
#
# We can look at it. MiniLM, the encoder of {ref}`ch-bert`, turns 400 film reviews from the Rotten Tomatoes set
# {cite}`pang2005` into vectors. On top sits the smallest head there is, one linear layer. We walk from its first
# weights along the direction of the negative gradient of the {term}`cross-entropy`, and note both numbers on the way.

# %%
reviews = data.load_labelled("rotten-tomatoes")
encoder, units = bert.load("all-minilm")
some = random.Random(0).sample(reviews.train, 400)
labels = torch.tensor([label for _, label in some])
with threads():
    vectors = bert.embed(encoder, units, [text for text, _ in some]).double()
vectors = 10 * (vectors - vectors.mean(0))

torch.manual_seed(0)
weights = (torch.randn(384, 2, dtype=torch.float64) / 10).requires_grad_()
(downhill,) = torch.autograd.grad(-loss(vectors @ weights, labels), weights)
lengths = np.linspace(0, 2, 1200)
with torch.no_grad():
    walk = [vectors @ (weights + length * downhill) for length in lengths]
losses = [loss(logits, labels).item() for logits in walk]
accuracies = [(logits.argmax(1) == labels).double().mean().item() for logits in walk]

# %% mystnb={"figure": {"name": "fig-ft-accuracy", "caption": "One walk along the gradient of the loss, measured twice. The loss has a slope everywhere; the accuracy is a staircase whose steps are flat."}, "image": {"alt": "Two line charts over the length of the walk. Left, the cross-entropy falls in a smooth curve from 0.85 to 0.48 nats. Right, the accuracy climbs from 0.50 to 0.77 in small level steps, some of them downwards."}}
one, two = plots.panels(2, size=(7.2, 3.0), share_y=False)
plots.lines(lengths, {"loss": losses}, "length of the walk", "nats per text", ax=one)
plots.lines(lengths, {"accuracy": accuracies}, "length of the walk", "share right", ax=two)
flat = np.mean(np.diff(accuracies) == 0)
print(f"neighbouring points with the same loss: {np.mean(np.diff(losses) == 0):.0%}")
print(f"neighbouring points with the same accuracy: more than 80 %: {flat > 0.8}")

# %% [markdown]
# {numref}`fig-ft-accuracy` shows why a smooth substitute is minimised and the count is only *reported*. The substitute
# is the cross-entropy of the right class, the same `contract.loss` that trained every model of this book; a class is a
# token of a very small vocabulary.
#
# The two can disagree. Multiply all logits by a constant: no text changes its class, so the accuracy stays what it is,
# and the loss first falls and then rises without bound, because the texts that are wrong become wrong with ever more
# confidence {cite}`guo2017`.

# %%
logits = vectors @ downhill
for scale in (0, 1, 10, 100):
    right_share = ((scale * logits).argmax(1) == labels).double().mean()
    print(f"logits x {scale:3}: loss {loss(scale * logits, labels):6.3f}, right {right_share:.2f}")

# %% [markdown]
# (The first line is a head that knows nothing: a loss of $\log 2$, and every tie given to class 0.)
#
# So there is one objective for both stages. What changes is the data, the output layer, and where the weights start.
#
# (sec-ft-gain)=
# ## What pretraining is worth
#
# That the start matters is the claim behind both stages {cite}`dai2015,howard2018,radford2018,devlin2019`. It can be
# tested cleanly: take one architecture, once with its published weights and once with random ones, and fine-tune
# both on the same labels. Our classifier takes the mean of the hidden states as a summary of the text and puts one
# linear layer on it:
#
# $$
# z = W \, \frac{1}{T} \sum_{t=1}^{T} h_t + b, \qquad W \in \mathbb{R}^{C \times D}.
# $$ (eq-ft-classifier)
#
# Why the mean and not the first token, `[CLS]`? This encoder was trained with the mean {cite}`reimers2019`, so a
# summary is already there, while its `[CLS]` never had to hold one. `first_pool` is the other choice. Here is one point
# of the comparison, 200 labels, each read three times. It is accurate to about three points, since 800 texts are
# measured.


# %%
def classifier(start, seed=0):
    torch.manual_seed(seed)
    base = copy.deepcopy(encoder) if start == "pretrained" else bert.BERT(encoder.config)
    return Classifier(base, 2)


def accuracy(model, texts):
    texts, classes = zip(*texts, strict=True)
    classes, guesses = torch.tensor(classes), torch.empty(len(texts), dtype=torch.long)
    with threads(), torch.no_grad():
        for places, ids, mask in bert.by_length(units, texts, length=48):
            guesses[places] = model.eval()(ids, mask).argmax(1)
    return (guesses == classes).double().mean().item()


def tune(model, texts, passes, rate, seed=0):
    steps = passes * len(texts) // 16
    config = TrainConfig(steps, 16, rate, warmup=steps // 10, seed=seed, **SLOW_START)
    train(model, bert.labelled(units, texts, 16, length=48, seed=seed), config, progress=False)
    return model


# %%
few = random.Random(0).sample(reviews.train, 200)
for start in ("pretrained", "random"):
    model = tune(classifier(start), few, passes=3, rate=1e-4)
    share = accuracy(model, reviews.validation)
    print(f"{start}: better than 60 %: {share > 0.6}")

# %% [markdown]
# Two hundred sentences with a label are not enough to learn English from, and that is what the random model would have
# to do first. {numref}`fig-ft-gain` has the whole comparison, recorded with the command printed below. A classical
# baseline stands beside it: counts of words and pairs of words, weighted by rarity, and logistic regression on them.
# It has no pretraining either, but unlike a random Transformer it has little to learn.

# %%
record = presets.recorded("labels")
measured = record["rows"]
sizes = sorted({row["labels"] for row in measured})


def shares(start, how, n):
    """Validation accuracy of every seed."""
    wanted = {"start": start, "how": how, "labels": n}
    return [r["log"][-1]["accuracy"] for r in measured if wanted.items() <= r.items()]


def bag_of_words(n, seed):
    texts, classes = zip(*random.Random(seed).sample(reviews.train, n), strict=True)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10))
    held_out, truth = zip(*reviews.validation, strict=True)
    return model.fit(texts, classes).score(held_out, truth)


curves = {
    "MiniLM, pretrained": [np.mean(shares("pretrained", "full", n)) for n in sizes],
    "bag of words": [np.mean([bag_of_words(n, seed) for seed in range(3)]) for n in sizes],
    "MiniLM, random start": [np.mean(shares("random", "full", n)) for n in sizes],
}
print(record["command"])

# %% mystnb={"figure": {"name": "fig-ft-gain", "caption": "What pretraining is worth: accuracy on 800 reviews held out, by the number of labelled reviews. Means over two seeds (one for the random start, three for the bag of words). A share of 0.75 has a 95 % interval of about 0.03 to either side."}, "image": {"alt": "Line chart with a logarithmic axis of labels from 50 to 800. The pretrained encoder lies on top and rises from 0.65 to 0.74, bag of words rises from 0.55 to 0.67 below it, the encoder with a random start stays at one half."}}
ax = plots.lines(sizes, curves, "labelled reviews", "share right", log="x")
plots.plain_ticks(ax, "x").set_ylim(0.47, 0.84)  # room for the legend
ax.legend(loc="upper left")
print(tabulate({"labels": sizes, **curves}, headers="keys", floatfmt=".2f"))
print(f"bag of words, all {len(reviews.train):,} labels: {bag_of_words(len(reviews.train), 0):.2f}")

# %% [markdown]
# Read the figure from left to right, along a horizontal line. The pretrained encoder with 200 labels is ahead of
# counted words with 800, and with 800 it is level with what counted words make of *all* 6,129 reviews (the last line
# printed). In this range pretraining is worth a factor of the order of ten in labels. (The curve flattens because 800
# labels were read once and 200 three times, to keep the record short; {ref}`ch-bert` trains on.) The random start
# stays at one half, the share of a coin: a few dozen steps are too few to learn what a word is, let alone what it
# says about a film. It would get somewhere with more labels and many more passes, and this record does not say where;
# what it says is that at these sizes and for this budget nothing came of it. Counting words, which has just as little
# pretraining, does far better. So "no pretraining" is not the whole explanation: a flexible model pays for its
# freedom in labels, a rigid one pays less.
#
# What differs between the two MiniLMs is nothing but their initial weights. That is all that pretraining is, seen from
# the second stage: a place to start from.
#
# (sec-ft-span)=
# ## An answer inside a text
#
# The second head finds an answer in a passage: where does it begin, where does it end? That is extractive question
# answering {cite}`rajpurkar2016,devlin2019`. Two linear scores for each token are enough,
#
# $$
# P(\text{begin} = t) = \operatorname{softmax}(a^\top h_1, \dots, a^\top h_T)_t, \qquad
# P(\text{end} = t) = \operatorname{softmax}(b^\top h_1, \dots, b^\top h_T)_t,
# $$ (eq-ft-span)
#
# and the loss is the mean of two cross-entropies, each a choice among the $T$ tokens. `SpanHead` returns both rows as
# logits (B, 2, T), so loss and trainer stay what they were. Tokens of the question and padding get $-\infty$.
#
# Sets of questions with clear rights are rare, so we make one, with an advantage over most: its facts are *invented*.
# Each passage tells three facts about up to three countries, how they pay, what they speak or who governs them, drawn
# at random. No model can
# know that from before, so a right answer has been read. Every fifth country is kept for the test, and so is one
# wording of each kind of sentence and of question.

# %%
en = Locale("en")
countries = sorted(x for code, x in en.territories.items() if len(code) == 2 and x.isascii())
moneys = sorted(x for x in en.currencies.values() if x.isascii() and len(x.split()) == 2)
tongues = sorted(x for code, x in en.languages.items() if len(code) == 2 and x.isascii())
first = "Anna Boris Carla David Elena Felix Greta Henry Irene Jakob Karin Louis".split()
last = "Adler Brandt Conti Dubois Egan Fischer Gomez Hansen Ivanov Jensen Kovacs Lopez".split()
rulers = [f"{a} {b}" for a, b in itertools.product(first, last)]

KINDS = [  # what is drawn, ways to say it, ways to ask for it; the last of each is kept for the test
    (moneys, ["In {c} people pay with the {x}.", "{c} uses the {x}.", "The money of {c} is the {x}."],
     ["What do people in {c} pay with?", "What is the money of {c}?"]),
    (tongues, ["Most people in {c} speak {x}.", "The language of {c} is {x}.", "In {c} one hears {x}."],
     ["What do people in {c} speak?", "What does one hear in {c}?"]),
    (rulers, ["{c} is governed by {x}.", "The president of {c} is {x}.", "{x} leads {c}."],
     ["Who governs {c}?", "Who leads {c}?"]),
]  # fmt: skip


# %%
def puzzle(rng, held_out=False, reworded=False):
    """Ids, types and the place of the answer: three facts of nine, and a question for one of them."""
    known = [c for i, c in enumerate(countries) if (i % 5 == 0) == held_out]
    facts = []
    for c, (values, says, asks) in itertools.product(rng.sample(known, 3), KINDS):
        say, x = says[2] if reworded else rng.choice(says[:2]), rng.choice(values)
        facts.append((asks[reworded].format(c=c), say.format(c=c, x=x), x))
    facts = rng.sample(facts, 3)
    question, sentence, answer = rng.choice(facts)
    passage = " ".join(fact[1] for fact in facts)
    before = passage[: passage.index(sentence) + sentence.index(answer)]
    ids, types = units.row(question, passage)
    begin = len(units.encode(question)) + 2 + len(units.encode(before))
    return ids, types, (begin, begin + len(units.encode(answer)) - 1)


def collate(puzzles):
    ids, types, spans = zip(*puzzles, strict=True)
    mask = pad([[1] * len(row) for row in ids], 0).bool()
    return Batch((pad(ids, units.pad_id), mask, pad(types, 0)), torch.tensor(spans))


# %%
ids, types, (begin, end) = puzzle(random.Random(1))
print(" ".join(units.tokens[i] for i in ids))
print("answer:", " ".join(units.tokens[i] for i in ids[begin : end + 1]))

# %% [markdown]
# What is a guess worth? Three sentences hold three answers. Whoever can tell an answer from other words and does not
# read the question is right once in three times. The head starts at zero, so before training nothing is found.


# %%
def found(model, puzzles):
    """Share of the answers found exactly, and its 95 % interval."""
    model.eval()
    with threads(), torch.no_grad():
        parts = [collate(puzzles[i : i + 50]) for i in range(0, len(puzzles), 50)]
        hits = [(best_span(model(*b.inputs)) == b.targets).all(1) for b in parts]
    return metrics.share(torch.cat(hits))


torch.manual_seed(0)
reader = SpanHead(copy.deepcopy(encoder))
puzzles = [puzzle(random.Random(i)) for i in range(1600)]
config = TrainConfig(100, 16, 4e-4, warmup=10, **SLOW_START)
log = train(reader, draws(puzzles, collate, 16), config, progress=False)

# %% tags=["nbval-ignore-output"]
exams = {"new countries": (True, False), "new countries, new wording": (True, True)}
for name, how in exams.items():
    share, low, high = found(reader, [puzzle(random.Random(10_000 + i), *how) for i in range(300)])
    print(f"{name}: {share:.0%} [{low:.0%}, {high:.0%}]")

# %% [markdown]
# Nobody had ever shown the encoder where in a passage an answer stands; what it brings along are vectors that depend on
# the context of a word. Sixteen hundred puzzles, read once, are enough to find most answers about countries that it was
# not trained on: far more than the third that a guess between three would give, though not all.
#
# The second line is lower, by about twenty points, and the more instructive of the two. The facts are of the same kind,
# the countries are as new; only the wording of facts and questions has changed. So a part of what was learned belonged
# to two ways of saying a thing, not to the thing. A test set that was split by country alone would never have told.
# Held-out *examples* measure whether a model has learned what the examples have in common; for anything further,
# something else has to be held out. {ref}`ch-t5` does the same with templates.
#
# (sec-ft-less)=
# ## Moving less: a frozen encoder, and LoRA
#
# Fine-tuning as above changes every weight, and each task ends with a model of its own, as large as the first. The
# other extreme changes none: the encoder is *frozen*, and the head alone learns, a {term}`probe` of what is there.
# `frozen(encoder)` does that. {ref}`ch-bert` has shown what it costs in accuracy. Between the extremes lies an idea
# that has become the usual way to tune large models {cite}`hu2022lora`.
#
# What fine-tuning adds to a weight matrix $W$ is a matrix $\Delta$ of the same size. But a few hundred examples hardly
# determine hundreds of thousands of numbers, and measurements say that a few directions suffice
# {cite}`aghajanyan2021`. So let $\Delta$ be a product of two thin matrices:
#
# $$
# y = W x + \frac{\alpha}{r} B A x, \qquad A \in \mathbb{R}^{r \times E}, \quad B \in \mathbb{R}^{D \times r}.
# $$ (eq-ft-lora)
#
# $W$ stays as it is. $A$ starts random and $B$ at zero, so the first step starts from exactly the pretrained model. The
# number $r$ is the rank, usually 4 to 64; dividing by it is meant to let the learning rate stay when the rank changes.
# What is trained is $r (D + E)$ numbers in place of $D E$. Written out, the class in `minilm.lora` is two products:


# %%
class Thin(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scale = frozen(base), alpha / rank
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


torch.manual_seed(0)
layer, x = nn.Linear(384, 384), torch.randn(5, 384)
thin = Thin(layer, rank=8, alpha=16)
torch.testing.assert_close(thin(x), layer(x))
print(f"{trainable(thin):,} numbers in place of {384 * 384 + 384:,}; at the start nothing changes")

# %% [markdown]
# ### Why not both at zero?
#
# Let $G = \partial \ell / \partial \Delta$ be the gradient that full fine-tuning would follow. By the chain rule
#
# $$
# \frac{\partial \ell}{\partial B} = \frac{\alpha}{r}\, G A^\top, \qquad
# \frac{\partial \ell}{\partial A} = \frac{\alpha}{r}\, B^\top G.
# $$ (eq-ft-lora-gradient)
#
# With $B = 0$ the second is zero and the first is not: $B$ moves first. It moves along $G A^\top$, the gradient as seen
# through $r$ random directions. Were $A$ zero as well, both would vanish and nothing would ever be learned. The cell
# checks {eq}`eq-ft-lora-gradient` against automatic differentiation.

# %%
thin, x, y = thin.double(), x.double(), torch.randn(5, 384, dtype=torch.float64)
nn.init.normal_(thin.B, std=0.1)
A, B, s = thin.A, thin.B, thin.scale
(thin(x) - y).square().sum().backward()
G = 2 * (thin(x) - y).T @ x  # the gradient with respect to the whole matrix
torch.testing.assert_close(B.grad, s * G @ A.T)
torch.testing.assert_close(A.grad, s * B.T @ G)
print("both gradients as derived")

# %% [markdown]
# ### What it saves, and what it does not
#
# - *Memory.* Training with AdamW keeps for each trained number its gradient and two running means, 12 bytes beside the
#   4 of the weight itself. For frozen weights only the 4 remain. The hidden states that the backward pass needs are
#   kept as before.
# - *Time.* A full step has three products for each matrix: one forward, one for the gradient of its input, one for the
#   gradient of the matrix. LoRA leaves out the third, so at best it takes two thirds of the time; its own thin products
#   and everything that is not a matrix come on top, and further below we measure four fifths. The forward pass and
#   the way of the gradient down to the first layer remain.
# - *Disk.* An adapter is a few megabytes, and many can share one base.
# - *At use* it costs nothing: $W + \frac{\alpha}{r} B A$ is a matrix like any other. `merge` adds it up.
#
# {numref}`tab-ft-variants` compares the three variants on 800 labels.

# %%
wrapped = lora.wrap(classifier("pretrained").encoder, rank=8, alpha=16, names=("qkv", "out"))
for _, part in lora.adapters(wrapped):
    nn.init.normal_(part.B, std=0.05)  # as if it had been trained
wrapped.double()
ids, mask = units.batch([text for text, _ in few[:4]])
with torch.no_grad():
    before = wrapped(ids, mask)
    merged = lora.merge(wrapped)
    torch.testing.assert_close(merged(ids, mask)[mask], before[mask], atol=1e-12, rtol=1e-12)
print("merged equals wrapped; layers wrapped now:", len(list(lora.adapters(merged))))

# %% mystnb={"figure": {"name": "tab-ft-variants", "caption": "Three ways to fine-tune MiniLM on 800 reviews, read once. Accuracy on 800 reviews held out, over the seeds of the record, and seconds of training on one core."}}
table = []
for how, name in (("frozen", "head alone"), ("lora", "LoRA, rank 8"), ("full", "everything")):
    wanted = {"start": "pretrained", "how": how, "labels": 800}
    rows = [row for row in measured if wanted.items() <= row.items()]
    seconds = np.mean([row["log"][-1]["seconds"] for row in rows])
    right = shares("pretrained", how, 800)
    table.append((name, rows[0]["trainable"], np.mean(right), min(right), max(right), seconds))
heads = ["trained", "numbers trained", "right", "worst seed", "best seed", "seconds"]
formats = ("", "", ".3f", ".3f", ".3f", ".0f")
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt=formats, intfmt=","))

# %% [markdown]
# The head alone already gets most of the way, in a third of the time: the encoder knows much about a review before it
# has seen a label. LoRA moves one number in eighty, is level with training all of them, and takes less time, as counted
# above (the machine was shared while these runs were recorded, so the seconds are rough; SmolLM2 is timed below).
# Differences of a point or two are within the interval of 800 texts, so this table does not say which of the two is
# better. It says that 800 labels do not need 22 million free numbers. With more labels the picture changes, and
# {ref}`ch-bert` has the frozen encoder fall behind.
#
# (sec-ft-peft)=
# ### Out of the house
#
# The library most people use for this is `peft`. Its files are a JSON with the settings and a safetensors file with
# `A` and `B` of each layer. `save_lora` writes them, in our names or in those of the GPT-2 or the Llama of
# `transformers`. The proof is that `peft` opens our adapter on *their* model, and gives our logits. Queries, keys and
# values are one matrix in our code, as in GPT-2, and get one pair of thin matrices. Llama has three matrices; there the
# same $A$ is written three times, each with its own rows of $B$.

# %%
torch.manual_seed(0)
ours = GPT(Config(vocab_size=300, context=32, d_model=48, n_layers=2, n_heads=4)).eval()
folder, adapter = tempfile.mkdtemp(), tempfile.mkdtemp()
names = ("qkv", "out", "inner", "outer")
with contextlib.redirect_stderr(io.StringIO()):
    from peft import PeftModel
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    units256 = llama.BPE.train("a small tokenizer that the folder needs", 300)
    save_gpt2(ours, units256, folder)
    lora.wrap(ours, rank=4, alpha=8, names=names)
    for _, part in lora.adapters(ours):
        nn.init.normal_(part.B, std=0.1)
    save_lora(ours, adapter, layout="gpt2", base=folder)
    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(folder), adapter).eval()

# %%
some_ids = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.testing.assert_close(theirs(some_ids).logits, ours(some_ids), atol=1e-4, rtol=1e-4)
    merged = theirs.merge_and_unload()(some_ids).logits
    torch.testing.assert_close(merged, lora.merge(ours)(some_ids), atol=1e-4, rtol=1e-4)
print("peft on transformers' GPT-2 gives our logits, wrapped and merged")

# %% [markdown]
# The tests of this book do the same with a Llama, and both ways: what `peft` has written, `load_lora` reads. Files that
# ask for a variant which computes something else (DoRA, other ranks in some layers) are refused by name.
#
# (sec-ft-instruct)=
# ## Instruction tuning
#
# A model that continues text does not answer. Asked a question, it may well go on with a second question, since in
# its texts lists of questions are common. {term}`Instruction tuning` is fine-tuning on pairs of request and answer
# {cite}`ouyang2022`, in a fixed form, the *chat template*, which says with special tokens who speaks.
# SmolLM2-Instruct {cite}`benallal2025` has been through that already; {ref}`ch-llm` has read its template. We go one
# step further and teach it one thing more: to write dates as the standard ISO 8601 has them. The dates come from
# CLDR, the right answer is one string of ten characters, and a rule can check it.

# %%
model, tokenizer = llama.load("smollm2")
SYSTEM = "Write the date as YYYY-MM-DD."
dates = tasks.load("date")


def english(split):
    return [pair for pair in dates[split] if pair.template.startswith("en")]


def request(pair):
    return turn(tokenizer, pair.source.removeprefix("date: "), pair.target, SYSTEM)


example = request(english("train")[0])
print(tokenizer.decode(example.prompt) + "|" + tokenizer.decode(example.answer))

# %% [markdown]
# Left of the bar stands the *prompt*, right of it the answer with the token that ends a turn. That token has to be
# learned like the rest: a model that was never shown it does not stop.
#
# Both go into one row, and the model predicts every next token of it. But the prompt will be given at use, so nothing
# is gained by learning to write it. Its targets are `IGNORE`:

# %%
batch = examples([Example([5, 6, 7], [8, 9])])
print("reads  ", batch.inputs[0][0].tolist())
print("scored ", ["-" if t == IGNORE else t for t in batch.targets[0].tolist()])

# %% [markdown]
# The last token of the prompt *has* a target: the first of the answer. One place further to the left or right and the
# model either learns to end prompts, or never learns how an answer begins. In symbols, for a prompt $x$ and an answer
# $y$,
#
# $$
# L(\theta) = -\frac{1}{\sum_i |y_i|} \sum_i \sum_{t} \log P_\theta(y_{i,t} \mid x_i, y_{i,<t}).
# $$ (eq-ft-instruct)
#
# Prompt and answer are also *encoded* apart. In one piece, a token could reach across the border, and the model would
# be trained on a prompt that it will never see ({ref}`ch-text` has the traps of joining tokens).
#
# Now sixteen steps of eight examples with LoRA. Before and after, the model answers the same 30 English dates of the
# validation split.


# %%
def answers(pairs_asked):
    prompts = [request(pair).prompt for pair in pairs_asked]
    stop = {tokenizer.specials[chat.END]}
    with threads():
        rows = generate_batch(model.eval(), prompts, 14, stop=stop, temperature=0.0)
    return [tokenizer.decode(row) for row in rows]


def exact(pairs_asked):
    return sum(a == pair.target for a, pair in zip(answers(pairs_asked), pairs_asked, strict=True))


exam = english("validation")[:30]
for pair, answer in zip(exam[:3], answers(exam[:3]), strict=True):
    print(f"{pair.source.removeprefix('date: '):30} {answer}")
before = exact(exam)

# %%
lessons = [request(pair) for pair in english("train")]


def step_seconds(repeats=2):
    """Seconds of one core from the batch to the gradients, the shortest of a few."""
    batch, seconds = examples(lessons[:8]), []
    for _ in range(repeats):
        started = time.process_time()  # not the time that other programs take
        loss(model(*batch.inputs), batch.targets).backward()
        seconds.append(time.process_time() - started)
        model.zero_grad()
    return min(seconds)


full_step = step_seconds()
lora.wrap(model, rank=8, alpha=16, names=("qkv", "out", "inner", "outer"))
print(f"{trainable(model):,} of {sum(p.numel() for p in model.parameters()):,} numbers are trained")

# %% tags=["nbval-ignore-output"]
lora_step = step_seconds()
print(f"gradients of eight examples, one core: full {full_step:.1f} s, LoRA {lora_step:.1f} s")
print(f"ratio {lora_step / full_step:.2f}; two products of three: 0.67")

# %%
config = TrainConfig(16, 8, 1e-3, weight_decay=0.0, warmup=2, schedule="linear", final=0.0)
log = train(model, draws(lessons, examples, 8), config, progress=False)

# %%
after = exact(exam)
for pair, answer in zip(exam[:3], answers(exam[:3]), strict=True):
    print(f"{pair.source.removeprefix('date: '):30} {answer}")
print(f"right before: fewer than 5 of 30: {before < 5}; after: more than 20: {after > 20}")

# %% [markdown]
# A hundred and twenty-eight examples, read once, and the form is there: ten characters, two hyphens, and an end.
# Compare what was learned with what was not. The model knew before that December is the twelfth month; it had read that
# many times. What the examples taught is what we want of it. This is the usual finding about instruction tuning: it
# brings out what pretraining has put in, in the form one asks for, and a few good examples go far {cite}`zhou2023lima`.
# The reverse is a warning. What is not in the model, examples of answers do not put there; they teach it to answer
# anyway.
#
# ### LoRA against full, and what is forgotten
#
# An adapter can be switched off, which makes it easy to see what it does elsewhere. Two questions, without the sentence
# about dates in front, and each answered without the adapter (alpha 0) and with it:

# %% tags=["nbval-ignore-output"]
for question in ("What is the capital of France?", "When did the Second World War end?"):
    for alpha in (0, 16):
        for _, part in lora.adapters(model):
            part.alpha = alpha
        said = chat.reply(
            model, tokenizer, [{"role": "user", "content": question}], 24, temperature=0.0
        )
        print(f"alpha {alpha:2}: {''.join(said)!r}")

# %% [markdown]
# {numref}`tab-ft-smollm2` has recorded runs of 16 steps, LoRA and full fine-tuning, two seeds each, every run in a
# process of its own so that the peaks of memory can be compared. Beside the dates it says what the tuning did
# elsewhere. Does it carry over to dates in German, Spanish, French, Italian and Dutch, none of which were trained on?
# And has the model got worse at what it could before? That is {term}`forgetting <catastrophic forgetting>`: the weights
# that hold everything else are the same that now move for the dates, and nothing in {eq}`eq-ft-instruct` holds them
# back {cite}`mccloskey1989`. It is measured twice, in {term}`bits per byte` on the beginnings of two texts of the
# validation splits, and by forty questions for capitals in the plain chat template.

# %% mystnb={"figure": {"name": "tab-ft-smollm2", "caption": "SmolLM2 tuned on English dates: LoRA of rank 8 and all weights. Right answers among 40 each; the peak of memory of the training process; the change in bits per byte on 8 kB of two other texts, with a paired 95 % interval."}}
smol = presets.recorded("smollm2")
table = []
for row in smol["rows"]:
    lost = [f"{m:+.3f} [{a:+.3f}, {b:+.3f}]" for m, a, b in row["change"].values()]
    peak = [f"{row['peak_mb'] / 1000:.1f} GB"] if lost else []
    table.append((row["how"], *row["right"].values(), *peak, *lost))
heads = ["trained", *smol["rows"][0]["right"], "peak", "Wikipedia", "Shakespeare"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# Read the table column by column.
#
# - *Quality.* Both learn the dates. Full fine-tuning gets all or all but one right, LoRA is three behind with one
#   seed and level with the other after the same 16 steps, at ten times the learning rate, which is usual for it.
# - *Other languages.* Between a quarter and a third is right after LoRA, a fifth after full, one in forty before. The
#   form carries over at once; the names of the months are another matter.
# - *Memory.* 2.0 GB against 3.1 GB. The difference, 1.1 GB, is less than the 12 bytes for each of 132 million numbers
#   that are not trained would make (1.6 GB); the peak of a process need not fall on the same moment in both runs.
# - *Forgetting, in bits.* Between two thousandths and two hundredths of a bit per byte. Small, and with one exception
#   the intervals exclude zero. LoRA pays *more* here than full fine-tuning. That is the opposite of what its reputation
#   says, "learns less and forgets less" {cite}`biderman2024`, and no contradiction: that was measured on long training,
#   and how much is forgotten depends on how far one moves, which is set by the rates. Ours were chosen for the dates.
# - *Forgetting, in answers.* Of forty capitals the model named 14 before. Afterwards it names 1 to 4. Nothing in the
#   columns of bits prepares for that, nor do the two famous questions above, whose answers have only become as short as
#   a date. (The record holds counts and not the answers, so it cannot say in what way the others went wrong.) Under
#   LoRA the knowledge is certainly still there, since the weights that hold it did not move and switching the adapter
#   off brings it back.
#
# So a single ruler does not measure forgetting. Predicting Wikipedia and answering a question use the same weights in
# different ways, and a tuning that hardly touches the one can wreck the other. The cure is nearly as old as the
# finding: mix examples of what is to be kept into what is learned.
#
# (sec-ft-preferences)=
# ## Learning from preferences
#
# Examples say: answer like this. Often it is easier to say which of two answers is better. The people who tuned
# InstructGPT did that in a second step {cite}`ouyang2022`: a reward model $r(x, y)$ is fitted to comparisons, and the
# model, now called the {term}`policy`, is trained to earn much of it by {term}`reinforcement learning`. What is
# maximised has two terms {cite}`ziegler2019`,
#
# $$
# J(\theta) = \mathbb{E}_{y \sim P_\theta(\cdot \mid x)}\bigl[ r(x, y) \bigr]
# - \beta \, D_{\mathrm{KL}}\bigl( P_\theta(\cdot \mid x) \,\|\, Q(\cdot \mid x) \bigr),
# $$ (eq-ft-objective)
#
# the reward, and a price for leaving the *reference* $Q$, the model before. The expectation is over the model's own
# answers, and this is where reinforcement learning comes in ({ref}`err-rl-book`): the answers depend on $\theta$, and
# drawing them has no derivative. The way around it is the policy gradient {cite}`williams1992,suttonbarto2018`,
# $\nabla \mathbb{E}[r] = \mathbb{E}\bigl[ r \, \nabla \log P_\theta(y) \bigr]$: draw answers, and make each likelier in
# proportion to its reward. With four answers the expectation is a sum, and both sides can be computed.

# %%
torch.manual_seed(0)
z = torch.randn(4, dtype=torch.float64, requires_grad=True)  # logits of four answers
reward = torch.tensor([1.0, 0.0, -1.0, 3.0], dtype=torch.float64)
P = z.softmax(0)
(exact_gradient,) = torch.autograd.grad(P @ reward, z, retain_graph=True)
jacobian = torch.stack([torch.autograd.grad(P[y].log(), z, retain_graph=True)[0] for y in range(4)])
torch.testing.assert_close(exact_gradient, (P * reward).detach() @ jacobian)
print("gradient of the expectation = expectation of reward times gradient of log P")

# %% [markdown]
# ### The best policy has a formula
#
# {term}`DPO` {cite}`rafailov2023` gets to the same goal without a reward model and without drawing answers while it
# trains. It starts from an observation.
#
# ```{prf:theorem} The optimum under a price for distance
# :label: thm-ft-optimum
# Over all distributions, {eq}`eq-ft-objective` is largest at
#
# $$
# P^*(y \mid x) = \frac{1}{Z(x)} \, Q(y \mid x) \, e^{r(x, y) / \beta}, \qquad
# Z(x) = \sum_y Q(y \mid x) \, e^{r(x, y) / \beta}.
# $$ (eq-ft-optimum)
# ```
#
# ```{prf:proof}
# Insert $r = \beta \log \frac{P^*}{Q} + \beta \log Z$ into {eq}`eq-ft-objective`. It becomes $\beta \log Z - \beta
# D_{\mathrm{KL}}(P \,\|\, P^*)$. The first term does not depend on $P$, and the divergence is smallest, zero, at $P =
# P^*$ ({prf:ref}`thm-gpt-kl`).
# ```
#
# Read backwards, every policy is the best one for *some* reward, $r(x, y) = \beta \log \frac{P(y \mid x)}{Q(y \mid
# x)} + \beta \log Z(x)$. And a comparison of two answers to one prompt only needs a difference of rewards, in which
# $Z$ cancels. With Bradley and Terry's {term}`model of a choice <Bradley-Terry model>` {cite}`bradley1952`, in which
# $y^+$ is preferred to $y^-$ with probability $\sigma(r(x, y^+) - r(x, y^-))$, the likelihood of the preferences is a
# function of the policy alone:
#
# $$
# L(\theta) = -\mathbb{E} \log \sigma \Bigl( \beta \log \frac{P_\theta(y^+ \mid x)}{Q(y^+ \mid x)}
# - \beta \log \frac{P_\theta(y^- \mid x)}{Q(y^- \mid x)} \Bigr).
# $$ (eq-ft-dpo)
#
# Look at it once more: $-\log \sigma(a - b)$ is the cross-entropy of choosing the first of two options with logits $a$
# and $b$. So DPO is one more `Batch`. `Preference` turns a policy into a chooser with the logits $\beta \log P / Q$,
# the target is always "the first", and loss, trainer and optimizer stay what they were in every chapter. Its gradient
# with respect to the log-probability of the better answer is
#
# $$
# \frac{\partial L}{\partial \log P_\theta(y^+)} = -\beta \, \sigma(b - a), \qquad
# \frac{\partial L}{\partial \log P_\theta(y^-)} = +\beta \, \sigma(b - a):
# $$ (eq-ft-dpo-gradient)
#
# probability minus truth again ({prf:ref}`thm-gpt-gradient`). A pair that is ordered rightly already moves little.

# %%
numbers = torch.randn(4, 6, dtype=torch.float64).unbind()  # log-probabilities of six pairs
better, worse, ref_better, ref_worse = (part.requires_grad_() for part in numbers)
value = dpo_loss(better, worse, ref_better, ref_worse, beta=0.5)
value.backward()
a, b = 0.5 * (better - ref_better), 0.5 * (worse - ref_worse)
chosen_first = torch.stack([a, b], 1)
torch.testing.assert_close(value, loss(chosen_first, torch.zeros(6, dtype=torch.long)))
torch.testing.assert_close(better.grad, -0.5 * (b - a).sigmoid() / 6)
torch.testing.assert_close(worse.grad, -better.grad)
print("loss = cross-entropy of a choice; gradient as derived")

# %% [markdown]
# And does minimising {eq}`eq-ft-dpo` lead to {eq}`eq-ft-optimum`? With all pairs of our four answers, each preferred as
# often as Bradley and Terry say, the two must agree.

# %%
Q, beta = torch.randn(4, dtype=torch.float64).log_softmax(0), 0.7
z = Q.clone().requires_grad_()
optimizer = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)


def all_pairs():
    optimizer.zero_grad()
    P, total = z.log_softmax(0), 0.0
    for i, j in itertools.permutations(range(4), 2):
        chance = (reward[i] - reward[j]).sigmoid()
        total = total + chance * dpo_loss(P[[i]], P[[j]], Q[[i]], Q[[j]], beta)
    total.backward()
    return total


optimizer.step(all_pairs)
torch.testing.assert_close(z.softmax(0), (Q + reward / beta).softmax(0), atol=1e-5, rtol=1e-4)
print("DPO ends at Q exp(r / beta) / Z:", [round(p, 2) for p in z.softmax(0).tolist()])

# %% [markdown]
# (sec-ft-task)=
# ## A task that a rule can judge
#
# Preferences of people are dear and noisy. To see what the method does, we take a task in which right is right: five
# digits are to be *sorted*. The policy is a {term}`GPT` of a hundred thousand weights, trained first on
# demonstrations, the way models are. And as demonstrations of people are, ours are imperfect. Two in five are right.
# The others swap two neighbours (which does no harm where these are equal), leave a digit out, or write one twice.

# %%
ASK, END = 10, 11  # beside the digits 0 to 9


def demonstrate(digits, rng):
    answer, draw = sorted(digits), rng.random()
    i = rng.randrange(len(answer) - 1)
    if 0.4 <= draw < 0.6:
        answer[i], answer[i + 1] = answer[i + 1], answer[i]
    elif 0.6 <= draw < 0.85:
        del answer[i]
    elif draw >= 0.85:
        answer.insert(i, answer[i])
    return answer


def prompts(n, rng):
    return [[*(rng.randrange(10) for _ in range(5)), ASK] for _ in range(n)]


rng = random.Random(0)
shown = [Example(prompt, [*demonstrate(prompt[:-1], rng), END]) for prompt in prompts(10_000, rng)]
print("".join(map(str, shown[0].prompt[:-1])), "->", "".join(map(str, shown[0].answer[:-1])))

# %%
shape = Config(12, context=20, d_model=64, n_layers=2, n_heads=4)
torch.manual_seed(0)
reference = GPT(shape)
config = TrainConfig(400, 64, 0.01, warmup=20, schedule="linear", final=0.0, optimizer="muon")
log = train(reference, draws(shown, examples, 64), config, progress=False)
reference.eval()


def write(policy, asked, seed):
    return generate_batch(policy, asked, 12, seed=seed, stop={END})


def right(prompt, answer):
    return float(answer == sorted(prompt[:-1]))


def measure(policy):
    """Share right, mean length, and nats from the reference, on 400 prompts of a fixed exam."""
    asked = prompts(400, random.Random(1))
    answers = write(policy, asked, seed=10**6)
    batch = examples([Example(p, [*a, END]) for p, a in zip(asked, answers, strict=True)])
    truth = np.mean([right(p, a) for p, a in zip(asked, answers, strict=True)])
    nats = divergence(policy, reference, batch.inputs[0], batch.targets).mean().item()
    return truth, np.mean([len(a) for a in answers]), nats


truth, length, nats = measure(reference)
print(f"after the demonstrations: right {truth:.1f}, mean length {length:.0f} digits")

# %% [markdown]
# It has learned to imitate: right about as often as its teachers. That is what maximum likelihood does
# ({prf:ref}`thm-gpt-kl`), and it is a limit of instruction tuning. Who imitates averages the teachers, faults included.
#
# Now preferences. In each round the policy answers prompts twice, a rule says which answer is better, ties are dropped,
# and one pass of DPO is made over the pairs. The next round draws from the policy as it then is; the reference stays
# the model that imitated.


# %%
def rounds(rule, seed, n=3, beta=0.5):
    """A policy after n rounds of DPO on pairs that the rule ordered, and what was measured after each."""
    policy, rng, log = copy.deepcopy(reference), random.Random(seed), [measure(reference)]
    for number in range(n):
        asked = prompts(800, rng)
        drawn = [write(policy.eval(), asked, seed=rng.randrange(10**6)) for _ in range(2)]
        ordered = [
            tuple(Example(p, [*a, END]) for a in sorted(two, key=partial(rule, p), reverse=True))
            for p, *two in zip(asked, *drawn, strict=True)
            if rule(p, two[0]) != rule(p, two[1])
        ]
        stream = draws(ordered, partial(pairs, reference), 32, seed=number)
        config = TrainConfig(len(ordered) // 32, 32, 1e-4, 0.0, warmup=3, final=1.0)
        train(Preference(policy, beta), stream, config, progress=False)
        log.append(measure(policy.eval()))
    return policy, log


honest = np.array([rounds(right, seed)[1] for seed in range(3)])  # seed, round, measure
first, end = honest[:, 0, 0].mean(), honest[:, -1, 0].min()
print(f"in every seed more than 0.05 better than the reference: {end > first + 0.05}")


# %% tags=["nbval-ignore-output"]
def show(log):
    for number, (truth, length, nats) in enumerate(log.mean(0)):
        print(f"round {number}: right {truth:.2f}, {length:.1f} digits, {nats:.2f} nats away")


show(honest)

# %% [markdown]
# Preferences reach what imitation could not: the policy becomes better than its teachers, by a rule that never shows it
# a right answer, and only says which of two answers of its own is better. It stays close. Its answers are a fraction of
# a nat from the reference, since what is wanted is in the reference already, in nearly every second answer. DPO moves
# weight towards it, as {eq}`eq-ft-optimum` says.
#
# Two things are worth knowing before trying this elsewhere. The step must be small. With ten times this learning rate
# the same rounds made the policy *worse* with the same honest rule: a sum over a whole answer is a steep function of
# the weights, and after an overshoot the pairs no longer come from where the policy is. And DPO looks at differences
# only, so both log-probabilities may fall, as long as that of the worse answer falls faster.
#
# (sec-ft-hacking)=
# ## Reward hacking
#
# Rewards in the world are rarely the thing itself. They are *proxies*: a number that goes with quality where we have
# looked. A well-known one is length. People prefer longer answers, reward models learn that they do, and policies that
# are tuned on them learn to write more, whether there is more to say or not {cite}`singhal2024`.
#
# Our task has such a proxy. Among the demonstrations an answer that lost a digit is too short, so in them longer is
# better, on average:

# %%
graded = [(len(e.answer) - 1, right(e.prompt, e.answer[:-1])) for e in shown]
for length in (4, 5, 6):
    shares = [r for n, r in graded if n == length]
    print(f"{length} digits: {len(shares) / len(graded):.2f} of them, {np.mean(shares):.2f} right")

# %% [markdown]
# From four digits to five the proxy is right: none of the shorter answers is correct, and most of those with five
# digits are. So somebody who looks at the correlation may well decide to reward length. The same rounds, the same
# policy to begin with, and one flaw:

# %%
runs = [rounds(lambda prompt, answer: len(answer), seed) for seed in range(3)]
hacker, hacked = runs[0][0], np.array([log for _, log in runs])

# %% tags=["nbval-ignore-output"]
asked = prompts(4, random.Random(2))
for prompt, answer in zip(asked, write(hacker, asked, seed=5), strict=True):
    print("".join(map(str, prompt[:-1])), "->", "".join(map(str, answer)))
show(hacked)

# %% mystnb={"figure": {"name": "fig-ft-hacking", "caption": "Over-optimisation of a flawed reward; means of three seeds, bands from the lowest to the highest. Left: what is rewarded, the length of the answer, rises with every round. Right: the share of right answers in the same rounds, and in those that rewarded the truth."}, "image": {"alt": "Two line charts over three rounds of DPO. Left, the mean length rises from about five digits to nearly eight. Right, the share of right answers starts near one half, rises towards two thirds where the truth is rewarded, and falls to nearly zero where length is."}}
one, two = plots.panels(2, size=(7.2, 3.0), share_y=False)
spread = lambda log, i: (log[:, :, i].min(0), log[:, :, i].max(0))
lengths = {"length rewarded": hacked[:, :, 1].mean(0)}
bands = {"length rewarded": spread(hacked, 1)}
plots.lines(range(4), lengths, "round", "digits in an answer", bands=bands, ax=one)
truths = {"truth rewarded": honest[:, :, 0].mean(0), "length rewarded": hacked[:, :, 0].mean(0)}
bands = {"truth rewarded": spread(honest, 0), "length rewarded": spread(hacked, 0)}
plots.lines(range(4), truths, "round", "share right", bands=bands, ax=two)
print(f"length at the end, every seed: more than 5.5 digits: {hacked[:, -1, 1].min() > 5.5}")
print(f"right at the end, every seed: fewer than one in ten: {hacked[:, -1, 0].max() < 0.1}")
farther = hacked[:, -1, 2].min() > honest[:, -1, 2].max()
print(f"nats from the reference: every hacked run farther than every honest one: {farther}")

# %% [markdown]
# The optimisation did what it was told ({numref}`fig-ft-hacking`). It found the one way to be longer that it had seen,
# writing a digit twice, and went on: in the demonstrations one answer in seven was longer than five digits, now nearly
# all are. The correlation that recommended the proxy is no lie: it holds over all answers. But it comes from the step
# from four digits to five. At six the proxy was wrong already, which a single correlation does not show, and there the
# policy went. That is {term}`reward hacking`; in economics it is known as Goodhart's law. The same gap opens under
# reward models that were fitted to the choices of people {cite}`stiennon2020`. Where a larger model stood in for the
# people, one could measure that it widens with the distance from the reference {cite}`gao2023`.
#
# What helps is visible in the same numbers.
#
# - *Measure the thing itself* on some answers, as the right panel does. The reward cannot tell you that it is wrong:
#   seen from the left panel alone, all is well.
# - *Watch the distance.* The honest rounds stayed within half a nat of the reference; the hacked ones left it by
#   several. A policy that is far away is somewhere where the proxy was never checked.
# - *Stop early, or pay more for distance:* a larger $\beta$. It slows the fall and does not mend the reward.
# - *Mend the reward.* Here the rule was one line away.
#
# (sec-ft-cost)=
# ## What makes it cheaper
#
# Document 4 names distributed training and pruning as answers to the cost of training ({ref}`err-pruning`). Neither
# makes training cheaper: many machines share the same work and add the talk between them, and pruning comes after the
# training it was to save. {ref}`ch-training` measured the first. This chapter has measured two things that do help.
#
# - *Start from pretrained weights.* In {numref}`fig-ft-gain` 200 labels and less than forty steps do what fifty steps
#   on 800 labels did not do from a random start. The cost of the first stage is not gone. It is paid once, by
#   somebody, and shared by all who start from the result.
# - *Move less.* {numref}`tab-ft-variants` and {numref}`tab-ft-smollm2` show what LoRA saves: a third of the products, a
#   third of the memory of SmolLM2's run, and nearly all of the storage for each further task.
#
# The rest of the list is elsewhere: better optimizers and smaller models with more data in {ref}`ch-training`, fewer
# bits for each weight in {ref}`ch-llm`.
#
# ## The answer
#
# *How much is pretraining worth, how little of the model has to move, and what does the move cost?* On film reviews
# it was worth about ten times as many labels. One number in eighty, trained as thin matrices, did what all did. A
# hundred and twenty-eight dates turned a model that ignored a format into one that keeps it, and the price was paid
# where the loss does not look: forgotten answers to other questions, and, where a rule rewarded what it could measure
# in place of what was meant, answers that are long and wrong.
#
# ## What we learnt
#
# - Both stages minimise a cross-entropy. Accuracy is a staircase: report it, and do not try to descend it.
# - Pretraining is worth labels, here about ten for one. Compare with the same architecture at random.
# - A head is one linear layer. A span is two choices among the tokens; loss and trainer stay the same.
# - LoRA adds a product of two thin matrices, starts at zero, and is gone after merging.
# - It saves the memory of the optimizer and a third of the products, not the forward pass.
# - Score the answer and not the prompt, and teach the token that ends a turn.
# - Tuning on one thing changes others. Bits per byte alone do not show what was forgotten: ask the old questions again.
# - The best policy under a price for distance is $Q e^{r/\beta} / Z$; DPO fits it as a choice between two answers.
# - A proxy is right on average. Optimised, it leads to where it is wrong, and the true score falls.
#
# ## Exercises
#
# ```{exercise} Mask the prompt
# :label: ex-ft-mask
#
# Write `masked(prompt, answer)`, which returns what a model reads and what it is scored on: two lists of the same
# length, `IGNORE` where nothing is scored. Do not call `examples`.
# ```


# %% tags=["exercise"]
def masked(prompt, answer):
    """Inputs and targets of one row, for lists of ids."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def masked(prompt, answer):
    """Inputs and targets of one row, for lists of ids."""
    return (prompt + answer)[:-1], [IGNORE] * (len(prompt) - 1) + answer


# %% tags=["check"]
for prompt, answer in (([5, 6, 7], [8, 9]), ([1], [2]), ([3, 3], [3, 3, 3])):
    batch = examples([Example(prompt, answer)])
    given = list(prompt), list(answer)
    read, scored = masked(*given)
    assert read == batch.inputs[0][0].tolist(), "what the model reads ends before the last id"
    assert scored == batch.targets[0].tolist(), "the last id of the prompt has a target"
    assert given == (prompt, answer), "the lists that were given must stay as they are"
assert "examples" not in masked.__code__.co_names, "write it out"

# %% [markdown]
# ```{exercise} Merge by hand
# :label: ex-ft-merge
#
# An adapter holds $A$ (r, E) and $B$ (D, r). Write `merge_by_hand(W, A, B, alpha)`, the one matrix that computes the
# same; the rank is to be read from the shapes.
# ```


# %% tags=["exercise"]
def merge_by_hand(W, A, B, alpha):
    """The matrix (D, E) of the merged layer."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def merge_by_hand(W, A, B, alpha):
    """The matrix (D, E) of the merged layer."""
    return W + alpha / len(A) * B @ A


# %% tags=["check"]
torch.manual_seed(1)
for rank, alpha in ((1, 16), (3, 2), (4, 4)):
    layer = lora.LoRA(nn.Linear(6, 5, bias=False).double(), rank, alpha)
    nn.init.normal_(layer.B)
    W = layer.base.weight.detach().clone()
    mine = merge_by_hand(W, layer.A, layer.B, alpha)
    vector = torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(mine @ vector, layer(vector))
    assert torch.equal(W, layer.base.weight), "the base must not change"
    torch.testing.assert_close(merge_by_hand(W, layer.A, 0 * layer.B, alpha), W)

# %% [markdown]
# ```{exercise} Memory
# :label: ex-ft-memory
#
# Write `training_bytes(frozen_numbers, trained_numbers)`: the bytes for weights, gradients and AdamW's two means in
# float32, without hidden states. How much does LoRA save for a model of 135 million weights, of which 2 million are
# trained? And for one of 7 billion, of which 20 million are? The check prints what your function says.
# ```


# %% tags=["exercise"]
def training_bytes(frozen_numbers, trained_numbers):
    """Bytes that weights, gradients and AdamW's state take, four a number."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def training_bytes(frozen_numbers, trained_numbers):
    """Bytes that weights, gradients and AdamW's state take, four a number."""
    return 4 * frozen_numbers + 16 * trained_numbers


# %% tags=["check"]
toy = nn.Sequential(frozen(nn.Linear(7, 5)), nn.Linear(5, 3))
optimizer = torch.optim.AdamW([p for p in toy.parameters() if p.requires_grad])
toy(torch.ones(1, 7)).sum().backward()
optimizer.step()
held = [p for p in toy.parameters()] + [p.grad for p in toy.parameters() if p.grad is not None]
held += [t for state in optimizer.state.values() for t in state.values() if t.dim()]
expected_bytes = sum(t.numel() * t.element_size() for t in held)
assert training_bytes(40, 18) == expected_bytes, f"AdamW on this toy holds {expected_bytes} bytes"
assert training_bytes(0, 1) == 16 and training_bytes(1, 0) == 4
for whole, thin in ((135e6, 2e6), (7e9, 20e6)):
    saved = training_bytes(0, whole) - training_bytes(whole - thin, thin)
    print(
        f"{whole / 1e6:,.0f} million, {thin / 1e6:.0f} of them trained: {saved / 1e9:.1f} GB saved"
    )

# %% [markdown]
# ```{exercise} The reward that a policy implies
# :label: ex-ft-reward
#
# Every policy is the best one for some reward. Write `implied_reward(P, Q, beta)` for two tensors of probabilities over
# the same answers; a constant is free, so let the mean of the rewards under $Q$ be zero.
# ```


# %% tags=["exercise"]
def implied_reward(P, Q, beta):
    """The reward of each answer under which P is the best policy, with mean 0 under Q."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def implied_reward(P, Q, beta):
    """The reward of each answer under which P is the best policy, with mean 0 under Q."""
    r = beta * (P.log() - Q.log())
    return r - (Q * r).sum()


# %% tags=["check"]
torch.manual_seed(2)
for beta in (0.1, 2.0):
    Q, r = torch.rand(5, dtype=torch.float64).softmax(0), torch.randn(5, dtype=torch.float64)
    best = (Q.log() + r / beta).softmax(0)
    torch.testing.assert_close(implied_reward(best, Q, beta), r - (Q * r).sum())

# %% [markdown]
# ## Further reading
#
# - {cite}`radford2018` and {cite}`devlin2019` made the two stages the rule; {cite}`howard2018` and {cite}`dai2015` came
#   before them, with recurrent networks.
# - {cite}`hu2022lora` on LoRA, with the ablations over ranks and layers; {cite}`biderman2024` on what it learns less
#   and forgets less.
# - {cite}`ouyang2022` on the three steps from a model of text to an assistant; {cite}`suttonbarto2018`, chapter 13, on
#   policy gradients.
# - {cite}`rafailov2023` on DPO; {cite}`gao2023` measure how a proxy and the truth part ways as a function of the
#   divergence.
