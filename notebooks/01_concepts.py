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
# (ch-concepts)=
# # What a language model is
#
# **The question of this chapter.** What does it mean to predict text, and how do we measure how
# well it is done?
#
# **Time.** About two minutes on two cores.
#
# **You need** Python and a first course in probability: conditional probability, expectation,
# logarithms. No earlier chapter. The symbols are those of {ref}`page-notation`; words set as
# links, such as {term}`token`, are explained in {ref}`page-glossary`.
#
# **The plan.** We play a guessing game and give it a score. To see where the score comes from we take it apart: a
# language model is a probability distribution over texts, the chain rule turns it into a guess per position, and the
# text itself holds the right answers. We then work through likelihood, cross-entropy, perplexity and bits per byte on
# a corpus of ten words, small enough to check with a pencil. How these ideas hang together is the core of the
# subject, rather than how programs call each other ({ref}`err-coupling`). With the ruler in hand we measure: how much
# more data helps, what a model can tell and what it cannot, and how far plain counting gets. The chapter ends with a
# dated map of the models that came after.

# %%
import bz2
import gzip
import lzma
import math
import re
import textwrap
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import pairwise, product

import numpy as np
import torch
from IPython.display import Markdown
from nltk.lm import MLE
from nltk.util import everygrams
from scipy.optimize import minimize
from scipy.sparse import csr_array, vstack
from scipy.stats import bootstrap
from tabulate import tabulate
from torch.testing import assert_close

from minilm import contract, data, evaluate, ngram, plots
from minilm.counts import Counts, count
from minilm.generate import generate
from minilm.tokenizer import BPE, Characters, Words

plots.use_style()

# %% [markdown]
# (sec-lm-game)=
# ## Guess the next letter
#
# Cover a line of text with a card and uncover it letter by letter. Before each letter, guess. You
# will be wrong at the start of words and right at their ends. Claude Shannon turned this parlour
# game into an experiment {cite}`shannon1951`: his subject named 69 percent of the letters of a
# passage at the first try. English, he concluded, is far less free than its alphabet suggests.
#
# We let a computer play. Its whole education is the {term}`corpus` below: plays and poems by
# Shakespeare. Some plays are kept away from it, and it is asked about those. {ref}`ch-text` tells
# where the text comes from and how it was divided.

# %%
shakespeare = data.load("shakespeare")
train, validation = shakespeare.text("train"), shakespeare.text("validation")
for name, text in {"train": train, "validation": validation}.items():
    print(f"{name:10}  {len(getattr(shakespeare, name)):2} works  {len(text):9,} characters")

# %% [markdown]
# The player counts. For every run of four characters in the training text it has noted which
# character came next and how often. Where a run of four is rare it also listens to the runs of
# three, two and one. How best to mix them is the subject of {ref}`ch-ngram`; until then
# `ModifiedKneserNey` is a box that we may open later.

# %%
characters = Characters.train(train)
counts = count(characters.encode(train), order=5, vocab_size=characters.vocab_size)
five_gram = ngram.ModifiedKneserNey(counts)

# %% [markdown]
# *Julius Caesar* is among the plays it has never seen. After each character of Antony's line,
# `five_gram` gives a probability to all 84 characters that could follow. From that we read two
# things about the character that did follow: its *rank* among the guesses, and its probability
# $p$. {numref}`fig-lm-game` shows $-\log_2 p$, the {term}`surprise <bit>` in bits: 0 for a
# certainty, 1 for a coin toss, one more each time the probability halves.

# %%
line = "Friends, Romans, countrymen, lend me your ears;"
assert line in validation and line not in train
ids = torch.tensor([characters.encode(line)])  # (1, T)
log_probs = five_gram(ids)[0, :-1]  # (T - 1, V): a distribution after every character but the last
right = log_probs.gather(-1, ids[0, 1:, None])  # (T - 1, 1): for the one that came
bits, ranks = -right[:, 0] / math.log(2), 1 + (log_probs > right).sum(-1)
print(f"first guess right: {(ranks == 1).sum()} of {len(ranks)}; mean {bits.mean():.2f} bits")

# %% mystnb={"figure": {"name": "fig-lm-game", "caption": "The guessing game on a line the model has never seen. Each bar is the surprise at one character, −log₂ of the probability that the 5-gram model gave it; ␣ is a space."}, "image": {"alt": "Bar chart over the characters of the line Friends, Romans, countrymen, lend me your ears. The tallest bar, almost ten bits, stands at the capital R of Romans; the first letters of the other words have four to six bits, most letters inside words two bits or less, and the letters o and u of your next to nothing."}}
ax = plots.axes("the character that came next", size=(6.4, 2.6))
shown = list(line[1:].replace(" ", "␣"))
ax = plots.bars(shown, {"surprise": bits}, ylabel="surprise (bits)", ax=ax)

# %% [markdown]
# The picture is typical. Surprise piles up where a new word starts, since there the future is
# open, and falls as the word narrows down. A capital letter in the middle of a line is a shock.
# After the *y* of *your*, the letters *ou* are almost free.
#
# One line proves nothing, so we repeat the game on 20,000 characters, and with less memory: a
# player that sees four characters back, three, two, one, none.


# %%
def cut(counts, order):
    """The counts of all orders up to `order`."""
    return Counts(counts.vocab_size, counts.tables[:order])


sample = torch.tensor([characters.encode(validation[:20_000])])
for order in range(1, 6):
    log_probs = ngram.ModifiedKneserNey(cut(counts, order))(sample)[0, :-1]
    right = log_probs.gather(-1, sample[0, 1:, None])
    rank, bits = 1 + (log_probs > right).sum(-1), -right.mean() / math.log(2)
    print(f"{order - 1} back: first guess {(rank == 1).double().mean():5.1%}  mean {bits:.2f} bits")

# %% [markdown]
# Each step of memory helps. The best of our players names a little more than half of the
# characters at the first try. That is fewer than Shannon's subject, though his alphabet was easier
# (26 letters and a space, no capitals, no punctuation) and his text was another. The share of
# first guesses is a poor score all the same: it ignores whether a wrong guess was a near miss, and how confident a
# right one was. The mean surprise looks at neither rank nor first place, but at the probability that the player gave
# to the character that came. The rest of this chapter explains why it is *the* measure, and what its unit means.
#
# (sec-lm-distribution)=
# ## A probability for every text
#
# A text is a sequence of {term}`tokens <token>` $w_1, w_2, \dots, w_T$ from a {term}`vocabulary`
# of $V$ entries. Here tokens are characters; in the next sections they will be words, and from
# {ref}`ch-text` on mostly something in between.
#
# ```{admonition} Definition
# A {term}`language model` is a probability distribution over texts: it assigns a number
# $P(w_1, \dots, w_T) \ge 0$ to each, and the numbers of all texts of the same length add up to
# one.
# ```
#
# Note what is *not* in the definition. Nothing says that the model must write, translate or answer
# questions; those are things one can do with such a distribution ({ref}`err-definition` corrects
# one of our source documents here). Nothing says "neural". And nothing says "true": the model that
# finds all texts equally likely is a language model too, only a bad one.
#
# Could we store the distribution as a table, one row a text? There are $V^T$ rows.

# %%
rng = np.random.default_rng(0)
for length in 5, 10, 20, 40:
    starts = rng.integers(0, len(validation) - length, 200)
    known = np.mean([validation[s : s + length] in train for s in starts])
    texts = length * math.log10(characters.vocab_size)
    print(f"{length:2} characters: 10^{texts:.0f} texts; {known:6.1%} of real ones in train")

# %% [markdown]
# The table cannot be stored, and it could not be filled either: almost every stretch of 20
# characters that Shakespeare wrote in one play he wrote in no other. A model must give sensible
# probabilities to texts that nobody has seen. That is the whole difficulty of the subject, and the
# {term}`chain rule` is the first step around it.
#
# (sec-lm-chain-rule)=
# ## The chain rule
#
# Instead of asking how probable a whole text is, ask only how probable the next token is, given
# those before it. We write $w_{<t}$ for the {term}`history` $w_1, \dots, w_{t-1}$.
#
# ```{prf:theorem} Chain rule
# :label: thm-lm-chain
#
# 1. Every distribution over texts of $T$ tokens is a product of next-token distributions: wherever
#    $P(w_1, \dots, w_T) > 0$,
#
#    $$
#    P(w_1, \dots, w_T) = \prod_{t=1}^{T} P(w_t \mid w_{<t}).
#    $$ (eq-lm-chain)
#
# 2. Conversely, choose for every history any distribution over the next token. The products
#    {eq}`eq-lm-chain` are then a distribution over the texts of $T$ tokens.
# ```
#
# ```{prf:proof}
# (1) The definition of conditional probability is
# $P(w_t \mid w_{<t}) = P(w_1, \dots, w_t) / P(w_1, \dots, w_{t-1})$. In the product each numerator
# cancels the denominator that follows it; what stays is the last numerator, $P(w_1, \dots, w_T)$,
# over the first denominator, the probability of the empty text, which is 1.
#
# (2) The products are not negative. Sum them over the last token first. All factors but the last
# are constants there, and the last sums to one over $w_T$; what is left is the same sum for
# $T - 1$ tokens. After $T$ such steps the sum is 1.
# ```
#
# The second half is the useful one. It says that we may invent next-token distributions in any way
# we like, by counting, by a neural network, by throwing darts, and what comes out is a proper
# language model. We check it with darts: three tokens, a random distribution after each history,
# and all $3^4 = 81$ texts of four tokens.

# %%
V, T = 3, 4
histories = [h for t in range(T) for h in product(range(V), repeat=t)]
dart = {h: rng.dirichlet(np.ones(V)) for h in histories}  # history -> (V,) probabilities


def probability(text):
    """The product of the chain rule."""
    return math.prod(dart[text[:t]][w] for t, w in enumerate(text))


for length in range(1, T + 1):
    total = sum(probability(text) for text in product(range(V), repeat=length))
    print(f"{V**length:2} texts of {length} tokens: total probability {total:.12f}")
    assert math.isclose(total, 1)

# %% [markdown]
# And back: from the 81 products alone we can recover each conditional distribution, as the first
# half promises.

# %%
for h in histories:
    rest = T - len(h) - 1
    ends = list(product(range(V), repeat=rest))
    joint = [sum(probability((*h, w, *end)) for end in ends) for w in range(V)]
    np.testing.assert_allclose(np.array(joint) / sum(joint), dart[h])
print(f"{len(histories)} conditional distributions recovered from {V**T} probabilities")

# %% [markdown]
# Three remarks before we use it.
#
# **It is an identity, not a method.** The rule holds for an untrained model as well as for a
# trained one. Training, which document 001 mentions in the same breath, is a separate step
# ({ref}`err-conditional`), and the left side of {eq}`eq-lm-chain` is a joint probability, not a
# conditional one.
#
# **Where a text starts and ends needs a decision.** At $t = 1$ nothing is given. In this book's
# scores the first token is context only: it is read, not predicted. The end matters too. As the
# output above shows, the texts of *each* length have total probability one. If texts of all
# lengths are to share one distribution, the model needs an {term}`end token <special token>` that
# it can predict at every step. {ref}`ex-lm-end` works that out, and {ref}`err-boundaries` says
# where our documents leave it open.
#
# **Left to right is a choice.** The same proof works from right to left, or in any fixed order. It
# does not work for a model that fills gaps from both sides: multiplying the guesses of a
# {term}`masked language model` such as BERT gives numbers that need not sum to one over all texts
# ({ref}`err-predict-next`).
#
# ### The contract
#
# So a model can be given as a function from a history to the next-token distribution, and this is
# how every model in this book is written. It is a callable that takes token ids of shape `(B, T)`,
# that is $B$ texts of $T$ tokens, and returns scores of shape `(B, T, V)`: row $t$ scores the
# token that *follows* position $t$, and may look at nothing to its right. The scores are
# {term}`logits`: {term}`softmax` turns them into probabilities. Logarithms of probabilities are
# logits already. `minilm.contract` spells it out. The most ignorant model takes three lines.


# %%
class Uniform:
    """Every token is equally likely after every history."""

    def __init__(self, vocab_size):
        self.vocab_size, self.context = vocab_size, 1

    def __call__(self, ids):
        return torch.zeros(*ids.shape, self.vocab_size)


uniform = Uniform(characters.vocab_size)
assert isinstance(uniform, contract.LanguageModel) and isinstance(five_gram, contract.LanguageModel)
print(f"{uniform(ids).softmax(-1)[0, 0, 0]:.5f} = 1/{characters.vocab_size}")

# %% [markdown]
# A model of counts obeys the same contract, and its total over all texts is one as well. We check
# it on a small smoothed {term}`bigram <n-gram>` model, which looks one token back, for every first
# token.

# %%
tiny = ngram.AddK(count([0, 1, 0, 2, 0, 1], order=2, vocab_size=3), k=1.0)
texts = torch.tensor(list(product(range(3), repeat=6)))  # (729, 6)
p = tiny.score(texts).sum(1).exp()  # P(w_2 .. w_6 | w_1)
totals = torch.stack([p[texts[:, 0] == first].sum() for first in range(3)])
assert_close(totals, torch.ones(3, dtype=torch.float64))
print("243 continuations of each first token: total", totals.numpy().round(9))

# %% [markdown]
# (sec-lm-self-supervision)=
# ## The labels are in the text
#
# To fit a classifier one needs labelled examples, and someone has to label them. A language model
# needs no one. Take a text, put a finger anywhere: what stands left of the finger is the input,
# what stands right of it is the label. This is {term}`self-supervised learning`: *the labels are
# parts of the data*. Nobody annotates anything ({ref}`err-annotation`). Document 002 explains the
# word by pretraining; that is one use of it, and {ref}`err-self-supervised` separates the two.
#
# Our corpus for the next sections has ten words. It is small enough that every number can be
# checked by hand.

# %%
corpus = "the cat sat on the mat and the cat slept"
words = corpus.split()
types = sorted(set(words))
ten = torch.tensor([[types.index(word) for word in words]])  # (1, 10)
batch = contract.next_token(ten)
(inputs,), targets = batch.inputs, batch.targets
print("input ", *(f"{types[i]:5}" for i in inputs[0]))
print("target", *(f"{types[i]:5}" for i in targets[0]))

# %% [markdown]
# In code the idea is a shift by one: inputs are all words but the last, targets all words but the
# first. A corpus of $N$ tokens holds $N - 1$ labelled examples, so our ten words give nine, and
# the Shakespeare corpus about four million, for nothing. `next_token` makes the same `Batch` for
# every model in the book. Other objectives (masked tokens, spans, instructions) differ in what
# they hide, and get a `Batch` each in later chapters.
#
# (sec-lm-likelihood)=
# ## Likelihood: a corpus of ten words
#
# A {term}`bigram <n-gram>` model assumes that the next word depends on the last one only,
# $P(w_t \mid w_{<t}) = P(w_t \mid w_{t-1})$. Its {term}`parameters <parameter>` are a table with
# one row for each word $h$ that can come before, and one column for each word $w$ that can come
# next. How should we fill it?
#
# The most direct answer: by {term}`relative frequency <maximum likelihood>`. If *the* was followed
# by *cat* two times out of three, say $2/3$. With $c(h, w)$ for the number of times $w$ followed
# $h$, and $c(h) = \sum_w c(h, w)$,
#
# $$
# \hat P(w \mid h) = \frac{c(h, w)}{c(h)}.
# $$ (eq-lm-relative)

# %%
c = Counter(pairwise(words))
history = Counter(words[:-1])
table = {(h, w): Fraction(c[h, w], history[h]) for h, w in c}
for (h, w), p in sorted(table.items()):
    print(f"P({w:5} | {h:3}) = {p}")

# %% [markdown]
# How good is this table? Ask it for the probability of the corpus itself. The {term}`likelihood`
# of a parameter table $\theta$ is the probability of the data under it, read as a function of
# $\theta$ while the data stay fixed. Over the nine words that follow the first, by the chain rule,
#
# $$
# P_\theta(w_2, \dots, w_{10} \mid w_1) = \tfrac{2}{3} \cdot \tfrac{1}{2} \cdot 1 \cdot 1 \cdot \tfrac{1}{3} \cdot 1
# \cdot 1 \cdot \tfrac{2}{3} \cdot \tfrac{1}{2} = \tfrac{1}{27}.
# $$
#
# Check the factors against the table: *the → cat*, *cat → sat*, *sat → on*, *on → the*, *the →
# mat*, and so on.

# %%
likelihood = math.prod(table[pair] for pair in pairwise(words))
print("likelihood", likelihood)
assert likelihood == Fraction(1, 27)

# %% [markdown]
# For nine words the product is a decent number. For a real text it is not: a computer's smallest
# positive number is about $5 \cdot 10^{-324}$, and half a million factors are far below. So we add
# logarithms instead, and call the sum the {term}`log-likelihood`:
#
# $$
# \log P_\theta(w_2, \dots, w_N \mid w_1) = \sum_{t=2}^{N} \log P_\theta(w_t \mid w_{<t}).
# $$ (eq-lm-log-likelihood)
#
# This is the formula that document 004 gives as the training objective. Three things are to be
# added to it ({ref}`err-objective`): the sum runs over the whole corpus, it is usually divided by
# the number of tokens, and it is maximised *over* $\theta$.

# %%
validation_ids = torch.tensor(characters.encode(validation))
scored = five_gram.score(validation_ids[None])[0]
print("product of the probabilities:", scored.exp().prod().item())
print(f"sum of their logarithms: {scored.sum().item():.3e}")

# %% [markdown]
# (sec-lm-mle)=
# ### Why relative frequencies
#
# They are not only the obvious choice. No other table gives the corpus a higher probability.
#
# ```{prf:theorem} Counting is maximum likelihood
# :label: thm-lm-mle
#
# Among all tables with $P(w \mid h) \ge 0$ and $\sum_w P(w \mid h) = 1$ for every $h$, the
# relative frequencies {eq}`eq-lm-relative` give the corpus the highest likelihood. In every row
# $h$ with $c(h) > 0$ they are the only ones that do.
# ```
#
# ```{prf:proof}
# Equal pairs give equal factors, so the log-likelihood is
# $\sum_{h} \sum_{w} c(h, w) \log P(w \mid h)$. Each row $h$ has its own parameters and its own
# constraint, so we treat one row at a time. Words with $c(h, w) = 0$ do not enter the sum, and any
# probability they get is taken from the others, so they get none. For the rest, write $\lambda$
# for the Lagrange multiplier of the constraint and set the derivative to zero:
#
# $$
# \begin{aligned} 0 &= \frac{\partial}{\partial P(w \mid h)} \Bigl[ \sum_{u} c(h, u) \log P(u \mid h) - \lambda \Bigl(
# \sum_{u} P(u \mid h) - 1 \Bigr) \Bigr] \\ &= \frac{c(h, w)}{P(w \mid h)} - \lambda . \end{aligned}
# $$ (eq-lm-lagrange)
#
# So $P(w \mid h) = c(h, w) / \lambda$: the probabilities are proportional to the counts. They sum
# to one, so $\lambda = c(h)$. Since the logarithm is strictly concave, this stationary point is
# the one maximum.
# ```
#
# We check the theorem three ways. First, by trying: ten thousand random tables, half of them close
# to the best one.

# %%
pairs = torch.zeros(7, 7, dtype=torch.float64)  # c(h, w)
pairs.index_put_((inputs[0], targets[0]), torch.ones(9, dtype=torch.float64), accumulate=True)
rows = pairs.sum(1) > 0  # "slept" ends the corpus: nothing follows it, and its row does not matter
best = pairs[rows] / pairs[rows].sum(1, keepdim=True)  # (6, 7)


def log_likelihood(tables):
    """Equation eq-lm-log-likelihood for tables (..., 6, 7), by their counts; 0 log 0 counts 0."""
    return torch.special.xlogy(pairs[rows], tables).sum((-2, -1))


random = torch.from_numpy(rng.dirichlet(np.ones(7), size=(10_000, 6)))
random[::2] = 0.99 * best + 0.01 * random[::2]
print(f"best {log_likelihood(best):.4f};  best of 10,000 others {log_likelihood(random).max():.4f}")
assert (log_likelihood(random) < log_likelihood(best)).all()
assert_close(log_likelihood(best), torch.tensor(-math.log(27), dtype=torch.float64))

# %% [markdown]
# Second, against code that others wrote: the class `MLE` of NLTK {cite}`nltk2009`, and
# `minilm.ngram`, which the later chapters use.

# %%
reference = MLE(2)
reference.fit([list(everygrams(words, max_len=2))], vocabulary_text=words)
ours = ngram.MaximumLikelihood(count(ten[0], order=2, vocab_size=len(types)))
for (h, w), p in table.items():
    assert math.isclose(reference.score(w, [h]), p)
    assert math.isclose(ours.probs([types.index(h)])[types.index(w)], p)
print("by hand = nltk.lm = minilm.ngram for all", len(table), "pairs")

# %% [markdown]
# Third, by learning. A neural network does not count. It starts somewhere and follows the
# {term}`gradient <gradient descent>` of the loss, and the loss is the negative log-likelihood per
# token: `contract.loss`, which is PyTorch's `cross_entropy`. Here the "network" is a bare table of
# logits, one row a word.

# %%
logits = torch.zeros(7, 7, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.1)
losses = []
for _ in range(600):
    losses.append(contract.loss(logits[inputs], targets))
    optimizer.zero_grad()
    losses[-1].backward()
    optimizer.step()
learned = logits.detach().softmax(-1)[rows]
assert_close(learned, best, atol=2e-3, rtol=0)
print(f"loss {losses[0].item():.3f} -> {losses[-1].item():.3f} nats; floor {math.log(27) / 9:.3f}")

# %% mystnb={"figure": {"name": "fig-lm-descent", "caption": "Gradient descent on a table of logits finds what counting finds. The loss starts at ln 7, when all seven words are equally likely, and falls to that of the relative frequencies; it cannot go lower."}, "image": {"alt": "Line chart of the loss in nats per word over 600 steps. It starts at 1.95, falls steeply within 50 steps, and settles on a dashed horizontal line at 0.366."}}
curve = [value.item() for value in losses]
floor = [math.log(27) / 9] * len(curve)
series = {"gradient descent": curve, "relative frequencies": floor}
ax = plots.lines(range(600), series, "step", "loss (nats per word)")
_ = ax.set_ylim(0, 2)

# %% [markdown]
# {numref}`fig-lm-descent` is this book in miniature. Later chapters replace the table of logits by
# recurrent networks and Transformers. The data, the shift by one, the loss and the principle stay.
#
# (sec-lm-cross-entropy)=
# ## Cross-entropy, and a floor that no model can break
#
# The loss has a second reading, from information theory {cite}`shannon1948`. If something has
# probability $p$, seeing it happen is worth $-\log p$ units of surprise: {term}`nats <nat>` with
# the natural logarithm, {term}`bits <bit>` with base two. Surprises of independent events add up,
# since their probabilities multiply. For a distribution $p$ over tokens and a model $q$ of it,
#
# $$
# \begin{aligned}
# H(p) &= -\sum_w p(w) \log p(w), \\
# H(p, q) &= -\sum_w p(w) \log q(w), \\
# D(p \,\|\, q) &= H(p, q) - H(p).
# \end{aligned}
# $$ (eq-lm-cross-entropy)
#
# The {term}`entropy` $H(p)$ is the mean surprise of someone who knows $p$. The
# {term}`cross-entropy` $H(p, q)$ is the mean surprise of someone who believes $q$ while $p$ is
# true. Their difference is the {term}`Kullback-Leibler divergence`: the price of being wrong.
#
# ```{prf:theorem} Gibbs' inequality
# :label: thm-lm-gibbs
#
# $D(p \,\|\, q) \ge 0$, with equality only if $q = p$. So $H(p, q) \ge H(p)$: no model is less
# surprised, on average, than one that knows the truth.
# ```
#
# ```{prf:proof}
# The line $x - 1$ touches $\log x$ at $x = 1$ and lies above it elsewhere, so $\log x \le x - 1$.
# Hence, with sums over the $w$ that have $p(w) > 0$,
#
# $$
# \begin{aligned}
# -D(p \,\|\, q) = \sum_w p(w) \log \frac{q(w)}{p(w)}
# &\le \sum_w p(w) \left( \frac{q(w)}{p(w)} - 1 \right) \\
# &= \sum_w q(w) - 1 \le 0 .
# \end{aligned}
# $$ (eq-lm-gibbs)
#
# The first step is an equality only where every ratio is 1.
# ```


# %%
def entropy(p):
    """Entropy in nats of distributions (..., V)."""
    return -torch.special.xlogy(p, p).sum(-1)


def cross_entropy(p, q):
    """Mean surprise in nats under q when p is true."""
    return -torch.special.xlogy(p, q).sum(-1)


p, q = torch.from_numpy(rng.dirichlet(np.full(6, 0.5), size=(2, 10_000)))
gaps = cross_entropy(p, q) - entropy(p)
assert (gaps > 0).all() and torch.equal(cross_entropy(p, p), entropy(p))
print(f"KL divergence of 10,000 random pairs: least {gaps.min():.3f}, mean {gaps.mean():.2f} nats")

# %% mystnb={"figure": {"name": "fig-lm-coin", "caption": "Cross-entropy for a coin that shows heads with probability 0.7, against the belief q. The least value, at q = 0.7, is the entropy of the coin; the distance to it is the Kullback-Leibler divergence."}, "image": {"alt": "U-shaped curve of cross-entropy in bits over the believed probability of heads from 0.02 to 0.98. It touches a dashed horizontal line at 0.881 bits where q is 0.7 and climbs to about 4 bits at the left edge."}}
belief = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
coin = torch.tensor([0.7, 0.3], dtype=torch.float64)
curve = cross_entropy(coin, torch.stack([belief, 1 - belief], -1)) / math.log(2)
floor = (entropy(coin) / math.log(2)).expand(97)
series = {"cross-entropy": curve, "entropy": floor}
ax = plots.lines(belief, series, "believed probability of heads, q", "bits")
print(f"least {curve.min():.3f} bits at {belief[curve.argmin()]:.2f}; entropy {floor[0]:.3f} bits")

# %% [markdown]
# Three things follow ({numref}`fig-lm-coin` shows the first).
#
# **Overconfidence is punished without limit.** To the left of the figure the believer calls heads
# nearly impossible, and pays for every head. At $q = 0$ the price is infinite. This will be the
# main trouble of counting models ({ref}`ch-ngram`).
#
# **Maximum likelihood makes the model resemble the data.** Let $\hat p$ be the relative
# frequencies of the corpus. The negative log-likelihood per token is the cross-entropy
# $H(\hat p, P_\theta) = H(\hat p) + D(\hat p \,\|\, P_\theta)$. Its first term does not depend on
# $\theta$. So maximising likelihood, minimising cross-entropy and minimising the divergence from
# the data are one and the same. Document 003 lists likelihood and cross-entropy loss as two
# concepts; they are one, up to sign and scale ({ref}`err-formula-list`).
#
# **A model's score on fresh text bounds the entropy of the language.** For text nobody knows the
# true $p$. But by {prf:ref}`thm-lm-gibbs` the cross-entropy of any model, measured on text it was
# not fitted to, lies in expectation above the entropy of the source that wrote the text. Better
# models lower the bound. Shannon put the entropy of English between 0.6 and 1.3 bits per letter
# {cite}`shannon1951`; people who bet on the next letter got to about 1.3 {cite}`coverking1978`; a
# trigram model over words to 1.75 bits per character {cite}`brown1992`. We can repeat the first
# rows of Shannon's own table. His $F_n$ is the entropy of a letter given the $n - 1$ letters
# before it, in an alphabet of 26 letters and the space.

# %%
letters = re.sub(r"[^a-z]+", " ", train.lower())[:1_000_000]
alphabet = Characters.train(letters)
stream = torch.tensor(alphabet.encode(letters))
letter_counts = count(stream, order=3, vocab_size=alphabet.vocab_size)
for n, shannon in {1: 4.03, 2: 3.32, 3: 3.1}.items():
    model = ngram.MaximumLikelihood(cut(letter_counts, n))
    f_n = evaluate.nll(model, stream).mean() / math.log(2)
    print(f"F_{n}: {f_n:.2f} bits in Shakespeare;  {shannon} in Shannon 1951")

# %% [markdown]
# The first two agree to within a twentieth of a bit, seventy years and a change of author apart.
# The third does not: Shannon had to work from printed tables of letter triples inside words and
# could correct for those across a space only roughly {cite}`shannon1951`.
#
# One warning about these three numbers: they were measured on the text that was counted. With
# growing $n$ such a score falls towards zero, since a model that remembers the whole text is never
# surprised by it. On fresh text the same tables meet pairs they have never seen, give them
# probability 0, and pay without limit:

# %%
for order in 2, 3, 5:
    nats = evaluate.nll(ngram.MaximumLikelihood(cut(counts, order)), validation_ids)
    impossible = nats.isinf().double().mean()
    print(f"order {order}: {impossible:.3%} impossible characters, mean {nats.mean():.1f} nats")

# %% [markdown]
# A single impossible character is enough. Remedies are called {term}`smoothing`, and {ref}`ch-ngram` is about them.
# From here on, every score on real text is measured on text that the model has not seen, and the models behind these
# scores are smoothed; only the ten words are still scored by their own table.
#
# (sec-lm-perplexity)=
# ## Perplexity
#
# Nats per token are hard to picture. {term}`Perplexity` {cite}`jelinek1977` undoes the logarithm:
#
# $$
# \mathrm{PPL} = e^{H} = \Bigl( \prod_{t} P(w_t \mid w_{<t}) \Bigr)^{-1/N}, \qquad
# H = -\frac{1}{N} \sum_{t} \log P(w_t \mid w_{<t}),
# $$ (eq-lm-perplexity)
#
# for $N$ scored tokens. It is the inverse of the geometric mean of the probabilities. A fair die
# has perplexity 6: $H = \log 6$. So a model with perplexity 6 on some text is as uncertain, on
# average, as if it had to choose among six equally likely tokens each time. That is why it is also
# called the *branching factor*. Dice show what uneven odds do to it; the loaded one shows a six
# half of the time.

# %%
dice = {"fair die": [1 / 6] * 6, "fair coin": [0.5, 0.5], "loaded die": [0.1] * 5 + [0.5]}
for name, p in dice.items():
    h = entropy(torch.tensor(p, dtype=torch.float64)).item()
    print(f"{name:10} {h:.3f} nats = {h / math.log(2):.3f} bits, perplexity {math.exp(h):.2f}")

# %% [markdown]
# For the ten words we found $H = \ln 27 / 9$, so the perplexity is
# $27^{1/9} = 3^{1/3} \approx 1.44$. Four programs must agree on that.

# %%
by_hand = 3 ** (1 / 3)
nats = evaluate.nll(ours, ten[0])
torch_says = torch.nn.functional.cross_entropy(ours(inputs)[0], targets[0]).exp().item()
assert math.isclose(evaluate.perplexity(nats), by_hand)
assert math.isclose(reference.perplexity(pairwise(words)), by_hand)
assert math.isclose(torch_says, by_hand)
print(f"perplexity {by_hand:.4f}: by hand = minilm.evaluate = nltk.lm = torch")

# %% [markdown]
# Two warnings go with it. Perplexity is per *token*, so it depends on what a token is; the next
# section shows how much. And it is the perplexity of *this* text: the number 1.44 only says that
# our table knows its own ten words well.
#
# (sec-lm-bits-per-byte)=
# ## Bits per byte
#
# Whether a text is cut into characters or words is our business, not the text's. A score should
# not depend on it. So add up the surprise of the whole text and divide by something that no
# tokenizer can change, the number of its bytes in {term}`UTF-8`:
#
# $$
# \mathrm{bpb} = \frac{1}{M \ln 2} \sum_{t} -\log P(w_t \mid w_{<t}),
# $$ (eq-lm-bpb)
#
# where $M$ counts the bytes of the scored tokens. This is {term}`bits per byte`, the ruler of this
# book. The model that finds all 256 byte values equally likely has 8.
#
# By hand: the nine scored words have, with the space before each, 37 bytes, and cost
# $\log_2 27 = 4.755$ bits. `evaluate.score` finds the same with a word tokenizer of its own. (A
# space in front makes all ten words alike: to this tokenizer, ` the` with a space is one token and
# `the` without is another.)

# %%
n_bytes = sum(len(f" {word}".encode()) for word in words[1:])
print(f"{n_bytes} bytes, {math.log2(27):.3f} bits, {math.log2(27) / n_bytes:.4f} bits per byte")

spaced = f" {corpus}"
tokenizer = Words.train(spaced, vocab_size=256 + len(types))
model = ngram.MaximumLikelihood(count(tokenizer.encode(spaced), 2, tokenizer.vocab_size))
score = evaluate.score(model, tokenizer, spaced)
assert math.isclose(score.bits_per_byte, math.log2(27) / n_bytes)
assert math.isclose(score.perplexity, by_hand)

# %% [markdown]
# Now on real text. We cut the same million characters of training text in three ways, into
# characters, into pieces of words (byte pair encoding, {ref}`ch-text`) and into words, fit the
# same kind of model to each, and score the whole validation set.

# %%
small = train[:1_000_000]
tokenizers = {
    "characters": characters,
    "BPE, 1,024 tokens": BPE.train(small, 1024),
    "words, 8,192 tokens": Words.train(small, 8192),
}
rulers = []
for name, tokenizer in tokenizers.items():
    model = ngram.ModifiedKneserNey(count(tokenizer.encode(small), 3, tokenizer.vocab_size))
    score = evaluate.score(model, tokenizer, validation)
    row = [name, score.tokens, score.bytes.sum() / score.tokens, score.perplexity]
    interval = "{:.2f} to {:.2f}".format(*score.interval)
    rulers.append([*row, score.bits_per_byte, interval])

# %% mystnb={"figure": {"name": "tab-lm-rulers", "caption": "The same text, the same training text, the same kind of model (order 3), three tokenizers. Perplexities per token cannot be compared with each other; bits per byte can."}}
headers = "tokens are,tokens,bytes per token,perplexity,bits per byte,95 % interval".split(",")
formats = ("", ",d", ".2f", ".3g", ".2f", "")
Markdown(tabulate(rulers, headers, tablefmt="pipe", floatfmt=formats, intfmt=","))

# %% [markdown]
# In {numref}`tab-lm-rulers` the character model has by far the lowest perplexity and is
# nevertheless the worst of the three: it makes an easy choice very often, the word model a hard
# one rarely. In bits per byte the three stand side by side. That they differ at all is a fact
# about the models: two tokens of context are two letters in one row and two words in another.
#
# The interval comes from a {term}`bootstrap`: we draw blocks of 2,000 bytes from the validation
# text with replacement, score the new text, and repeat. It says how far the number could move if
# we had other text *of the same kind*. It says nothing about text of another kind.
#
# ### The trap of the unknown word
#
# Some tokenizers replace every rare word by one token, `<unk>`. What this does to perplexity is
# worth seeing once.

# %%
for n_words in 8192, 512, 16:
    lossy = Words.train(small, n_words, byte_fallback=False)
    model = ngram.ModifiedKneserNey(count(lossy.encode(small), 3, lossy.vocab_size))
    ids_lossy = torch.tensor(lossy.encode(validation))
    unknown = (ids_lossy == lossy.unknown).double().mean()
    ppl = evaluate.perplexity(evaluate.nll(model, ids_lossy))
    print(f"{n_words:5} words: perplexity {ppl:6.1f}, {unknown:.0%} of the text is <unk>")

# %% [markdown]
# The less a model knows, the better it looks. In the end it need only say "unknown" most of the
# time. Perplexities can be compared only where tokenizer and vocabulary are the same. Bits per
# byte do not have this hole, provided that the tokens hold all bytes of the text; `evaluate.score`
# refuses when they do not:

# %%
try:
    evaluate.score(model, lossy, validation)
except ValueError as error:
    print(textwrap.fill(str(error), 78))

# %% [markdown]
# (sec-lm-compression)=
# ## A predictor is a compressor
#
# Why *bits*, and why divide by bytes? Because the number can be taken literally. A model that
# gives a text the probability $P$ can store it in about $-\log_2 P$ bits, and whoever has the same
# model can read it back. {term}`Cross-entropy` is file size {cite}`shannon1948,deletang2024`.
#
# The method is *arithmetic coding* {cite}`mackay2003`. All texts share the interval from 0 to 1.
# The first token picks a part of it, as wide as its probability; the second picks a part of that
# part; after the last token what is left is an interval of width $P$, and no other text of that
# length has it. To name the text it is enough to name one number inside, and some number inside
# can be written with $\lceil -\log_2 P \rceil + 1$ binary digits.


# %%
def shares(model, ids):
    """The next token's probabilities as whole numbers: both sides must compute the same."""
    return (model(torch.tensor([ids]))[0, -1].softmax(-1) * 2**24).round().long().add(1).tolist()


def compress(model, ids):
    """A number of `bits` binary digits that names the tokens ids[1:]."""
    low, width = Fraction(0), Fraction(1)
    for t in range(1, len(ids)):
        parts = shares(model, ids[:t])
        low += width * Fraction(sum(parts[: ids[t]]), sum(parts))
        width *= Fraction(parts[ids[t]], sum(parts))
    bits = math.ceil(math.log2(width.denominator) - math.log2(width.numerator)) + 1
    return math.ceil(low * 2**bits), bits


# %% [markdown]
# The receiver follows the same path: it asks the model for the shares, and looks which of them the
# number lies in.


# %%
def decompress(model, first, number, bits, length):
    """The tokens that `compress` was given."""
    ids = [first]
    place = Fraction(number, 2**bits)  # where the number lies in the current interval
    while len(ids) < length:
        parts = shares(model, ids)
        edges = np.cumsum(parts).tolist()
        token = next(i for i, edge in enumerate(edges) if place * edges[-1] < edge)
        place = (place * edges[-1] - (edges[token] - parts[token])) / parts[token]
        ids.append(token)
    return ids


ids = characters.encode(line)
number, n_bits = compress(five_gram, ids)
assert characters.decode(decompress(five_gram, ids[0], number, n_bits, len(ids))) == line
print(f"{len(line) - 1} characters in {n_bits} bits: {number:0{n_bits}b}"[:75])
print(f"-log2 P = {-five_gram.score(torch.tensor([ids])).sum().item() / math.log(2):.1f} bits")

# %% [markdown]
# The file has as many bits as the surprise, rounded up, plus one. (Real coders work with integers
# of fixed size instead of ever longer fractions; that costs a few bits per file.) So the programs
# that everyone uses to compress files belong on the same ruler. `gzip` looks for repetitions in
# the last 32 kB, `bz2` sorts blocks of 900 kB, `lzma` searches up to the whole file.
#
# A compressor starts knowing nothing, a trained model starts with four million characters. To be
# fair to both we also compress the training text together with the validation text, and count only
# what the second adds.

# %%
compressors = {
    "gzip": lambda b: gzip.compress(b, 9),
    "bz2": lambda b: bz2.compress(b, 9),
    "lzma": lambda b: lzma.compress(b),
}


@cache
def size(name, text):
    """Bits in the compressed file."""
    return 8 * len(compressors[name](text.encode()))


def compressed(name, text):
    """Bits per byte for a text, alone and after the training text."""
    after = size(name, train + text) - size(name, train)
    return size(name, text) / len(text.encode()), after / len(text.encode())


for name in compressors:
    alone, after = compressed(name, validation)
    print(f"{name:5} alone {alone:.2f}, after the training text {after:.2f} bits per byte")
print(f"5-gram model {evaluate.score(five_gram, characters, validation).bits_per_byte:.2f}")

# %% [markdown]
# Counting five characters at a time already beats the three programs, and arithmetic coding would
# turn the difference into a smaller file. The comparison is not an insult to the programs: they
# are fast, have to cope with any kind of file, and carry no four million characters of Shakespeare
# with them. But it fixes the scale. Whoever claims that a model has learnt something about English
# should at least beat `bz2`.
#
# (sec-lm-more-data)=
# ## Does more data help?
#
# Document 000 says that a model's performance improves considerably as the amount of data grows.
# We can measure it. We shuffle the speeches of the training plays, take the first kilobyte, four
# kilobytes, and so on up to everything, fit models of order 1 to 5 to each, and score the whole
# validation set every time. For contrast, one curve is trained on another kind of text: articles
# of Wikipedia, scored on Shakespeare.


# %%
def shuffled(text, seed):
    """The passages of a text in random order, so that its beginning is a sample of the whole."""
    passages = text.split("\n\n")
    return "\n\n".join(passages[i] for i in np.random.default_rng(seed).permutation(len(passages)))


known = set(train)  # the model's alphabet: other characters are dropped from Wikipedia's text
articles = "".join(c for c in data.load("wikipedia").text() if c in known)
speeches = torch.tensor(characters.encode(shuffled(train, seed=0)))
encyclopedia = torch.tensor(characters.encode(shuffled(articles, seed=0)))
sizes = [1_000 * 4**i for i in range(6)] + [len(speeches)]
print("training sizes:", *(f"{n:,}" for n in sizes))


# %%
def ladder(stream, orders):
    """Scores on the whole validation set, one model for each order."""
    seen = count(stream, max(orders), characters.vocab_size)
    models = [ngram.ModifiedKneserNey(cut(seen, order)) for order in orders]
    return [evaluate.score(model, characters, validation) for model in models]


curves = {f"order {order}": [] for order in range(1, 6)}
for n in sizes:
    for curve, score in zip(curves.values(), ladder(speeches[:n], range(1, 6)), strict=True):
        curve.append(score)
foreign = {n: ladder(encyclopedia[:n], [5])[0].bits_per_byte for n in sizes[:-1]}

# %% mystnb={"figure": {"name": "fig-lm-more-data", "caption": "Bits per byte on the Shakespeare validation set against the amount of Shakespeare to learn from. Bands are 95 % intervals over blocks of the validation text."}, "image": {"alt": "Line chart with a logarithmic horizontal axis from one thousand to four million training characters, five falling curves. Order 1 is flat at 4.8 bits per byte from 16 thousand characters on. The higher the order, the longer the curve keeps falling; order 5 falls from 4.0 to 2.2, and its last step is the only one that is still visible."}}
values = {name: [score.bits_per_byte for score in curve] for name, curve in curves.items()}
bands = {name: np.transpose([score.interval for score in curve]) for name, curve in curves.items()}
ax = plots.lines(sizes, values, "training text (characters)", "bits per byte", log="x", bands=bands)
for name, curve in curves.items():
    low, high = curve[-1].interval
    first, *_, last = values[name]
    print(f"{name}: {first:.2f} -> {last:.2f} (95 % interval {low:.2f} to {high:.2f})")

# %% [markdown]
# {numref}`fig-lm-more-data` says yes, and adds three conditions that the sentence leaves out
# ({ref}`err-more-data`).
#
# **The gain shrinks.** Each step to the right costs four times the text of the step before.
#
# **The model must be able to use it.** A unigram model has one number per character. After a few
# thousand characters those numbers are known, and three million more change nothing. Higher orders
# have more to learn and go on learning:

# %% mystnb={"figure": {"name": "tab-lm-gains", "caption": "Bits per byte saved by each fourfold increase of the training text."}}
gains = -np.diff(list(values.values())).round(2) + 0.0  # + 0.0: no minus before a zero
rows = [[order, *row] for order, row in enumerate(gains, start=1)]
steps = [f"{a // 1000} to {b // 1000} kB" for a, b in pairwise(sizes)]
Markdown(tabulate(rows, ["order", *steps], tablefmt="pipe", floatfmt=".2f"))

# %% [markdown]
# Read {numref}`tab-lm-gains` by rows: order 1 is done after the second step, order 2 two steps
# later, and only order 5 still gains visibly at the end. Data and model have to grow together.
# Counting models of words have been trained on two trillion tokens, and were still improving
# {cite}`brants2007`. That paper, of 2007, has the words "Large Language Models" in its title, so
# "large" did not begin with neural networks ({ref}`err-statistical`).
#
# **It must be the right data.** The same number of characters from an encyclopedia is worth far
# less. (A part of the difference is form: an encyclopedia has no speakers' names and no verse
# lines.)

# %%
for n, own in zip(sizes, values["order 5"], strict=True):
    if n in foreign:
        print(f"{n:9,} characters: Shakespeare {own:.2f}, Wikipedia {foreign[n]:.2f} bits per byte")
most = max(foreign)
worth = np.exp(np.interp(-foreign[most], -np.array(values["order 5"]), np.log(sizes)))
print(f"{most:,} of Wikipedia are worth about {round(worth, -3):,.0f} of Shakespeare")

# %% [markdown]
# How much does it matter *which* kilobytes of Shakespeare one happens to get? We draw five
# different small training texts and score each.

# %%
for n in 1_000, 16_000:
    draws = [torch.tensor(characters.encode(shuffled(train, seed)[:n])) for seed in range(1, 6)]
    scores = [ladder(draw, [5])[0].bits_per_byte for draw in draws]
    print(f"{n:6,}: mean {np.mean(scores):.2f}, from {min(scores):.2f} to {max(scores):.2f}")

# %% [markdown]
# At a kilobyte the draw matters more than the interval of the figure shows, since that interval
# only knows about the validation text. At 16 kB the spread is still wider than that interval, but
# less than half of what the next fourfold increase brings.

# %% [markdown]
# (sec-lm-generative)=
# ## Generative and discriminative
#
# Document 004 divides large language models into *generative* models, which write text, and
# *discriminative* models, which tell texts apart by correctness or class. The words mean something
# else ({ref}`err-generative`). Let $x$ be a text and $y$ a label.
#
# - A {term}`generative model` describes how the data come about: $P(x)$, or $P(x, y)$ where there
#   are labels.
# - A {term}`discriminative model` describes the label only, given the text: $P(y \mid x)$.
#
# The difference is in *what is modelled*, not in the task. A language model is generative by
# definition, and a generative model can tell texts apart very well. By Bayes' rule,
#
# $$
# \begin{aligned}
# P(y \mid x) &= \frac{P(y)\, P(x \mid y)}{\sum_{k} P(k)\, P(x \mid k)}, \\
# \log \frac{P(1 \mid x)}{P(0 \mid x)} &= \log \frac{P(1)}{P(0)} + \log P(x \mid 1) - \log P(x \mid 0).
# \end{aligned}
# $$ (eq-lm-bayes)
#
# So *two language models make a classifier*: train one on the texts of each class, and ask which
# of them is less surprised. With unigram models this is the classifier known as *naive Bayes*.
#
# We try it on a question with a clear answer: are these eight words from Shakespeare (0) or from
# Wikipedia (1)? Case and punctuation are removed, they would give it away.

# %%
wikipedia = data.load("wikipedia")


def snippets(text):
    """Eight consecutive words each, in lower case, without punctuation."""
    found = re.findall(r"[a-z']+", text.lower())
    return [" ".join(found[i : i + 8]) for i in range(0, len(found) - 7, 8)]


sources = shakespeare, wikipedia
splits = "train", "validation", "test"
classes = {split: [snippets(source.text(split)) for source in sources] for split in splits}
for split, (zero, one) in classes.items():
    print(f"{split:10} {len(zero):6,} snippets of Shakespeare, {len(one):6,} of Wikipedia")
for side in classes["validation"]:
    print("for instance:", side[700])

# %% [markdown]
# Both classifiers see the same thing, how often each of the 2,000 most frequent words occurs in a
# snippet, in any order: a *bag of words*.

# %%
frequent = Counter(word for side in classes["train"] for text in side for word in text.split())
column = {word: i for i, (word, _) in enumerate(frequent.most_common(2_000))}


def bags(texts):
    """Word counts (len(texts), 2000), as a sparse matrix."""
    found = [(i, column[w]) for i, text in enumerate(texts) for w in text.split() if w in column]
    return csr_array((np.ones(len(found)), np.array(found).T), shape=(len(texts), len(column)))


bagged = {split: [bags(side) for side in sides] for split, sides in classes.items()}


def draw(split, n, seed):
    """n snippets, half of each class: their bags (n, 2000) and labels (n,)."""
    rng = np.random.default_rng(seed)
    halves = [side[rng.permutation(side.shape[0])[: n // 2]] for side in bagged[split]]
    return vstack(halves), np.repeat([0, 1], n // 2)


# %% [markdown]
# The generative classifier counts words per class, adds $k$ to every count
# ({term}`add-k smoothing`, so that no word is impossible), and is done. Its log-odds
# {eq}`eq-lm-bayes` are linear in the word counts, with weights
# $\log P(w \mid 1) - \log P(w \mid 0)$. The discriminative one, *logistic regression*, also has
# log-odds that are linear in the counts. But it chooses the weights by maximising
# $\sum \log P(y \mid x)$, directly, with a penalty on large weights {cite}`ngjordan2002`.


# %%
def naive_bayes(x, y, k):
    """Weights (2000,) and offset of the generative classifier, for classes of equal size."""
    totals = np.stack([x[y == label].sum(0) for label in (0, 1)]) + k
    log_p = np.log(totals / totals.sum(1, keepdims=True))
    return log_p[1] - log_p[0], 0.0


def logistic_regression(x, y, penalty):
    """Weights (2000,) and offset of the discriminative classifier, fitted by L-BFGS."""

    def objective(w):
        z = (2 * y - 1) * (x @ w[:-1] + w[-1])
        slope = -(2 * y - 1) / (1 + np.exp(z))
        value = np.logaddexp(0, -z).sum() + penalty / 2 * w[:-1] @ w[:-1]
        return value, np.append(x.T @ slope + penalty * w[:-1], slope.sum())

    w = minimize(objective, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", tol=1e-6).x
    return w[:-1], w[-1]


# %% [markdown]
# Naive Bayes *is* a pair of language models, and not merely like one. The check: `minilm`'s
# unigram models, counted on the same words, give the same log-odds.

# %%
x, y = draw("train", 2_000, seed=0)
weights, offset = naive_bayes(x, y, k=1.0)
log_p = []
for label in 0, 1:
    stream = np.repeat(np.arange(2_000), x[y == label].sum(0).astype(int))
    log_p.append(ngram.AddK(count(torch.from_numpy(stream), 1, 2_000), k=1.0).probs([]).log())
assert_close(torch.from_numpy(weights), log_p[1] - log_p[0])
strongest = np.argsort(weights)
print("Shakespeare:", *[list(column)[i] for i in strongest[:6]])
print("Wikipedia:  ", *[list(column)[i] for i in strongest[-6:]])

# %% [markdown]
# Now a learning curve over the number of labelled snippets. For each size we draw ten training
# sets. The two free numbers ($k$, and the penalty) are chosen on validation snippets, for each
# size; the accuracy is then measured on all snippets of test works and articles, balanced.

# %%
fit = {
    "naive Bayes": (naive_bayes, (0.1, 0.5, 1.0)),
    "logistic regression": (logistic_regression, (0.1, 0.5, 2.0)),
}
judges = [draw(split, 2 * min(map(len, classes[split])), seed=0) for split in splits[1:]]


def accuracies(learn, settings, n):
    """Test accuracy (10,) over ten draws, with the setting that is best on validation."""
    right = np.zeros((len(settings), 2, 10))
    for seed in range(10):
        x, y = draw("train", n, seed)
        for i, setting in enumerate(settings):
            w, b = learn(x, y, setting)
            right[i, :, seed] = [((bag @ w + b > 0) == label).mean() for bag, label in judges]
    return right[right[:, 0].mean(1).argmax(), 1]


# %%
labels = [8, 32, 128, 512, 2_048, 8_192, 32_768]
accuracy = {name: [accuracies(*how, n) for n in labels] for name, how in fit.items()}


def mean_interval(values):
    """Mean and 95 % bootstrap interval over the ten draws."""
    found = bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    return np.mean(values), found.low, found.high


# %% mystnb={"figure": {"name": "tab-lm-labels", "caption": "Accuracy in percent on test snippets, mean of ten draws of the labelled snippets, and what logistic regression gains over naive Bayes on the same draws."}}
rows = []
for n, nb, lr in zip(labels, *accuracy.values(), strict=True):
    ahead, low, high = mean_interval(100 * (lr - nb))
    rows.append([f"{n:,}", 100 * nb.mean(), 100 * lr.mean(), ahead, f"{low:+.1f} to {high:+.1f}"])
headers = ["labels", *accuracy, "difference", "95 % interval"]
formats = ("", ".1f", ".1f", "+.1f", "")
align = ("right", "decimal", "decimal", "decimal", "left")
Markdown(tabulate(rows, headers, "pipe", formats, colalign=align, disable_numparse=[0]))

# %% mystnb={"figure": {"name": "fig-lm-generative", "caption": "Accuracy on test snippets against the number of labelled snippets, mean of ten draws with 95 % intervals. Both classifiers use the same bag of words; one half would be right by chance."}, "image": {"alt": "Two rising curves over a logarithmic axis from 8 to 32,768 labels. Both start near 57 percent; naive Bayes leads by five points at 32 and 128 labels; the lead shrinks, and at 32,768 labels both stand at 93 percent."}}
means, spread = {}, {}
for name, curve in accuracy.items():
    means[name], *ends = np.transpose([mean_interval(100 * draws) for draws in curve])
    spread[name] = tuple(ends)
ax = plots.lines(labels, means, "labelled snippets", "accuracy (%)", log="x", bands=spread)
print("best at 32,768 labels:", max(means, key=lambda name: means[name][-1]))

# %% [markdown]
# {numref}`fig-lm-generative` and {numref}`tab-lm-labels` show what Ng and Jordan predicted from
# theory and found on most of fifteen data sets {cite}`ngjordan2002`: with few labels the
# generative classifier leads, with many the discriminative one catches up or overtakes. Here the
# lead is five points at its widest and vanishes between 8,000 and 33,000 labels. Naive Bayes
# assumes something false, that words are independent given the class. The assumption saves it data
# at first and holds it back in the end.
#
# But nothing forces the generative side to stay naive. Better language models make better
# classifiers. Here are two 5-gram models of characters, one fitted to training snippets of each
# class, asked about the same test snippets. All texts are scored in one call; four line ends
# between them keep a 5-gram model from seeing the text before.


# %%
def log_probability(model, tokenizer, texts):
    """log P of each text and two line ends, for a model that sees four characters back."""
    stream = "\n\n\n\n" + "".join(f"{text}\n\n\n\n" for text in texts)
    scores = model.score(torch.tensor([tokenizer.encode(stream)]))[0].numpy()
    total = np.append(0, np.cumsum(scores))  # total[j]: up to and with the character at index j
    sizes = np.array([len(text) + 4 for text in texts])
    starts = 3 + np.cumsum(sizes) - sizes
    return total[starts + sizes - 2] - total[starts]


plain = Characters.train("abcdefghijklmnopqrstuvwxyz' \n")
writers = []
for side in classes["train"]:
    some = side[:: len(side) // 20_000]  # some 20,000 are enough
    stream = plain.encode("\n\n\n\n".join(some))
    writers.append(ngram.ModifiedKneserNey(count(stream, 5, plain.vocab_size)))

# %%
n = min(map(len, classes["test"]))
asked = classes["test"][0][:n] + classes["test"][1][:n]
zero, one = (log_probability(writer, plain, asked) for writer in writers)
right = (one > zero) == np.repeat([False, True], n)
print(f"two 5-gram language models, {len(asked):,} test snippets: {right.mean():.1%} right")

# %% [markdown]
# And a model of $P(x)$ answers a question that no model of $P(y \mid x)$ can even be asked: is
# this the kind of text I know at all? A classifier must say "Shakespeare" or "Wikipedia" to
# anything.

# %%
strange = [
    "be not afeard the isle is full of",
    "the population of the city grew in the",
    "qzx vvk jjw xq zzk wqj kk vx",
]
zero, one = (log_probability(writer, plain, strange) for writer in writers)
for text, z, o in zip(strange, zero, one, strict=True):
    least = -max(z, o) / math.log(2) / (len(text) + 2)
    posterior = 1 / (1 + np.exp(z - o))
    print(f"{text:38} P(1 | x) = {posterior:.2f}, {least:.1f} bits per character")

# %% [markdown]
# The third row is noise. The classifier has an opinion on it; the language models behind it are
# three times as surprised as usual, and say so. A neural network that is trained only to label
# texts, like the BERT classifier of document 003, is discriminative: it assigns no probability to
# a text, so by our definition it is no language model, although it contains parts that were
# trained like one.
#
# (sec-lm-can-tell)=
# ## What a model can and cannot tell
#
# A distribution that assigns probabilities can also be drawn from. The loop is three lines long:
# ask for the next-token distribution, draw, append ({term}`sampling`). {ref}`ch-ngram` reads the
# results closely; a glance will do here.

# %%
writing = {}
for order in range(1, 6):
    model = ngram.ModifiedKneserNey(cut(counts, order))
    writing[order] = characters.decode(generate(model, characters.encode("\n\n"), 1_500, seed=1))
    print(f"--- order {order}", writing[order][:160].strip(), sep="\n")

# %% [markdown]
# How many of the words it writes are words that Shakespeare used?

# %%
lexicon = set(re.findall(r"[a-z']+", train.lower()))
for order, text in writing.items():
    written = re.findall(r"[a-z']+", text.lower())
    real = np.mean([word in lexicon for word in written])
    print(f"order {order}: {real:.0%} of its words occur in train")

# %% [markdown]
# Every step of memory makes the text more like English, and none makes it mean anything. What has
# the model learnt, then? The score cannot tell, it is one number. So we ask narrower questions, as
# psychologists do, by *minimal pairs*: show two texts that differ in one respect, and see to which
# the model gives the higher probability. We take passages of the validation plays and destroy one
# thing at a time:
#
# - the order of the words in the first line;
# - the order of the lines in the passage.
#
# A model that finds both versions equally likely knows nothing about the respect in question; it
# would be right half of the time. Each damage is done in two ways: to everything, or only to the
# inner words (or lines), with the first and the last left in place.

# %%
rng = np.random.default_rng(0)


def shuffle(parts, inner):
    """The parts in another order; with `inner`, the first and the last stay where they are."""
    ends = 1 if inner else 0
    middle = parts[ends : len(parts) - ends]
    mixed = [middle[i] for i in rng.permutation(len(middle))]
    return parts[:ends] + mixed + parts[len(parts) - ends :]


def damaged(passage, what, inner):
    """A passage with the words of its first line, or its lines, in another order."""
    speaker, first, *rest = passage.split("\n")
    if what == "words":
        return "\n".join([speaker, " ".join(shuffle(first.split(" "), inner)), *rest])
    return "\n".join([speaker, *shuffle([first, *rest], inner)])


# %%
speech = re.compile(r".+\n(\S+ ){5,}\S+(\n.*){4,11}")  # speaker, six words or more, lines
passages = [p for p in validation.split("\n\n") if speech.fullmatch(p)]
fakes = {
    f"{how} {what}": [damaged(p, what, how == "inner") for p in passages]
    for what in ("words", "lines")
    for how in ("all", "inner")
}
preferred = {kind: [] for kind in fakes}
for order in range(1, 6):
    model = ngram.ModifiedKneserNey(cut(counts, order))
    real = log_probability(model, characters, passages)
    for kind, texts in fakes.items():
        gap = real - log_probability(model, characters, texts)
        won = np.where(abs(gap) < 1e-6, 50, 100 * (gap > 0))  # the same probability: half a point
        preferred[kind].append(mean_interval(won))

# %% mystnb={"figure": {"name": "fig-lm-minimal-pairs", "caption": "How often a model gives the real passage a higher probability than the damaged one, with 95 % intervals; 50 % is guessing. Words are those of the first line of a speech, lines those of the whole speech."}, "image": {"alt": "Dot chart with one row for each order from 1 to 5 and four series. With all words shuffled the share jumps from 50 percent at order 1 to 95 at order 2 and nearly 100 at order 5. With inner words shuffled it is 50 at orders 1 and 2, then 77, 89 and 96. With all lines shuffled it is 50 up to order 2 and above 90 from order 3; with inner lines only it rises to 68, 75 and 78."}}
orders, ax = [f"order {order}" for order in range(1, 6)], plots.axes(size=(6.4, 3.4))
for kind, results in preferred.items():
    share, low, high = zip(*results, strict=True)
    ends = list(zip(low, high, strict=True))
    plots.dots(orders, share, "real passage preferred (%)", ends, kind, ax)
    print(f"{kind:11}", *(f"{value:3.0f}" for value in share), "% for orders 1 to 5")
print(len(passages), "passages")

# %% [markdown]
# {numref}`fig-lm-minimal-pairs` has a lesson in every row. Take the shuffled words first. Order 2 sees one character
# back, and seems to know word order in 95 percent of the cases. It knows nothing of the kind. If all words are
# shuffled, a capital letter leaves the start of the line and a comma leaves its end, and that is what it notices. If
# only inner words are shuffled, both versions consist of the same pairs of characters, order 2 gives them *exactly*
# the same probability, and the advantage is gone. A pair has to be minimal, or one measures something else. From
# order 3 on the models do know something about the order of words, since two to four characters reach across a space:
# *of the* beats *the of*.
#
# With lines the same caution applies. Most of what the models seem to know about the order of
# *all* lines is that a speech ends in a full stop. With inner lines only, order 5 still does
# better than chance, by looking at the joints between lines, four characters wide. That the third
# line answers the first, or that a story is told in this order and no other, it cannot know. What
# a model can tell is bounded by what it can see, and by what pays off in predicting the next
# token.
#
# Does it *understand* anything? Document 001 says no, three sections after having said yes. The
# word covers too many abilities for one answer ({ref}`faq-understand`). What the measurement above
# shows is a better kind of question: name the ability, build pairs that differ in nothing else,
# measure, give the interval. The same holds for *truth*. Our score rewards what was written, not
# what is so; a text that is fluent and false costs the model nothing ({ref}`err-logical`). Later
# chapters put the same questions to models that see further.

# %% [markdown]
# (sec-lm-map)=
# ## From n-grams to large language models: a dated map
#
# Most models of the last hundred years share all that was said so far: a distribution over texts,
# the chain rule, self-supervision, cross-entropy. (Those that fill gaps, such as BERT, are the
# exception.) What has changed is the function that computes $P(w_t \mid w_{<t})$, and the amount of
# text and arithmetic spent on it. {numref}`tab-lm-map` is the map; most of its rows have a chapter
# in this book ({ref}`page-map`).
#
# ```{list-table} Families of models, and what each of them changed.
# :name: tab-lm-map
# :header-rows: 1
# :widths: 8 22 28 42
#
# * - Year
#   - Model
#   - Is trained to predict
#   - What it changed
# * - 1913
#   - Markov's chain {cite}`markov1913`
#   - (counts vowels and consonants)
#   - Dependence between neighbouring letters is measured, on 20,000 letters of *Eugene Onegin*, by
#     hand.
# * - 1948
#   - {term}`n-gram` {cite}`shannon1948`
#   - the next letter or word, from the $n-1$ before it
#   - Text as a random source with an entropy; the first generated English.
# * - 1980–1999
#   - smoothed n-grams {cite}`jelinekmercer1980,katz1987,kneserney1995,chengoodman1999`
#   - the same
#   - Unseen n-grams get a well-founded share. The standard for twenty years; {ref}`ch-ngram`.
# * - 1997
#   - {term}`LSTM` {cite}`hochreiter1997`
#   - (any sequence)
#   - Gates let a recurrent state keep something over many steps. As a language model it reached a
#     billion parameters by 2016 {cite}`jozefowicz2016`.
# * - 2003
#   - feed-forward network {cite}`bengio2003`
#   - the same
#   - Words become vectors that are learnt along with the model: what is learnt about *cat* helps
#     with *dog*.
# * - 2010
#   - {term}`RNN` {cite}`elman1990,mikolov2010`
#   - the next word, from all before it
#   - A state that is carried along replaces the window of $n-1$ words.
# * - 2014
#   - encoder and decoder {cite}`sutskever2014,cho2014`
#   - the next word of a translation, given the source
#   - A language model under a condition: translation as continuation.
# * - 2014
#   - {term}`attention` {cite}`bahdanau2015`
#   - the same
#   - Each step looks back at all source positions and weighs them; no single vector has to hold
#     the sentence.
# * - 2017
#   - {term}`Transformer` {cite}`vaswani2017`
#   - the same
#   - Attention without recurrence: all positions are trained at once, so training can be spread
#     over many processors.
# * - 2018
#   - {term}`GPT` {cite}`radford2018`
#   - the next token
#   - One pretrained decoder, fine-tuned for each task.
# * - 2018
#   - {term}`BERT` {cite}`devlin2019`
#   - masked tokens, from both sides
#   - An encoder that sees both sides; better at labelling, not a distribution over texts.
# * - 2019
#   - GPT-2 {cite}`radford2019`
#   - the next token
#   - Tasks without fine-tuning, by continuing a prompt; byte-level BPE.
# * - 2019
#   - {term}`RoBERTa` {cite}`liu2019roberta`
#   - masked tokens
#   - The same model as BERT, trained longer on more text, without predicting the next sentence.
# * - 2019
#   - {term}`T5` {cite}`raffel2020`
#   - removed spans
#   - Every task as text to text, in one format, compared systematically.
# * - 2019
#   - {term}`BART` {cite}`lewis2020bart`
#   - the original of a damaged text
#   - BERT's encoder with GPT's decoder.
# * - 2020
#   - GPT-3 {cite}`brown2020`
#   - the next token
#   - A hundred times larger; learns tasks from examples in the prompt.
# * - 2022
#   - instruction tuning {cite}`ouyang2022`
#   - the next token, then what people prefer
#   - A model that continues texts becomes one that follows requests.
# * - 2023
#   - {term}`Llama` {cite}`touvron2023llama`
#   - the next token
#   - Smaller models trained on far more text, from public data, with published weights.
# * - 2025
#   - SmolLM2 {cite}`benallal2025`
#   - the next token
#   - Small enough for a laptop; the model this book will run.
# ```
#
# Years are those in which a model first became public, with exceptions that stand under the year of a paper: the
# feed-forward network was first shown in 2000, recurrent networks predicted words in 1990, instruction tuning began in
# 2021, and SmolLM2 was released in 2024. The papers on attention, BERT, T5 and BART appeared in print a year after the
# models. The last column simplifies: no paper changed only one thing. The list of document 003 names no variant at all
# ({ref}`err-architectures`).
#
# **How large is large?** Document 001 says that GPT, BERT, T5 and BART have "usually between
# billions and hundreds of billions" of parameters. The papers give the numbers themselves; only
# for BART we have to count. It says that it has about 10 percent more than a BERT of the same size
# {cite}`lewis2020bart`. The weight matrices of one Transformer layer of width $d$ hold $12 d^2$
# numbers in an encoder and $16 d^2$ in a decoder, the embeddings $V d$:


# %%
def weights(layers, d, vocabulary=50_265):
    """Weight matrices of an encoder-decoder with that many layers on each side."""
    return layers * (12 + 16) * d**2 + vocabulary * d


base, large = weights(6, 768) / 1e6, weights(12, 1024) / 1e6
print(f"BART: {base:.0f} million (base), {large:.0f} million (large)")
published = [  # smallest and largest model of each family, millions of parameters
    ("2014 encoder-decoder LSTM", "next token", 384, 384),
    ("2016 LSTM language model", "next token", 1_040, 1_040),
    ("2017 Transformer", "next token", 65, 213),
    ("2018 GPT", "next token", 117, 117),
    ("2018 BERT", "masked or damaged text", 110, 340),
    ("2019 GPT-2", "next token", 117, 1_542),
    ("2019 RoBERTa", "masked or damaged text", 125, 355),
    ("2019 T5", "masked or damaged text", 60, 11_000),
    ("2019 BART", "masked or damaged text", 138, 404),
    ("2020 GPT-3", "next token", 125, 175_000),
    ("2023 Llama", "next token", 6_700, 65_200),
    ("2025 SmolLM2", "next token", 135, 1_700),
]

# %% mystnb={"figure": {"name": "fig-lm-map", "caption": "Parameters of the neural models of the map, from the smallest to the largest published size, by the counts in their papers (the smaller RoBERTa: in its repository; BART: our count). The grey band is what document 001 calls usual: several billion to several hundred billion."}, "image": {"alt": "Dot chart on a logarithmic scale with one row for each model from 2014 to 2025. Most lie between 60 million and 1.5 billion parameters: BERT 110 to 340 million, BART about 140 to 400 million, GPT-2 up to 1.5 billion. Only T5 with 11 billion, GPT-3 with 175 billion and Llama with 6.7 to 65 billion reach into the grey band."}}
names, ax = [row[0] for row in published], None
for objective in "next token", "masked or damaged text":
    large = [row[3] * 1e6 if row[1] == objective else math.nan for row in published]
    ends = [(row[2] * 1e6, row[3] * 1e6) for row in published]
    ax = plots.dots(names, large, "parameters of the largest model", ends, objective, ax)
ax.axvspan(2e9, 9e11, color="0.9", zorder=0)
ax.set_xscale("log")
inside = [name for name, _, _, large in published if large >= 2_000]
print(f"{len(inside)} of {len(published)} reach two billion parameters:", ", ".join(inside))

# %% [markdown]
# {numref}`fig-lm-map` corrects the sentence ({ref}`err-parameters`): of the four names in it, BERT and BART lie below
# half a billion, and GPT and T5 span two to three orders of magnitude each. Counts:
# {cite}`sutskever2014,jozefowicz2016,vaswani2017,radford2019,devlin2019,liu2019roberta,raffel2020,brown2020,touvron2023llama,benallal2025`.
# "Large" has no border; better give the number.
#
# Size is not data either. The n-gram models of 2007 were counted on up to two trillion tokens and
# stored up to 300 billion n-grams {cite}`brants2007`; GPT-3 was trained on 300 billion tokens
# {cite}`brown2020`. The step from one to the other is not in the amount of text but in what is
# done with it: a table knows *the cat sat* and *the dog sat* as two unrelated facts.
#
# (sec-lm-answer)=
# ## The answer, measured
#
# What does it mean to predict text? To give, after every history, a probability to every token
# that may follow; by the chain rule this is a probability for every text. How do we measure how
# well it is done? By the probability given to a text that the model has not seen, written as bits
# per byte. Here is the whole chapter on that ruler, on the validation plays and once on the test
# plays.

# %%
test = shakespeare.text("test")
models = {"uniform over 84 characters": uniform}
models |= {f"order {order}": ngram.ModifiedKneserNey(cut(counts, order)) for order in range(1, 6)}
results = [["uniform over 256 bytes", 8.0, 8.0, ""]]
for name, model in models.items():
    on = [evaluate.score(model, characters, text, context=1_000) for text in (validation, test)]
    low, high = on[1].interval
    results.append([name, *(score.bits_per_byte for score in on), f"{low:.2f} to {high:.2f}"])
for name in compressors:
    alone, after = zip(compressed(name, validation), compressed(name, test), strict=True)
    results.append([f"{name}, alone", *alone, ""])
    results.append([f"{name}, after the training text", *after, ""])
results.sort(key=lambda row: -row[2])

# %% mystnb={"figure": {"name": "tab-lm-answer", "caption": "Bits per byte on Shakespeare's plays, worst first. Models are counted on the training plays with modified Kneser-Ney smoothing; intervals are for the test plays."}}
headers = ["predictor", "validation", "test", "95 % interval (test)"]
Markdown(tabulate(results, headers, tablefmt="pipe", floatfmt=("", ".2f", ".2f", "")))

# %% [markdown]
# {numref}`tab-lm-answer` is the beginning of a table that grows through the book. Knowing the
# alphabet, knowing how frequent each letter is, knowing one letter of context: each kind of
# knowledge has a price tag. The 5-gram model needs less than a third of the eight bits it started
# with. It is not the end of what counting can do; {ref}`ch-ngram` looks for that.
#
# ## What we learnt
#
# - A language model is a probability distribution over texts. The chain rule splits it into
#   next-token distributions, and any choice of these makes a proper model
#   ({prf:ref}`thm-lm-chain`).
# - The labels are in the text: inputs and targets are the same tokens, shifted by one.
# - The table of relative frequencies is the table of highest likelihood ({prf:ref}`thm-lm-mle`),
#   and gradient descent finds it too.
# - Negative log-likelihood per token is cross-entropy; it cannot fall below the entropy of the
#   source ({prf:ref}`thm-lm-gibbs`). Perplexity is its exponential, the number of equally likely
#   choices.
# - Perplexities can be compared only where the tokens are the same, bits per byte everywhere. An
#   `<unk>` makes perplexity look better the less the model knows.
# - A model is a compressor, and its bits are file size. A 5-gram model beats `gzip`, `bz2` and
#   `lzma` on plays.
# - More data helps by less and less, only as far as the model can use it, and only if it is the
#   right data.
# - Generative and discriminative name *what is modelled*, $P(x, y)$ or $P(y \mid x)$. Two language
#   models make a classifier, and a good one.
# - Ask narrow questions with minimal pairs, not whether a model "understands".
#
# ## Exercises
#
# Write your answer in the cell below each exercise, replacing the `raise`, and run the check after
# it.
#
# ```{exercise} A loaded die
# :label: ex-lm-die
#
# Write `die_perplexity(probs)`: the perplexity of a die whose faces have the probabilities `probs`
# (a list that sums to one; some may be 0). How can a die with six faces have the perplexity of a
# coin?
# ```


# %% tags=["exercise"]
def die_perplexity(probs):
    """Perplexity of one throw."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def die_perplexity(probs):
    """Perplexity of one throw."""
    return math.exp(-sum(p * math.log(p) for p in probs if p > 0))


# %% tags=["check"]
for probs, expected, why in (
    ([1 / 6] * 6, 6, "a fair die has perplexity 6"),
    ([0.5, 0.5, 0, 0, 0, 0], 2, "only two faces ever show"),
    ([1.0], 1, "no surprise, one choice"),
    ([0.5, 0.25, 0.25], 2**1.5, "entropy 1.5 bits"),
):
    assert math.isclose(die_perplexity(probs), expected, rel_tol=1e-6), why

# %% [markdown]
# ```{exercise} Bits per byte from nats
# :label: ex-lm-bpb
#
# A paper reports a mean loss of `nats` per token on a text, and that the text has `n_tokens`
# tokens. Write `to_bits_per_byte(nats, n_tokens, text)`. (Here all tokens are scored.) Test it on
# Chinese too: how many bytes has 语言模型?
# ```


# %% tags=["exercise"]
def to_bits_per_byte(nats, n_tokens, text):
    """Bits per UTF-8 byte of a text that costs `nats` per token."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def to_bits_per_byte(nats, n_tokens, text):
    """Bits per UTF-8 byte of a text that costs `nats` per token."""
    return nats * n_tokens / math.log(2) / len(text.encode())


# %% tags=["check"]
assert math.isclose(to_bits_per_byte(math.log(2), 8, "abcd"), 2), "8 tokens of one bit, 4 bytes"
assert math.isclose(to_bits_per_byte(math.log(16), 4, "语言模型"), 16 / 12), "it has twelve bytes"
nine_words = spaced.removeprefix(" the")
assert math.isclose(to_bits_per_byte(math.log(27) / 9, 9, nine_words), math.log2(27) / 37)

# %% [markdown]
# ```{exercise} Cross-entropy from counts
# :label: ex-lm-cross-entropy
#
# `seen` and `fresh` map words to how often they occur in a training text and in another text.
# Write `unigram_loss(seen, fresh, vocab_size)`: the cross-entropy, in nats per word of the fresh
# text, of a unigram model with add-one smoothing, $P(w) = (c(w) + 1) / (N + V)$.
# ```


# %% tags=["exercise"]
def unigram_loss(seen, fresh, vocab_size):
    """Mean of -log P(w) over the words of the fresh text."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def unigram_loss(seen, fresh, vocab_size):
    """Mean of -log P(w) over the words of the fresh text."""
    n = sum(seen.values())
    nats = sum(c * -math.log((seen.get(w, 0) + 1) / (n + vocab_size)) for w, c in fresh.items())
    return nats / sum(fresh.values())


# %% tags=["check"]
assert math.isclose(unigram_loss({"a": 1}, {"b": 3}, 2), math.log(3)), "unseen: 1 / (1 + 2)"
assert math.isclose(unigram_loss({}, {"a": 1, "b": 1}, 5), math.log(5)), "no data: uniform"
model = ngram.AddK(count(ten[0], order=1, vocab_size=9), k=1.0)
fresh = [types.index(word) for word in ("cat", "cat", "mat", "the")]
expected = -model.probs([]).log()[fresh].mean().item()
assert math.isclose(unigram_loss(Counter(words), {"cat": 2, "mat": 1, "the": 1}, 9), expected)

# %% [markdown]
# ```{exercise} Which author?
# :label: ex-lm-log-odds
#
# `p_zero` and `p_one` map words to their probability under two unigram models, and `prior` is the
# probability of class 1 before the text is seen. Write `posterior(text, p_zero, p_one, prior)`,
# the probability $P(1 \mid x)$ of equation {eq}`eq-lm-bayes`. Both tables hold the same words; skip
# all others. `prior` lies strictly between 0 and 1. It must survive a text of a million words, so
# work with logarithms.
# ```


# %% tags=["exercise"]
def posterior(text, p_zero, p_one, prior=0.5):
    """P(class 1 | text) by Bayes' rule."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def posterior(text, p_zero, p_one, prior=0.5):
    """P(class 1 | text) by Bayes' rule."""
    known = [word for word in text.split() if word in p_zero]
    odds = math.log(prior / (1 - prior)) + sum(math.log(p_one[w] / p_zero[w]) for w in known)
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


# %% tags=["check"]
zero, one = {"thou": 0.8, "city": 0.2}, {"thou": 0.2, "city": 0.8}
near = lambda a, b: math.isclose(a, b, rel_tol=1e-6)
assert near(posterior("thou", zero, one), 0.2), "P(1 | thou) = 0.2 / (0.2 + 0.8)"
assert near(posterior("city city thou xyz", zero, one), 0.8), "xyz does not count"
assert near(posterior("city", zero, one, prior=0.2), 0.5), "the prior cancels the evidence"
assert posterior("thou " * 10**6, zero, one) < 1e-9
assert posterior("city " * 10**6, zero, one) > 1 - 1e-9

# %% [markdown]
# ```{exercise} Texts that end
# :label: ex-lm-end
#
# A bigram model is given as a table `p`, where `p[h][w]` is the probability of token `w` after
# token `h`. Token 0 is the end token: a text starts as if after an end token, and stops when 0
# comes next. Write `finished(p, n)`: the total probability of all texts with *at most* `n` tokens
# before the end token. Show that it tends to 1 when every row gives the end token a positive
# probability: then the texts of all lengths together share one distribution. (Hint: do not list
# the texts. Keep, for each token, the probability of being there after $t$ steps.)
# ```


# %% tags=["exercise"]
def finished(p, n):
    """Total probability of all texts of 0, 1, ..., n tokens, each followed by the end token 0."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def finished(p, n):
    """Total probability of all texts of 0, 1, ..., n tokens, each followed by the end token 0."""
    p, total = np.asarray(p), 0.0
    here = np.eye(len(p))[0]  # before the first token we stand after an end token
    for _ in range(n + 1):
        there = here @ p
        total += there[0]
        here = np.append(0.0, there[1:])  # what has ended does not go on
    return float(total)


# %% tags=["check"]
p = [[0.1, 0.6, 0.3], [0.25, 0.5, 0.25], [0.5, 0.2, 0.3]]
assert math.isclose(finished(p, 0), 0.1), "the empty text"
assert math.isclose(finished(p, 1), 0.1 + 0.6 * 0.25 + 0.3 * 0.5), "and the two texts of one token"
by_list = sum(
    math.prod(p[h][w] for h, w in pairwise((0, *text, 0)))
    for length in range(5)
    for text in product((1, 2), repeat=length)
)
assert math.isclose(finished(p, 4), by_list), "all 31 texts of up to four tokens, listed"
assert math.isclose(finished(p, 200), 1), "in the end every text ends"
assert finished([[0.0, 1.0], [0.0, 1.0]], 50) == 0, "a text that never ends is not finished"

# %% [markdown]
# ## Further reading
#
# - {cite}`shannon1948` founds information theory and lets n-grams write English, by hand;
#   {cite}`shannon1951` is the guessing game. Both are a pleasure to read.
# - {cite}`mackay2003` is the textbook on the unity of coding and prediction, with arithmetic
#   coding in chapter 6; {cite}`coverthomas2006` is the standard reference for entropy and
#   divergence; {cite}`deletang2024` takes the same idea to large models.
# - {cite}`jurafskymartin2025`, chapter 3, covers n-grams and perplexity in another voice;
#   {cite}`manningschuetze1999` is the classic of statistical language processing.
# - {cite}`ngjordan2002` on generative and discriminative classifiers.
# - {cite}`halevy2009` and {cite}`bankobrill2001` on the worth of data; {cite}`kaplan2020` and
#   {cite}`hoffmann2022` on its limits for neural models.
# - {ref}`page-errata` lists what our source documents say about these subjects and where we
#   disagree; {ref}`page-faq` takes up their questions.
