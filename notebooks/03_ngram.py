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
# (ch-ngram)=
# # Counting: n-gram language models
#
# **How far can counting alone take us, and where must it fail?**
#
# *About three minutes on two cores. You need {ref}`ch-concepts` for cross-entropy, perplexity and bits per byte, and
# {ref}`ch-text` for the tokenizers and the corpora.*
#
# From the 1970s until about 2010 the usual {term}`language model` was a table of counts. Nothing in it is trained by
# gradient descent. You read a text once, count, and divide. The difficulty is what to say about everything you have
# *not* counted, and almost all of this chapter is about that one question.
#
# The plan:
#
# 1. count by hand, and watch the method break on fresh text;
# 2. repair it in eight ways, each with one idea and one picture, all of them instances of one formula;
# 3. measure all of them on two corpora, three kinds of {term}`token` and several corpus sizes;
# 4. read what they write, and ask whether it is copied;
# 5. build tests that no amount of counting can pass;
# 6. set the bar, in bits per byte, that the later chapters have to clear.
#
# The five essays this book grew from mention n-grams once, as what statistical language models "usually" are, and say
# that large models do better in "data, architecture and performance". This chapter puts numbers to the left-hand side
# of that comparison. A large neural model is a statistical model too ({ref}`err-statistical`).

# %%
import bz2
import lzma
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from IPython.display import Markdown
from myst_nb import glue
from nltk import lm
from nltk.util import everygrams
from tabulate import tabulate

from minilm import data, discounts, evaluate, ngram, plots
from minilm.counts import Table, count
from minilm.generate import generate
from minilm.tokenizer import BPE, Words

plots.use_style()

# %% [markdown]
# ## Counting by hand
#
# The {term}`chain rule` writes the probability of a text as a product over its tokens, each given its whole
# {term}`history`. Whole histories do not repeat: past the first few words every text is new, and there is nothing to
# count. The {term}`Markov assumption` cuts the history down to its last $n-1$ tokens, the *context* $h$, so that a text
# of any length can be read and little of it is used ({ref}`err-length`):
#
# $$
# P(w_t \mid w_{<t}) \approx P(w_t \mid h), \qquad h = w_{t-n+1} \dots w_{t-1}.
# $$ (eq-ng-markov)
#
# A model that reads contexts of $n-1$ tokens is an {term}`n-gram` model of *order* $n$: a {term}`unigram` model reads
# no context, a {term}`bigram` model one token, a {term}`trigram` model two. Markov counted vowels and consonants in
# *Eugene Onegin* this way {cite}`markov1913`; Shannon drew the first sentences from such a model {cite}`shannon1948`.
#
# Our laboratory is a nursery rhyme, small enough to check every number with a pencil.

# %%
chain = [
    "house that Jack built .",
    "malt that lay in the",
    "rat that ate the",
    "cat that killed the",
]
verses = ["This is the " + " ".join(reversed(chain[:n])) for n in range(1, 5)]
tokens = " ".join(verses).split()
print(*verses, sep="\n")
print(f"{len(tokens)} tokens, {len(set(tokens))} different")

# %% [markdown]
# We count every pair of neighbours, and then ask what follows "the".

# %%
pairs = Counter(pairwise(tokens))
after_the = {w: c for (h, w), c in pairs.items() if h == "the"}
print(after_the, "in all", sum(after_the.values()))

# %% [markdown]
# Write $c(h, w)$ for the count of word $w$ after context $h$, and $c(h\,\bullet) = \sum_w c(h, w)$ for the count of
# the context. The natural estimate divides one by the other:
#
# $$
# P_{\mathrm{ML}}(w \mid h) = \frac{c(h, w)}{c(h\,\bullet)}.
# $$ (eq-ng-mle)
#
# So $P(\text{house} \mid \text{the}) = 4/10$. The rule has a stronger title than "natural".
#
# ```{prf:theorem} Relative frequencies are the maximum likelihood estimate
# :label: thm-ng-mle
# Among all tables $Q(w \mid h)$ whose rows sum to one, the table {eq}`eq-ng-mle` gives the training text the highest
# probability (the first $n-1$ tokens taken as given, see {ref}`err-boundaries`).
# ```
#
# ```{prf:proof}
# The log-likelihood of the text is $\sum_{h,w} c(h,w) \log Q(w \mid h)$: each pair contributes as often as it occurs.
# Take one context, and divide by the constant $c(h\,\bullet)$. What is left, $\sum_w P_{\mathrm{ML}}(w \mid h) \log
# Q(w \mid h)$, is minus the {term}`cross-entropy` of $Q$ under $P_{\mathrm{ML}}$. Cross-entropy is least where the
# two distributions agree ({ref}`ch-concepts`), so each row is best at $Q = P_{\mathrm{ML}}$.
# ```
#
# `minilm` counts ids, not strings. We number the words, and keep one place for a word that the rhyme will need in its
# fifth verse and has not used yet: "dog". Our table must agree with the hand count, and with
# [NLTK](https://www.nltk.org), whose `nltk.lm` is the outside reference of this chapter.

# %%
words = [*dict.fromkeys(tokens), "dog"]
number = {word: i for i, word in enumerate(words)}
toy = count([number[word] for word in tokens], order=3, vocab_size=len(words))
assert {words[w]: c for w, c in toy.after([number["the"]]).items()} == after_the
assert all(toy[number[h], number[w]] == c for (h, w), c in pairs.items())
print(f"{len(words)} words; different 1-, 2- and 3-grams:", [len(t.keys) for t in toy.tables])

# %% [markdown]
# The comparison with NLTK will be made for every method, so it gets a function: same n-grams in, and the whole row of
# probabilities must agree for several contexts, seen and unseen.


# %%
def check(ours, theirs, contexts=("the", "that Jack", "in the", "dog the", "the dog", "dog")):
    theirs.fit([everygrams(tokens, max_len=3)])
    for context in map(str.split, contexts):
        row = [theirs.score(word, context) for word in words]
        torch.testing.assert_close(ours.probs([number[w] for w in context]).tolist(), row)
    print(f"{type(ours).__name__} = nltk.lm.{type(theirs).__name__} after {len(contexts)} contexts")


def vocabulary():
    return lm.Vocabulary(tokens, unk_label="dog")


mle = ngram.MaximumLikelihood(toy)
check(mle, lm.MLE(3, vocabulary=vocabulary()), contexts=("the", "that Jack", "in the"))

# %% [markdown]
# Now the fifth verse: *This is the dog that worried the cat ...* After "the", the word "dog" has count 0, so its
# probability is 0, so the probability of the whole verse is 0, and its perplexity is infinite. One gap spoils
# everything. The pictures below draw this row of probabilities, for "the", under one method after the other. Watch
# "dog".

# %%
shown = "house malt rat cat dog Jack that".split()


def picture(model, context="the"):
    rows = {
        type(m).__name__: m.probs([number[context]])[[number[w] for w in shown]]
        for m in (pair_mle, model)
    }
    print(
        *(f"{name}: {[round(p, 3) for p in row.tolist()]}" for name, row in rows.items()), sep="\n"
    )
    plots.bars(shown, rows, f"P(w | {context})")


pair_toy = replace(toy, tables=toy.tables[:2])  # pictures use the bigram model
pair_mle = ngram.MaximumLikelihood(pair_toy)
print({w: round(pair_mle.probs([number["the"]])[number[w]].item(), 3) for w in shown})

# %% [markdown]
# ## Sparsity: most of language is unseen
#
# Is an unseen n-gram a rare accident, or the rule? We need a real text. The corpus is Shakespeare, split by play, and
# we count it in three units:
#
# - **bytes**: the text is plain ASCII, so these are characters;
# - **BPE**: a {term}`byte-level BPE` with 1,024 tokens;
# - **words**: the 7,936 most frequent words with their leading space, everything else spelled in bytes
#   ({ref}`ch-text` explains why "unknown word" would be cheating).
#
# All three are lossless, so {term}`bits per byte` compares them fairly.

# %%
shakespeare, wikipedia = data.load("shakespeare"), data.load("wikipedia")


def units(text):
    return {
        "byte": BPE.train(text, 256, specials=()),
        "BPE": BPE.train(text, 1024, specials=()),
        "word": Words.train(text, 8192),
    }


tokenizers = units(shakespeare.text())
for unit, tokenizer in tokenizers.items():
    print(
        f"{unit:5}",
        [tokenizer.token_bytes(i).decode() for i in tokenizer.encode("the unseen word")],
    )

# %%
ORDERS = {"byte": 8, "BPE": 6, "word": 5}


def encode(unit, split="train", corpus=shakespeare):
    return torch.tensor(tokenizers[unit].encode(corpus.text(split)))


train = {unit: encode(unit) for unit in ORDERS}
counts = {u: count(train[u], n, tokenizers[u].vocab_size) for u, n in ORDERS.items()}


def upto(table, order):
    return replace(table, tables=table.tables[:order])


# %% [markdown]
# {numref}`tab-ng-size` sets the number of *possible* n-grams, $V^n$, beside the number that the four megabytes of
# text contain.

# %% mystnb={"figure": {"name": "tab-ng-size", "caption": "Possible n-grams, and different n-grams in the Shakespeare training text, by unit and order n. Words have a vocabulary of 8,192, BPE of 1,024, bytes of 256."}}
rows = []
for n in range(1, 9):
    for unit in ("byte", "BPE", "word"):
        if n <= ORDERS[unit]:
            seen, possible = len(counts[unit].tables[n - 1].keys), counts[unit].vocab_size ** n
            rows.append((n, unit, f"{possible:.1e}", f"{seen:,}", f"{seen / len(train[unit]):.2f}"))
heads = ["n", "unit", "possible", "seen", "seen per token"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# The last column is the telling one. There are 0.16 different word bigrams per token, and 0.78 different 5-grams: at
# order 5 the table has all but stopped summarising the text and started storing it. Most n-grams of a long order are
# met once in the whole corpus, as two fifths of the different words are (a {term}`hapax legomenon`, see
# {ref}`ch-text`).
#
# What matters is fresh text. {numref}`fig-ng-sparsity` asks, for every position of the validation plays, whether the
# n-gram there occurs anywhere in the training plays. On the right we shrink the training text to a sixty-fourth, a
# sixteenth, a quarter.


# %%
def unseen(table, fresh):
    found = table.rows(fresh[None].numpy())[1:]
    return [float((rows < 0).mean()) for rows in found]


fresh = {unit: encode(unit, "validation") for unit in ORDERS}
by_unit = {unit: unseen(counts[unit], fresh[unit]) for unit in ORDERS}
SIZES = (64, 16, 4, 1)
parts = {s: count(train["word"][: len(train["word"]) // s], 5, 8192) for s in SIZES}
by_size = {s: unseen(parts[s], fresh["word"]) for s in SIZES}

# %% mystnb={"figure": {"name": "fig-ng-sparsity", "caption": "Share of the n-grams of the validation plays that never occur in the training plays: by order and unit (left), and for words by order and size of the training text (right)."}, "image": {"alt": "Two line charts. Left: the unseen share rises with the order, to 0.73 for words at order 5, to 0.90 for BPE at order 6 and to 0.34 for bytes at order 8. Right: for each word order the unseen share falls as training text grows, from 0.40 to 0.08 for bigrams and from 0.93 to 0.73 for 5-grams."}}
left, right = plots.panels(2, size=(8.4, 3.4))
gaps = {unit: share + [np.nan] * (8 - len(share)) for unit, share in by_unit.items()}
plots.lines(range(1, 9), gaps, "order n", "unseen share of validation n-grams", ax=left)
mega = [len(train["word"]) / s / 1e6 for s in SIZES]
curves = {f"n = {n}": [by_size[s][n - 1] for s in SIZES] for n in range(1, 6)}
plots.plain_ticks(
    plots.lines(mega, curves, "training tokens, millions", "", log="x", ax=right), "x"
)
right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
for unit, share in by_unit.items():
    print(f"{unit:5}", [round(s, 3) for s in share])
for name, share in curves.items():
    print(name, [round(s, 3) for s in share])

# %% tags=["hide-input"]
glue("ng_unseen2", by_unit["word"][1], display=False)
glue("ng_unseen5", by_unit["word"][4], display=False)
glue("ng_unseen5_small", by_size[64][4], display=False)

# %% [markdown]
# Counted in words, a share of {glue:text}`ng_unseen2:.2f` of the fresh bigrams and {glue:text}`ng_unseen5:.2f` of the
# fresh 5-grams have never been seen. And more data is a slow way out: with a sixty-fourth of the text the second
# number is {glue:text}`ng_unseen5_small:.2f`, so 64 times as much text has lowered it by a fifth. This is
# {term}`sparsity`. It has a plain consequence: the maximum likelihood model has infinite perplexity on any real text.
# At how many positions does the bigram model say "impossible"?

# %%
model = ngram.MaximumLikelihood(upto(counts["BPE"], 2))
nats = evaluate.nll(model, fresh["BPE"])
print(
    "perplexity",
    evaluate.score(model, tokenizers["BPE"], shakespeare.text("validation")).perplexity,
)
print(f"impossible: {nats.isinf().double().mean():.3f} of the validation tokens")

# %% [markdown]
# The row that {prf:ref}`thm-ng-mle` calls best is best for the past. A model for the future has to take some
# probability away from what it saw and give it to what it did not. That is {term}`smoothing`.
#
# (sec-ng-recursion)=
# ## One recursion for every method
#
# All methods below answer two questions: *how much* to take from the seen words, and *how to share it out* among the
# others. The answer to the second is nearly always the same. Ask a model with a shorter context, which has seen more:
#
# $$
# P_k(w \mid h) = \alpha_k(h, w) + \gamma_k(h) \, P_{k-1}(w \mid h'),
# $$ (eq-ng-recursion)
#
# where $h'$ is $h$ without its first token, $\alpha$ is what the seen word keeps, and $\gamma$ is the weight of the
# shorter model. At the bottom stands the uniform distribution, $P_0(w) = 1/V$, so nothing is ever impossible. This
# form is called {term}`interpolation`. Its sibling, {term}`back-off`, asks the shorter model only about words that
# were not seen after $h$:
#
# $$
# P_k(w \mid h) = \begin{cases} \alpha_k(h, w) & c(h,w) > 0, \\ \gamma_k(h)\, P_{k-1}(w \mid h') & \text{otherwise.}
# \end{cases}
# $$ (eq-ng-backoff)
#
# A method says what each n-gram *keeps*, $c^*(h,w)$, and what each context sets aside, its *reserve* $R(h)$. Then
#
# $$
# \alpha(h,w) = \frac{c^*(h,w)}{\sum_v c^*(h,v) + R(h)}, \qquad
# \gamma(h) = \frac{R(h)}{\sum_v c^*(h,v) + R(h)},
# $$ (eq-ng-reserve)
#
# and an interpolated row sums to one, since $\sum_w \alpha + \gamma = 1$ and $P_{k-1}$ sums to one by induction. A
# context that was never seen has no counts and no opinion: there $\gamma = 1$, and the shorter context speaks.
#
# In code a method is one short function, `split`, that returns what is kept and what is reserved; `NGram` does the
# rest. To see how little is left to say, here is a method in three lines. It takes a fixed share $\lambda$ of every
# row, the plainest form of an idea of Jelinek and Mercer {cite}`jelinekmercer1980`.


# %% mystnb={"figure": {"name": "fig-ng-jm", "caption": "Jelinek-Mercer interpolation in one picture: every seen word pays the same share, 0.3, and the unigram model distributes it."}, "image": {"alt": "Bars for seven words after the word the. Compared with maximum likelihood, house, malt, rat and cat lose some height, and dog, Jack and that, which had none, get a little."}}
class JelinekMercer(ngram.NGram):
    share = 0.3

    def split(self, k, table):
        return table.counts, table.sum(table.counts) * self.share / (1 - self.share)


jelinek_mercer = JelinekMercer(pair_toy)
assert abs(jelinek_mercer.probs([number["the"]]).sum() - 1) < 1e-12

picture(jelinek_mercer)

# %% [markdown]
# In {numref}`fig-ng-jm`, "Jack" and "that" receive something because they are frequent words; "dog", never seen at
# all, receives its share of the uniform bottom. One number $\lambda$ for all contexts is crude: a context seen ten
# thousand times needs less help than one seen twice. Each method that follows is a better answer to the question how
# large the reserve of *this* context should be.
#
# ## Add-k: pretend you saw everything k times
#
# The oldest repair is {term}`add-k smoothing`: start every count at $k$ in place of 0.
#
# $$
# P(w \mid h) = \frac{c(h,w) + k}{c(h\,\bullet) + kV}
# $$ (eq-ng-addk)
#
# In the language of {eq}`eq-ng-reserve`, {eq}`eq-ng-addk` keeps all counts; the reserve is $kV$, shared evenly. For
# $k = 1$ it is Laplace's rule of succession, for general $k$ Lidstone's {cite}`lidstone1920`. By hand: "the" was
# followed 10 times, and $V = 16$, so $P(\text{house} \mid \text{the}) = (4 + 1)/(10 + 16)$.

# %% mystnb={"figure": {"name": "fig-ng-addk", "caption": "Add-one smoothing in one picture: the words seen after \"the\" lose nearly half of their probability to words that were never there."}, "image": {"alt": "Bars for seven words after the word the. House falls from 0.40 to 0.19, and dog, Jack and that rise from zero to 0.04 each."}}
add_one = ngram.AddK(pair_toy, k=1.0)
by_hand = torch.tensor(
    [(pairs["the", word] + 1) / (10 + 16) for word in words], dtype=torch.float64
)
torch.testing.assert_close(add_one.probs([number["the"]]), by_hand)
check(ngram.AddK(toy, k=0.5), lm.Lidstone(0.5, 3, vocabulary=vocabulary()))
picture(add_one)

# %% [markdown]
# {numref}`fig-ng-addk` shows the flaw: the reserve depends on the size of the vocabulary, which has nothing to do
# with how surprising the context is. Let us measure it. For a bigram model over the BPE tokens we compute the
# probability mass that add-k *promises* to unseen pairs (averaged over the training contexts), and compare it with
# the share of validation pairs that really are unseen. $k$ is a {term}`hyperparameter`, not one of the numbers that are
# fitted to the training text ({ref}`err-optimisation`); we choose it on the {term}`validation set`.

# %%
text = {"validation": shakespeare.text("validation")}


def score(model, unit="BPE"):
    return evaluate.score(model, tokenizers[unit], text["validation"])


def promised(k, table):
    after, kinds = table.sum(table.counts), table.distinct
    mass = k * (table.vocab_size - kinds) / (after + k * table.vocab_size)
    return (after * mass).sum() / after.sum()


# %% mystnb={"figure": {"name": "tab-ng-addk", "caption": "Add-k on BPE bigrams: probability promised to unseen pairs, and bits per byte on the validation plays."}}
two = upto(counts["BPE"], 2)
rows = []
for k in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
    rows.append((k, promised(k, two.tables[1]), score(ngram.AddK(two, k)).bits_per_byte))
print(f"really unseen: {by_unit['BPE'][1]:.3f} of the validation pairs")
Markdown(
    tabulate(
        rows, ["k", "promised", "bits per byte"], tablefmt="pipe", floatfmt=("g", ".3f", ".3f")
    )
)

# %% tags=["hide-input"]
best_k = min(rows, key=lambda row: row[2])
glue("ng_k", best_k[0], display=False)
glue("ng_promised1", float(rows[0][1]), display=False)
glue("ng_promised_best", float(best_k[1]), display=False)
glue("ng_pairs_unseen", by_unit["BPE"][1], display=False)

# %% [markdown]
# Laplace's $k = 1$ sets {glue:text}`ng_promised1:.2f` of the mass aside for events that make up
# {glue:text}`ng_pairs_unseen:.3f` of the text ({numref}`tab-ng-addk`). The best value on this grid is $k =$
# {glue:text}`ng_k`, and it is no accident that it promises {glue:text}`ng_promised_best:.3f`, very nearly the right
# total. But it is right on average only. A context that was followed by a single word reserves as much as one that
# was followed by hundreds, and all unseen words get the same. Can the text tell us by itself how much to reserve, and
# where?
#
# (sec-ng-goodturing)=
# ## Good–Turing: the once-seen speak for the unseen
#
# It can, by an argument that Turing found at Bletchley Park and Good published {cite}`good1953`. Let $N_r$ be the
# number of different n-grams seen exactly $r$ times, and $N = \sum_r r N_r$ the number of n-grams in the text.
#
# ```{prf:theorem} Missing mass
# :label: thm-ng-missing
# Take one n-gram at random out of the text, and look it up in the text that is left. The probability that it is not
# found there is $N_1 / N$. The probability that it is found there exactly $r$ times is $(r+1) N_{r+1} / N$.
# ```
#
# ```{prf:proof}
# The n-gram taken out is missing from the rest if and only if it occurred once. There are $N_1$ such n-grams and each
# stands at one of the $N$ places. It is found $r$ times in the rest if and only if it occurred $r + 1$ times; there
# are $N_{r+1}$ such n-grams, and each stands at $r + 1$ places.
# ```
#
# This is leave-one-out {term}`cross-validation`, done exactly, without a loop. If a text without one token is much
# like the whole text, then the {term}`Good-Turing estimate` follows. The next n-gram is new with probability $N_1/N$.
# Those seen $r$ times get $(r+1)N_{r+1}/N$ together, and as there are $N_r$ of them, each deserves not $r/N$ but
# $r^*/N$ with
#
# $$
# r^* = (r + 1) \frac{N_{r+1}}{N_r}.
# $$ (eq-ng-turing)
#
# First the theorem, checked by brute force on the rhyme: take out each bigram in turn.

# %%
grams = list(pairwise(tokens))
missing = sum(pairs[gram] - 1 == 0 for gram in grams) / len(grams)
n_r = toy.of_counts(2)
assert missing == n_r[1] / len(grams)
print("N_r of the rhyme's bigrams:", n_r, f"missing mass {n_r[1]}/{len(grams)} = {missing:.3f}")

# %% [markdown]
# Now the claim that matters: does $r^*$, computed from one text, predict what happens in *another*? Church and Gale
# {cite}`churchgale1991` tested it on 44 million words of news. They counted bigrams in one half and looked how often
# a bigram seen $r$ times there occurs in the other half. We repeat it for word bigrams. For a fair test the halves
# must be alike, so we deal the paragraphs of the plays alternately to the two halves.

# %%
passages = shakespeare.text().split("\n\n")
dealt = "\n\n".join(passages[::2]), "\n\n".join(passages[1::2])
halves = [tokenizers["word"].encode(part) for part in dealt]
half = min(map(len, halves))
alike = halves[0][:half] + halves[1][:half]
held_out = discounts.deleted_estimate(alike, 2, 8192)
n_r = count(halves[0][:half], 2, 8192).of_counts(2)
n_r[0] = 8192**2 - sum(n_r.values())
turing = {r: (r + 1) * n_r[r + 1] / n_r[r] for r in range(10)}

# %% mystnb={"figure": {"name": "tab-ng-churchgale", "caption": "What a count of r in one half of the text is worth in the other half: measured, and predicted by Turing's formula from the first half alone. Word bigrams of Shakespeare."}}
rows = [(r, n_r[r], turing[r], held_out[r], r - held_out[r]) for r in range(10)]
heads = ["r", "N_r", "Turing's r*", "held-out r*", "r - held-out r*"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=("d", "d", ".4f", ".4f", ".3f")))

# %% mystnb={"figure": {"name": "fig-ng-churchgale", "caption": "Church and Gale's experiment on Shakespeare: the worth of a count, measured on held-out text and predicted by Turing. The dash-dotted line is r itself, the worth that maximum likelihood assumes."}, "image": {"alt": "Line chart over counts r from 0 to 9. The measured and the predicted worth lie on top of each other and run below the diagonal, nearly parallel to it, about three quarters to one lower from r = 2 on."}}
r = list(range(10))
series = {"held-out": [held_out[i] for i in r], "Turing": [turing[i] for i in r], "r": r}
ax = plots.lines(r, series, "r, count in one half", "r*, mean count in the other half")

# %% [markdown]
# {numref}`fig-ng-churchgale` contains two of the best ideas in the field. The prediction is very good, without a
# single parameter: even the worth of a pair that was *never* seen comes out right. And the line runs nearly parallel
# to the diagonal: from $r = 2$ on, a count of $r$ is worth $r$ minus something between 0.7 and 1 (last column of
# {numref}`tab-ng-churchgale`). We come back to this near-constant.
#
# Two repairs make a method of it. For large $r$ most $N_r$ are 0 or 1 and {eq}`eq-ng-turing` jumps about; Simple
# Good–Turing draws a straight line through $\log N_r$ and reads the large counts off it {cite}`galesampson1995`. And
# what a context loses, it shares evenly among the words not seen after it.

# %% mystnb={"figure": {"name": "fig-ng-gt", "caption": "Good-Turing in one picture: each count pays according to how many n-grams have the next higher count; the proceeds are spread evenly."}, "image": {"alt": "Bars for seven words after the word the. House falls from 0.40 to 0.33 and malt from 0.30 to 0.27, rat and cat stay, and dog, Jack and that get 0.01 each."}}
picture(ngram.GoodTuring(pair_toy))

# %% [markdown]
# Four verses are too few for {eq}`eq-ng-turing` ({numref}`fig-ng-gt`; a cap keeps any $r^*$ from exceeding $r$), and
# sharing evenly is a waste: "that" and "Jack" are better guesses than "dog" anywhere.
#
# ## Katz: back off to a shorter context
#
# {term}`Katz smoothing` {cite}`katz1987` joins the two halves we have: Good–Turing decides how much to take, and
# {eq}`eq-ng-backoff` gives it to the shorter model. Counts above 5 are reliable and pay nothing; the smaller ones are
# scaled so that the total reserve is still $N_1$. The weight must make the row sum to one. The unseen words of $h$
# hold only a part of the shorter model's mass, so the reserve is divided by that part:
#
# $$
# \gamma(h) = \frac{1 - \sum_{w:\, c(h,w)>0} \alpha(h,w)}{\sum_{w:\, c(h,w)=0} P_{k-1}(w \mid h')}.
# $$ (eq-ng-katz)

# %% mystnb={"figure": {"name": "fig-ng-katz", "caption": "Katz back-off in one picture: small counts are discounted, and the unigram model distributes the proceeds among the unseen words only."}, "image": {"alt": "Bars for seven words after the word the. The four seen words each lose 0.05; dog, Jack and that now get different small shares, that the largest."}}
katz, the = ngram.Katz(pair_toy), [number["the"]]
row, shorter = katz.probs(the), katz.probs([])
seen = torch.tensor([pairs["the", word] > 0 for word in words])
gamma = (1 - row[seen].sum()) / shorter[~seen].sum()
torch.testing.assert_close(row[~seen], gamma * shorter[~seen])
print(f"the seen words keep {row[seen].sum():.3f}; gamma = {gamma:.3f}")
picture(katz)

# %% [markdown]
# In {numref}`fig-ng-katz` the unseen words differ again, as they did in {numref}`fig-ng-jm`. (The rhyme is too short
# for Katz's discounts; here each count of 1 to 5 pays a fixed half.) For many years this was the usual choice in
# speech recognition {cite}`chengoodman1999`.
#
# ## Witten–Bell: a new word is an event
#
# {term}`Witten-Bell smoothing` {cite}`wittenbell1991` comes from text compression and asks a different question. Read
# the text, and each time a word appears after $h$ that had not appeared there before, note "something new happened".
# That event happened $N_{1+}(h\,\bullet)$ times, once for each *different* word after $h$. So count it like a word:
#
# $$
# P(\text{new} \mid h) = \gamma(h) = \frac{N_{1+}(h\,\bullet)}{c(h\,\bullet) + N_{1+}(h\,\bullet)}.
# $$ (eq-ng-wb)
#
# After "the", 4 different words in 10 places: the reserve is $4/14$. A context such as "Jack", always followed by
# "built", reserves $1/5$ after four sightings. The context itself says how open it is, which add-k and Good–Turing
# could not know.

# %%
witten_bell = ngram.WittenBell(pair_toy)
unigram = witten_bell.probs([])
by_hand = torch.tensor([pairs["the", word] for word in words]) / 14 + 4 / 14 * unigram
torch.testing.assert_close(witten_bell.probs([number["the"]]), by_hand)

ours, theirs = ngram.WittenBell(toy), lm.WittenBellInterpolated(3, vocabulary=vocabulary())
theirs.estimator.unigram_score = lambda word: unigram[number[word]].item()
check(ours, theirs)

# %% [markdown]
# (One line of the check needs a word. NLTK ends its recursion at the unsmoothed unigram model, which gives "dog"
# zero; ours goes on to $1/V$. The check lends NLTK our last step; everything above it is theirs.) In
# {numref}`fig-ng-wb` the row has paid the share {eq}`eq-ng-wb`.

# %% mystnb={"figure": {"name": "fig-ng-wb", "caption": "Witten-Bell in one picture: the row keeps 10 of 14 parts, and 4 parts, one for each different word seen, go to the unigram model."}, "image": {"alt": "Bars for seven words after the word the. House falls from 0.40 to 0.31, the others in proportion, and Jack and that get more than dog."}}
picture(witten_bell)

# %% [markdown]
# ## Absolute discounting: every count pays the same
#
# In {numref}`tab-ng-churchgale` the last column hardly changed from $r = 2$ on. So take it literally: subtract one
# constant $D$ from every count, whatever the count {cite}`ney1994`.
#
# $$
# P(w \mid h) = \frac{\max(c(h,w) - D, 0)}{c(h\,\bullet)} + \frac{D\,N_{1+}(h\,\bullet)}{c(h\,\bullet)} \, P(w \mid h')
# $$ (eq-ng-absolute)
#
# As with Witten–Bell, {term}`absolute discounting` makes the reserve grow with the number of different words after
# $h$. But it takes from the rich and the poor alike, where Witten–Bell takes in proportion: "house", seen four times,
# pays no more than "cat", seen once. For the value of $D$, leave-one-out gives the estimate
#
# $$
# D = \frac{N_1}{N_1 + 2 N_2},
# $$ (eq-ng-discount)
#
# which is between 0 and 1 by construction. The method is again three lines.


# %% mystnb={"figure": {"name": "fig-ng-ad", "caption": "Absolute discounting in one picture: each of the four words seen after \"the\" pays the same."}, "image": {"alt": "Bars for seven words after the word the. House, malt, rat and cat are each lower by about the same amount; Jack and that get more than dog."}}
class AbsoluteDiscounting(ngram.NGram):
    def split(self, k, table):
        discount = discounts.absolute_discount(self.counts.of_counts(k))
        return table.counts - discount, discount * table.distinct


n = count(train["word"], 2, 8192).of_counts(2)
print(
    f"D of word bigrams = {discounts.absolute_discount(n):.3f}; measured r - r* at r = 2 .. 9:",
    [round(r - held_out[r], 2) for r in range(2, 10)],
)

picture(AbsoluteDiscounting(pair_toy))

# %% [markdown]
# (sec-ng-kn)=
# ## Kneser–Ney: ask a different question of the shorter context
#
# So far the shorter model was the same model with a shorter context. Look at "Jack" in {numref}`fig-ng-ad`. It is
# frequent in the rhyme, so the unigram model likes it, so it gets a good share of the reserve after "the". But all
# four times "Jack" stands after "that". Whoever has just read another context should not expect "Jack": its frequency
# is already fully explained by the bigram "that Jack".
#
# The textbook case is "Francisco": frequent, but only after "San" {cite}`chengoodman1999`. When the reserve is being
# shared out, the context is by definition one where the word has *not* been seen. The right question is not "how
# often is $w$?" but "after how many different contexts has $w$ turned up?". That is the {term}`continuation count`
# $N_{1+}(\bullet\, w)$. Which words of Shakespeare have the largest ratio of the two? (Only words inside a line:
# whatever starts a line follows a line end and nothing else.)

# %%
table = counts["word"].tables[0]
spread = counts["word"].continuations(1)
ratio = np.where(table.counts >= 50, table.counts / np.maximum(spread, 1), 0)
plain = tokenizers["word"].tokens
inside = [i for i in np.argsort(-ratio, kind="stable") if plain[table.keys[i]].startswith(" ")]

# %% mystnb={"figure": {"name": "tab-ng-francisco", "caption": "The Franciscos of Shakespeare: words seen at least 50 times inside a line, with the highest count for each different word before them."}}
rows = []
for i in inside[:12]:
    word = int(table.keys[i])
    before = Counter(train["word"][:-1][train["word"][1:] == word].tolist()).most_common(1)[0]
    rows.append((repr(plain[word]), table.counts[i], spread[i], ratio[i], repr(plain[before[0]])))
heads = ["word", "count", "different words before", "ratio", "most often after"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".1f"))

# %% [markdown]
# {numref}`tab-ng-francisco` lists them. "Pedro" follows "Don", "Ephesus" follows "of", and "sirrah", which a master
# says to a servant, follows a comma. After any other word, their frequency says nothing about them.
#
# {term}`Kneser-Ney smoothing` {cite}`kneserney1995`, here in its interpolated form {cite}`chengoodman1999`, keeps
# {eq}`eq-ng-absolute` and replaces the shorter model's counts by continuation counts. The rule is more than a good
# intuition. It follows from a demand that any sensible bigram model should meet: averaged over its contexts, it must
# reproduce the frequencies of the single words.
#
# ```{prf:theorem} Kneser and Ney
# :label: thm-ng-kn
# Let $P(w \mid v)$ have the form {eq}`eq-ng-absolute` with $0 < D \le 1$ and a lower-order distribution $P'$. The
# marginals are preserved, $\sum_v c(v\,\bullet)\, P(w \mid v) = c(\bullet\,w)$ for every $w$, if and only if
#
# $$
# P'(w) = \frac{N_{1+}(\bullet\, w)}{N_{1+}(\bullet\,\bullet)},
# \qquad N_{1+}(\bullet\,\bullet) = \sum_w N_{1+}(\bullet\, w).
# $$ (eq-ng-continuation)
# ```
#
# ```{prf:proof}
# Multiply {eq}`eq-ng-absolute` by $c(v\,\bullet)$ and add up over $v$. The first term gives $\sum_{v:\,c(v,w)>0}
# (c(v,w) - D) = c(\bullet\,w) - D\, N_{1+}(\bullet\,w)$: the discount is paid once for each different $v$ before $w$.
# The second term gives $D \sum_v N_{1+}(v\,\bullet)\, P'(w) = D\, N_{1+}(\bullet\,\bullet)\, P'(w)$. The sum equals
# $c(\bullet\,w)$ exactly where $D\, N_{1+}(\bullet\,\bullet)\, P'(w) = D\, N_{1+}(\bullet\,w)$.
# ```
#
# The check takes one matrix product on the rhyme: contexts times rows.


# %%
def marginals(model):
    contexts = torch.tensor([len(list(filter(lambda p: p[0] == v, grams))) for v in words]).double()
    table = torch.stack([model.probs([v]) for v in range(len(words))])
    return contexts @ table


wanted = torch.tensor([sum(g[1] == w for g in grams) for w in words]).double()
kneser_ney = ngram.KneserNey(pair_toy, discount=[0, 0.5])
torch.testing.assert_close(marginals(kneser_ney), wanted)
off = marginals(AbsoluteDiscounting(pair_toy)) - wanted
print({w: round(off[number[w]].item(), 2) for w in ("Jack", "house", "built", "that", "the")})

# %% [markdown]
# Kneser–Ney reproduces every marginal. Absolute discounting over raw unigram counts does not: the line above shows by
# how many occurrences it is off, too many for words tied to one context such as "Jack", too few for words with many.
#
# (With more than two orders the demand is made of each order in turn. There the lower models are themselves
# discounted and interpolated, so marginals are preserved only approximately.) The reference check comes with
# {numref}`fig-ng-kn`.

# %% mystnb={"figure": {"name": "fig-ng-kn", "caption": "Kneser-Ney in one picture: the seen words pay as before, and the reserve goes by continuation counts, so \"Jack\" gets no more than \"house\" would."}, "image": {"alt": "Bars for seven words after the word the. House, malt, rat and cat pay the same discount; of the unseen words that gets most, and Jack, although frequent, gets little."}}
check(
    ngram.KneserNey(toy, [0, 0.75, 0.75]),
    lm.KneserNeyInterpolated(3, 0.75, vocabulary=vocabulary()),
)
picture(ngram.KneserNey(pair_toy, discount=0.5))

# %%
plain_share = AbsoluteDiscounting(pair_toy).probs([])
spread_share = ngram.KneserNey(pair_toy, discount=0.5).probs([])
for word in ("Jack", "that", "dog"):
    print(
        f"{word:5} unigram {plain_share[number[word]]:.3f}  continuation {spread_share[number[word]]:.3f}"
    )

# %% [markdown]
# ## Modified Kneser–Ney: three discounts
#
# One constant is a compromise. In {numref}`tab-ng-churchgale` a count of 1 should pay 0.59 and a large one 0.9, and
# {eq}`eq-ng-discount` gives 0.69 to all. Chen and Goodman {cite}`chengoodman1999` therefore use three, for counts of
# one, two, and three or more, each with its leave-one-out estimate:
#
# $$
# D_r = r - (r+1)\, Y\, \frac{N_{r+1}}{N_r}, \qquad Y = \frac{N_1}{N_1 + 2N_2}, \qquad r = 1, 2, 3{+}.
# $$ (eq-ng-modified)
#
# Compare with {eq}`eq-ng-turing`: $D_r$ is $r - r^*$ with a correction $Y$. The reserve adds up what was paid, $R(h)
# = D_1 N_1(h\,\bullet) + D_2 N_2(h\,\bullet) + D_{3+} N_{3+}(h\,\bullet)$. In their study, over many methods, orders
# and corpora, this one was best almost everywhere, and {term}`modified Kneser-Ney smoothing` has been the standard
# since.

# %% mystnb={"figure": {"name": "fig-ng-mkn", "caption": "Modified Kneser-Ney in one picture: frequent words pay a larger discount than rare ones (here the fallback discounts 0.5, 1 and 1.5)."}, "image": {"alt": "Bars for seven words after the word the. House and malt fall by more than cat, and the unseen words get more than under plain Kneser-Ney."}}
picture(ngram.ModifiedKneserNey(pair_toy))

# %% [markdown]
# (The rhyme has too few bigrams for {eq}`eq-ng-modified`, so {numref}`fig-ng-mkn` shows the fixed fallback 0.5, 1,
# 1.5.)
#
# Is the closed form any good? The alternative is to try values on held-out text. `cross_validate` splits the training
# text into folds, counts on all but one and scores the last, for each value on a grid. This is where cross-validation
# belongs in language modelling, choosing a hyperparameter inside the training text. The essays name it as the usual
# way to *evaluate* a model; for that, one fixed test set is the rule ({ref}`err-cross-validation`).

# %%
grid = [0.6, 0.7, 0.8, 0.9]
one = ngram.cross_validate(train["BPE"], 3, 1024, grid, folds=3)
triples = [(0.7, 1.1, 1.3), (0.7, 1.1, 1.6), (0.8, 1.1, 1.6), (0.8, 1.3, 1.6)]
three = ngram.cross_validate(
    train["BPE"], 3, 1024, triples, folds=3, method=ngram.ModifiedKneserNey
)
print("one discount:", [(d, round(loss, 4)) for d, loss in one.table])
print("best:", one.best, three.best)

# %% mystnb={"figure": {"name": "tab-ng-discounts", "caption": "Discounts of a BPE trigram model, estimated in closed form for each order or chosen by three-fold cross-validation as one value for all orders, and bits per byte on the validation plays."}}
tri = upto(counts["BPE"], 3)
models = {
    "Kneser-Ney, closed form": ngram.KneserNey(tri),
    "Kneser-Ney, cross-validated": ngram.KneserNey(tri, one.best),
    "modified, closed form": ngram.ModifiedKneserNey(tri),
    "modified, cross-validated": ngram.ModifiedKneserNey(tri, three.best),
}
rows = [
    (name, ", ".join(f"{d:.2f}" for d in m.D[-1]), score(m).bits_per_byte)
    for name, m in models.items()
]
heads = ["model", "discounts of counts 1, 2, 3+ at order 3", "bits per byte"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".3f"))

# %% [markdown]
# With one discount the search wins by a little ({numref}`tab-ng-discounts`), and it prefers a larger $D$ than the
# formula. There is a reason. Leave-one-out takes away one token and leaves the rest of the play, whereas a fold is a
# block of *other* plays, as the validation set is. Fresh plays have more news in them than the formula can know. With
# three discounts the difference is gone, and either version beats the best single discount. From here on, discounts
# come from the formula.
#
# ## Every row sums to one
#
# A model whose rows sum to more than one can claim any perplexity it likes, and a slip in {eq}`eq-ng-katz` is enough.
# So we check, for every method and three kinds of context: one seen in training, one never seen, and one with a token
# that does not occur in training at all (byte 255, which is no part of UTF-8).

# %%
tri_byte = upto(counts["byte"], 3)
contexts = {"seen": b"th", "unseen": b"zq", "unknown token": b"\xff "}
byte_id = {tokenizers["byte"].token_bytes(i): i for i in range(256)}
for name, method in ngram.METHODS.items():
    model = method(tri_byte)
    sums = [model.probs([byte_id[bytes([b])] for b in c]).sum().item() for c in contexts.values()]
    assert max(abs(total - 1) for total in sums) < 1e-9, (name, sums)
print(
    f"{len(ngram.METHODS)} methods x {len(contexts)} kinds of context: every row sums to 1 within 1e-9"
)

# %% [markdown]
# (sec-ng-results)=
# ## Which method, which order?
#
# Now the experiment. All methods, orders 1 to 6, BPE tokens, the whole validation set. Two are ours from above:
# Jelinek–Mercer with one weight, not tuned, and absolute discounting. Add-k has the $k$ chosen above.

# %%
methods = {
    f"add-k, k = {best_k[0]:g}": lambda c: ngram.AddK(c, best_k[0]),
    "Good-Turing": ngram.GoodTuring,
    "Katz": ngram.Katz,
    "Jelinek-Mercer, 0.3": JelinekMercer,
    "Witten-Bell": ngram.WittenBell,
    "absolute discounting": AbsoluteDiscounting,
    "Kneser-Ney": ngram.KneserNey,
    "modified Kneser-Ney": ngram.ModifiedKneserNey,
}
results = {
    (name, n): score(method(upto(counts["BPE"], n)))
    for n in range(1, 7)
    for name, method in methods.items()
}

# %% mystnb={"figure": {"name": "tab-ng-methods", "caption": "Bits per byte on the Shakespeare validation plays by method and order; BPE tokens, 4 MB of training text. The last column is the 95 % interval at the method's best order."}}
rows = []
for name in methods:
    line = [results[name, n].bits_per_byte for n in range(1, 7)]
    low, high = results[name, 1 + int(np.argmin(line))].interval
    rows.append((name, *line, f"{low:.3f} to {high:.3f}"))
heads = ["method", *(f"n = {n}" for n in range(1, 7)), "95 % interval"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".3f"))

# %% mystnb={"figure": {"name": "fig-ng-methods", "caption": "Bits per byte by order for six methods (lower is better). Poor smoothing turns a longer context into a handicap; with Kneser-Ney it does no harm."}, "image": {"alt": "Line chart over orders 1 to 6. All methods fall from 3.5 to about 2.4 at order 2. Add-k then climbs to the top, Good-Turing climbs too, Katz and Witten-Bell rise again after order 3, and both Kneser-Ney lines stay at their lowest, near 2.1, from order 4 on."}}
curves = {
    name: [results[name, n].bits_per_byte for n in range(1, 7)]
    for name in methods
    if name not in ("Jelinek-Mercer, 0.3", "absolute discounting")
}
ax = plots.lines(range(1, 7), curves, "order n", "bits per byte (validation)")
legend = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

# %% [markdown]
# {numref}`tab-ng-methods` and {numref}`fig-ng-methods` say three things. Up to order 2 the methods hardly differ, the
# untuned Jelinek–Mercer excepted: there is little unseen, and so little to disagree about. Beyond that, smoothing is
# everything. Add-k and Good–Turing, which share the reserve evenly, get *worse* with each order, since more and more of
# their predictions come from the uniform distribution. And of the methods that ask a shorter context, only the
# Kneser–Ney family keeps what it has gained; the others are best at order 3.
#
# Are the small differences real? The intervals of two methods overlap widely, but that is the wrong comparison: both
# find the same passages hard. Since all methods score the same text, `Score.minus` resamples their *difference*,
# block by block ({numref}`tab-ng-paired`).

# %% mystnb={"figure": {"name": "tab-ng-paired", "caption": "Paired differences in bits per byte with 95 % block-bootstrap intervals; positive: the second model is better."}}
best = {name: min(range(1, 7), key=lambda n: results[name, n].bits_per_byte) for name in methods}
ladder = ["Katz", "Witten-Bell", "absolute discounting", "Kneser-Ney", "modified Kneser-Ney"]
steps = [((a, best[a]), (b, best[b])) for a, b in pairwise(ladder)]
steps += [(("modified Kneser-Ney", n), ("modified Kneser-Ney", n + 1)) for n in (3, 4)]
rows = []
for a, b in steps:
    gap, low, high = results[a].minus(results[b])
    interval, real = f"{low:+.4f} to {high:+.4f}", "yes" if low * high > 0 else "no"
    rows.append((f"{a[0]}, n = {a[1]}", f"{b[0]}, n = {b[1]}", gap, interval, real))
heads = ["model", "minus", "difference", "95 % interval", "real"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt="+.4f"))

# %% [markdown]
# Every one of these differences is real, although most intervals in {numref}`tab-ng-methods` overlap. One goes the
# wrong way: absolute discounting by itself is slightly *worse* than Witten–Bell. The great step is the next one. It
# goes from order 3 to order 4 as well, but at equal order, where nothing changes but the counts of the lower orders,
# {numref}`tab-ng-methods` still shows 0.06 bits at order 3 and 0.13 at order 4. So the value of Kneser–Ney lies in
# {eq}`eq-ng-continuation` and not in its discount. And what order 5 adds to order 4 is real, and negligible: an
# interval tells the two apart. All this holds *for these four plays*; another author is another question, and the
# next section asks it.
#
# ## Units, corpora, sizes
#
# Is order 5 better than order 3? That depends on what is counted, and on how much of it. {numref}`tab-ng-units`
# repeats the measurement for modified Kneser–Ney with all three units, on Shakespeare and on a corpus half that size,
# 76 articles of Wikipedia, each with tokenizers trained on its own training text.

# %%
wiki_tokenizers = units(wikipedia.text())
toolbox = {"Shakespeare": (shakespeare, tokenizers), "Wikipedia": (wikipedia, wiki_tokenizers)}
wiki_train = {u: torch.tensor(t.encode(wikipedia.text())) for u, t in wiki_tokenizers.items()}
wiki_counts = {u: count(wiki_train[u], ORDERS[u], t.vocab_size) for u, t in wiki_tokenizers.items()}
tables_of = {"Shakespeare": counts, "Wikipedia": wiki_counts}


def measure(corpus, unit, order, split="validation"):
    source, cutters = toolbox[corpus]
    model = ngram.ModifiedKneserNey(upto(tables_of[corpus][unit], order))
    return evaluate.score(model, cutters[unit], source.text(split))


# %% mystnb={"figure": {"name": "tab-ng-units", "caption": "Modified Kneser-Ney: bits per byte on the validation split by corpus, unit and order n; the lines above the table give the best order with its interval."}}
chosen, rows = {}, []
for corpus in toolbox:
    for unit, most in ORDERS.items():
        found = [measure(corpus, unit, n) for n in range(1, most + 1)]
        line = [s.bits_per_byte for s in found]
        n = chosen[corpus, unit] = 1 + int(np.argmin(line))
        low, high = found[n - 1].interval
        print(
            f"{corpus:11} {unit:4} best at n = {n}: {line[n - 1]:.3f}, 95 % interval {low:.3f} to {high:.3f}"
        )
        rows.append((corpus, unit, *line, *[None] * (8 - most)))
heads = ["corpus", "unit", *(f"n = {n}" for n in range(1, 9))]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".3f"))

# %% mystnb={"figure": {"name": "fig-ng-units", "caption": "The same scores over the order: three units arrive at nearly the same place, each at its own order."}, "image": {"alt": "Two line charts over orders 1 to 8. In both, bytes start near 4.7 bits and flatten after order 6, BPE starts near 3.5 and flattens after order 4, words start near 3.1 and still fall a little at order 5. The three curves end close together, at 2.07 to 2.09 for Shakespeare and 2.03 to 2.08 for Wikipedia."}}
for ax, corpus in zip(plots.panels(2, size=(8.4, 3.4)), toolbox, strict=True):
    lines = {r[1]: [np.nan if x is None else x for x in r[2:10]] for r in rows if r[0] == corpus}
    plots.lines(range(1, 9), lines, "order n", "bits per byte (validation)", ax=ax).set_title(
        corpus
    )

# %% [markdown]
# The three units end within 0.05 bits of each other ({numref}`fig-ng-units`). What counts is how many *bytes* of
# context the model sees and how often that context has been met, and the two pull in opposite directions: no choice
# of unit escapes that.
#
# How much would more text help? {numref}`fig-ng-size` trains on a sixty-fourth of Shakespeare up to all of it, for
# several orders, and then for several methods.

# %%
part_counts = {s: count(train["BPE"][: len(train["BPE"]) // s], 5, 1024) for s in SIZES}
by_order = {
    n: [score(ngram.ModifiedKneserNey(upto(part_counts[s], n))) for s in SIZES]
    for n in (1, 2, 3, 5)
}
compared = ("Katz", "Witten-Bell", "Kneser-Ney", "modified Kneser-Ney")
by_method = {
    name: [score(methods[name](upto(part_counts[s], 3))) for s in SIZES] for name in compared
}

# %% mystnb={"figure": {"name": "fig-ng-size", "caption": "Bits per byte on the validation plays over the size of the training text: modified Kneser-Ney by order with 95 % bands (left), trigrams by method (right)."}, "image": {"alt": "Two line charts with a logarithmic horizontal axis. Left: the unigram line is flat, the others fall as text grows, the 5-gram most steeply; they meet at small sizes. Right: four methods fall in parallel, Kneser-Ney below Witten-Bell and Katz throughout."}}
left, right = plots.panels(2, size=(8.4, 3.4))
mega = [len(shakespeare.text()) / s / 1e6 for s in SIZES]
curves = {f"n = {n}": [s.bits_per_byte for s in line] for n, line in by_order.items()}
bands = {f"n = {n}": np.array([s.interval for s in line]).T for n, line in by_order.items()}
plots.lines(mega, curves, "training text, MB", "bits per byte", log="x", bands=bands, ax=left)
curves = {name: [s.bits_per_byte for s in line] for name, line in by_method.items()}
plots.lines(mega, curves, "training text, MB", "", log="x", ax=right)
for ax in (left, right):
    plots.plain_ticks(ax, "x")

# %% mystnb={"figure": {"name": "tab-ng-sizes", "caption": "Bits per byte on the validation plays by size of the training text, BPE tokens; 95 % intervals in brackets."}}
named = {f"modified Kneser-Ney, n = {n}": line for n, line in by_order.items()}
named |= {f"{name}, n = 3": line for name, line in by_method.items() if "modified" not in name}
rows = [
    (name, *(f"{s.bits_per_byte:.3f} [{s.interval[0]:.2f}, {s.interval[1]:.2f}]" for s in line))
    for name, line in named.items()
]
Markdown(tabulate(rows, ["model", *(f"{m:.2f} MB" for m in mega)], tablefmt="pipe"))

# %%
last = [s.bits_per_byte for s in by_order[5]]
gains = [round((a - b) / 2, 3) for a, b in pairwise(last)]
print("5-gram: bits per byte gained per doubling of the text, stage by stage:", gains)

# %% [markdown]
# The unigram model has learnt nearly all it can after the first slice. The 5-gram gains with each doubling, and each
# doubling gains a little less than the one before. Web-scale counting went this way to its end: two trillion tokens
# and a back-off without any normalisation at all, good enough because there is so little left to smooth
# {cite}`brants2007`. More data helps, by less and less ({ref}`err-more-data`; {numref}`tab-ng-sizes` has the
# intervals).
#
# ## What does it write?
#
# `generate` draws the next token from the row, appends it, and asks again. The same loop and seed for each order; the
# only difference is how far back the model looks.

# %%
orders = range(1, 7)
writers = {n: ngram.ModifiedKneserNey(upto(counts["BPE"], n)) for n in orders}
prompt = tokenizers["BPE"].encode("\n\n")


def write(model, length=300):
    return generate(model, prompt, max_new_tokens=length, seed=3)


for n in orders:
    print(f"--- order {n}\n{tokenizers['BPE'].decode(write(writers[n], 80)).strip()}")

# %% [markdown]
# Order 1 is a bag of word pieces. Order 2 spells, order 3 finds phrases and a stage direction; from order 4 on there
# are speakers and half-lines that could be in a play. None of it adds up to a sentence. The same table *without*
# smoothing writes far better:

# %%
reciter = ngram.MaximumLikelihood(counts["BPE"])
print(tokenizers["BPE"].decode(write(reciter, 80)).strip())

# %% [markdown]
# Too well. Does it compose, or recite? We measure the longest stretch that stands letter by letter in the training
# plays: `copied` slides a window over the text and lengthens it as long as the window can be found. A human baseline
# stands beside it. Real Shakespeare from a held-out play quotes the training plays a little too: stock phrases, names
# of speakers.

# %%
corpus_text = shakespeare.text()


def copied(text):
    start, place, longest = 0, 0, ""
    for end in range(1, len(text) + 1):
        while (place := corpus_text.find(text[start:end], place)) < 0:
            start, place = start + 1, 0
        longest = max(longest, text[start:end], key=len)
    return longest


def known(ids):
    return 1 - unseen(counts["BPE"], torch.tensor(ids))[5]


# %% mystnb={"figure": {"name": "tab-ng-copied", "caption": "Is it copied? Longest stretch of 400 generated characters that stands in the training plays, and share of the 6-grams of 300 generated tokens that do, with and without smoothing. Last row: the same for held-out plays."}}
rows = []
for n in (2, 4, 6):
    drawn = [write(m) for m in (writers[n], ngram.MaximumLikelihood(upto(counts["BPE"], n)))]
    spans = [copied(tokenizers["BPE"].decode(ids)[:400]) for ids in drawn]
    rows.append((n, *map(len, spans), *map(known, drawn)))
real = copied(text["validation"][200_000:200_400])
rows.append(("held-out plays", len(real), None, 1 - by_unit["BPE"][5], None))
print("copied by the unsmoothed model of order 6:", repr(spans[1]))
heads = ["order", "longest copy, smoothed", "unsmoothed", "6-grams known, smoothed", "unsmoothed"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".2f"))

# %% [markdown]
# {numref}`tab-ng-copied` settles it. The unsmoothed model of order 6 has only words to say that stood in the training
# text after the same five tokens: all its 6-grams are known, and it recites for 147 characters at a stretch before
# some ambiguous context lets it change trains. That is {term}`memorization`. The smoothed model copies somewhat more
# than a real play does, and it pays for that with sense: each time it backs off it forgets what the line was about.
# Between reciting and rambling a table of counts offers no third way.
#
# ## The price: memory, and what pruning saves
#
# A table is also a thing in memory. In {numref}`fig-ng-growth` both axes are logarithmic, so a straight line of slope
# 1 means: twice the text, twice the table.

# %% mystnb={"figure": {"name": "fig-ng-growth", "caption": "Different word n-grams over the number of training tokens, both axes logarithmic. The steeper the line, the less the table summarises."}, "image": {"alt": "Log-log line chart: five nearly straight lines. The unigram line is bent and almost flat at the end, the bigram line has a slope of about 0.7, the 4- and 5-gram lines a slope of 0.93 and 0.96, close to one new n-gram a token."}}
size = [len(train["word"]) // s for s in SIZES]
kinds = {f"n = {n}": [len(parts[s].tables[n - 1].keys) for s in SIZES] for n in range(1, 6)}
plots.lines(size, kinds, "training tokens", "different n-grams", log="xy")
for name, line in kinds.items():
    print(name, "slope", round(np.polyfit(np.log(size), np.log(line), 1)[0], 2))

# %%
for unit, table in counts.items():
    grams_in_all = sum(len(t.keys) for t in table.tables)
    print(f"{unit:5} order {table.order}: {grams_in_all:,} n-grams, {table.bytes / 1e6:.0f} MB")

# %% [markdown]
# The tables are larger than the text they came from. The classical remedy is to drop n-grams seen fewer than $t$
# times. Since the context of an n-gram is at least as frequent as the n-gram, a cut by count leaves no n-gram without
# its context.


# %%
def prune(full, least):
    V, kept, place, contexts = full.vocab_size, [], np.zeros(1, dtype=np.int64), 1
    for k, table in enumerate(full.tables):
        keep = table.counts >= (least if k else 1)
        keys = place[table.contexts[keep]] * V + table.keys[keep] % V
        starts = np.searchsorted(keys, np.arange(contexts + 1) * V)
        kept.append(Table(V, keys, table.counts[keep], place[table.suffixes[keep]], starts))
        place, contexts = np.cumsum(keep) - 1, len(keys)
    return replace(full, tables=tuple(kept))


def weight(table):
    return sum(len(t.keys) for t in table.tables) / 1e6


# %% mystnb={"figure": {"name": "fig-ng-prune", "caption": "Size against quality, modified Kneser-Ney on BPE tokens: a 5-gram model pruned by count (t = 30, 10, 5, 3, 2, 1 from left to right), and unpruned models of order 2 to 5. Validation plays."}, "image": {"alt": "Line chart of bits per byte over the number of n-grams in millions, logarithmic. Both curves fall. The pruned 5-gram goes from 3.0 bits at 0.02 million n-grams to 2.07 at 3 million; the curve of unpruned orders lies below it at every size from 0.1 to 3 million, where they meet."}}
five, thresholds = upto(counts["BPE"], 5), (30, 10, 5, 3, 2, 1)
pruned = [prune(five, t) for t in thresholds]
paid = [score(ngram.ModifiedKneserNey(c)).bits_per_byte for c in pruned]
whole = [results["modified Kneser-Ney", n].bits_per_byte for n in range(2, 6)]
sizes, labels = [weight(upto(five, n)) for n in range(2, 6)], ("n-grams, millions", "bits per byte")
ax = plots.lines([weight(c) for c in pruned], {"5-gram, pruned": paid}, *labels, log="x")
plots.plain_ticks(plots.lines(sizes, {"orders 2 to 5, whole": whole}, *labels, log="x", ax=ax), "x")
ax.legend()
for t, c, bits in zip(thresholds, pruned, paid, strict=True):
    print(f"t = {t:2}: {weight(c):.3f} million n-grams, {bits:.3f} bits per byte")
for n, millions, bits in zip(range(2, 6), sizes, whole, strict=True):
    print(f"n = {n} : {millions:.3f} million n-grams, {bits:.3f} bits per byte")

# %% [markdown]
# Dropping what was seen once removes five sixths of the 5-gram model and costs a sixth of a bit
# ({numref}`fig-ng-prune`). That sounds like a bargain, until one looks at the other curve: a whole trigram model of
# about the same size is better. The n-grams seen once are not noise. They are what the discounts, the reserves and
# above all the continuation counts are computed from, and a threshold removes just these. Toolkits for large models
# therefore estimate first and prune afterwards, and then pack the tables tightly {cite}`heafield2011,heafield2013`.
#
# ## What counting is still good for
#
# Counting has virtues that no later model in this book has. It trains in one pass. It can be updated by adding. Each
# probability can be traced to lines of text. It runs on any device. So n-grams survive where speed matters more than
# depth: rescoring in speech recognition and translation {cite}`heafield2011`, spelling correction
# ({ref}`ex-ng-spelling`), filtering web text for quality, language identification. And an unbounded n-gram over a
# trillion tokens, looked up in a suffix array, still improves large neural models when the two are interpolated
# {cite}`liu2024infinigram`.
#
# Identification takes five lines: one model per class, and Bayes' rule with equal priors. The class whose model gives
# the snippet the highest probability wins. Telling English from Chinese would be no test. A harder case of the same
# task: which book is this snippet from, Shakespeare, the King James Bible, or Wikipedia?

# %%
sources = {"Shakespeare": shakespeare, "Bible": data.load("kjv"), "Wikipedia": wikipedia}
spell = tokenizers["byte"].encode
judges = [
    ngram.ModifiedKneserNey(count(spell(c.text()[:1_000_000]), 4, 256)) for c in sources.values()
]
held = [torch.tensor(spell(c.text("validation"))) for c in sources.values()]
lengths = [8, 16, 32, 64, 128]


def accuracy(length, n=200):
    right = 0
    for truth, stream in enumerate(held):
        snippets = torch.stack([stream[i : i + length] for i in range(0, n * 1000, 1000)])
        right += int(
            (torch.stack([j.score(snippets).sum(1) for j in judges]).argmax(0) == truth).sum()
        )
    return right / (n * len(held))


# %% mystnb={"figure": {"name": "fig-ng-identify", "caption": "Share of snippets assigned to the right one of three books by byte 4-gram models, over the length of the snippet; 600 snippets of held-out text. Guessing scores one third."}, "image": {"alt": "Line chart: accuracy rises from 0.67 for 8 bytes to 0.94 for 128 bytes, far above the flat line at one third."}}
share = [accuracy(length) for length in lengths]
series = {"byte 4-grams": share, "guessing": [1 / 3] * 5}
plots.plain_ticks(plots.lines(lengths, series, "snippet, bytes", "accuracy", log="x"), "x")
print([round(s, 2) for s in share])

# %% [markdown]
# Eight letters settle two cases of three, a line of 64 letters more than nine of ten ({numref}`fig-ng-identify`).
# Language identification of web pages works like this.
#
# (sec-ng-failure)=
# ## Where counting must fail
#
# The rest of the chapter is about failures that neither a cleverer discount nor a larger corpus repairs. Each gets a
# test built so that a failure can have only one cause.
#
# ### Out of reach
#
# "The *keys* to the cabinet *are* on the table." The verb agrees with a noun that may stand any number of words
# before it. Our artificial language has nothing else in it: *the*, a noun (eight, singular or plural), $k$ filler
# words, *is* or *are*, an adjective. The model has 30,000 training sentences with $k$ from 0 to 6, and must choose
# the verb. In the first version of the language there is one filler word. In the second there are ten.

# %%
THE, IS, ARE, STOP, NOUN, ADJECTIVE, FILLER, V = 0, 1, 2, 3, 4, 20, 28, 38


def sentence(rng, noun, k, fillers):
    between = FILLER + rng.integers(fillers, size=k)
    end = [ADJECTIVE + int(rng.integers(8)), STOP]
    return [THE, NOUN + noun, *between.tolist()], (IS if noun < 8 else ARE), end


def language(fillers, n=30_000):
    rng = np.random.default_rng(0)
    made = [sentence(rng, int(rng.integers(16)), int(rng.integers(7)), fillers) for _ in range(n)]
    return count([w for start, verb, end in made for w in (*start, verb, *end)], 6, V)


# %%
def agreement(model, k, fillers, n=320):
    rng, right = np.random.default_rng(1), 0
    for i in range(n):
        start, verb, _ = sentence(rng, i % 16, k, fillers)
        p = model.probs(start)
        right += verb == (ARE if p[ARE] > p[IS] else IS)
    return right / n


def sweep(fillers):
    table = language(fillers)
    models = {n: ngram.ModifiedKneserNey(upto(table, n)) for n in range(2, 7)}
    return {f"n = {n}": [agreement(m, k, fillers) for k in range(7)] for n, m in models.items()}


# %% mystnb={"figure": {"name": "fig-ng-agreement", "caption": "Choosing between is and are with k words between noun and verb, by the order of the model. Left: a single filler word, so that only reach matters. Right: ten filler words, so that sparsity matters too. Chance is 0.5."}, "image": {"alt": "Two line charts over k from 0 to 6. Left: each order is perfect up to k = n minus 2 and at chance, 0.5, beyond. Right: the same cliff, but high orders begin to slip before their limit is reached."}}
one_filler, ten_fillers = sweep(1), sweep(10)
left, right = plots.panels(2, size=(8.4, 3.4))
plots.lines(range(7), one_filler, "k, words between noun and verb", "accuracy", ax=left)
plots.lines(range(7), ten_fillers, "k, words between noun and verb", "", ax=right)
for name in one_filler:
    print(name, [round(a, 2) for a in one_filler[name]], [round(a, 2) for a in ten_fillers[name]])

# %% [markdown]
# On the left of {numref}`fig-ng-agreement` the cliff stands exactly where {eq}`eq-ng-markov` puts it: with the noun
# inside the window ($k \le n - 2$) no mistakes, one word further, chance. On the right the window still reaches the
# noun at high orders, and the accuracy drops before the cliff: the model would have to have seen *this* noun with
# *these* fillers, and of such contexts there are $16 \cdot 10^k$. A learner that knew fillers to be irrelevant would
# need none of that. A table cannot know.
#
# Real text behaves the same way. Twenty Shakespearean nouns, singular and plural, with number-neutral words between
# noun and verb:

# %%
NOUNS = """king kings lord lords man men woman women eye eyes hand hands word words friend friends
son sons day days heart hearts tear tears brother brothers soldier soldiers god gods father fathers
tongue tongues horse horses lady ladies thing things""".split()
BETWEEN = {
    0: [""],
    1: [" here", " there"],
    2: [" of Rome", " of mine"],
    3: [" in the field", " of this land"],
    4: [" that we do know", " that I have seen"],
    6: [" that came with me to Rome", " that we have seen in France"],
}
is_are = [tokenizers["word"].encode(verb)[0] for verb in (" is", " are")]


def real_agreement(model, k):
    right = []
    for start in ("The ", "My "):
        for i, noun in enumerate(NOUNS):
            for filler in BETWEEN[k]:
                p = model.probs(tokenizers["word"].encode(start + noun + filler))[is_are]
                right.append(bool(p[1] > p[0]) == bool(i % 2))
    return np.mean(right), len(right)


# %% mystnb={"figure": {"name": "tab-ng-agreement", "caption": "Agreement in Shakespeare's English: share of right choices between is and are by order (words, modified Kneser-Ney) and number k of words in between. Chance is 0.5."}}
readers = {n: ngram.ModifiedKneserNey(upto(counts["word"], n)) for n in range(2, 6)}
rows = [
    (k, real_agreement(readers[2], k)[1], *(real_agreement(m, k)[0] for m in readers.values()))
    for k in BETWEEN
]
Markdown(
    tabulate(rows, ["k", "items", *(f"n = {n}" for n in readers)], tablefmt="pipe", floatfmt=".2f")
)

# %% [markdown]
# Next to the noun the model is usually right ({numref}`tab-ng-agreement`). With a single word in between it is at
# chance already, *whatever its order*. From order 3 on the window holds the noun, but the model has never seen this
# noun before this word, and falls back to the last word alone, where the noun is gone.
#
# ### No word is like another
#
# To a table, "sea" and "ocean" are two unrelated numbers. What it learns about one it does not know about the other.
# We test it by swapping a frequent word of the validation plays for a rarer synonym, and measuring the added cost of
# the word and the four tokens after it. The control replaces the word by words *of the same frequency* and any
# meaning. If the model had a notion of similarity, the synonym should be much cheaper.

# %%
SYNONYMS = """sea ocean king monarch friend companion child infant enemy foe fear dread
house dwelling kill slay help aid death decease face visage way path wife spouse rich wealthy""".split()
code = {tokenizers["word"].token_bytes(i).decode(errors="replace"): i for i in range(8192)}
table = counts["word"].tables[0]
frequency = np.bincount(table.keys, table.counts, minlength=8192)
by_frequency = np.argsort(-frequency, kind="stable").tolist()
matches = zip(SYNONYMS[::2], SYNONYMS[1::2], strict=True)
usable = {a: b for a, b in matches if f" {a}" in code and f" {b}" in code}
print(len(usable), "pairs:", usable)


# %%
def cost(model, windows, word):
    swapped = windows.clone()
    swapped[:, 4] = word
    return -model.score(swapped)[:, 3:].sum(1).mean().item() / np.log(2)


def added_bits(model, word, synonym, stream=fresh["word"]):
    places = torch.nonzero(stream[4:-4] == code[f" {word}"])[:100, 0]
    windows = torch.stack([stream[p : p + 9] for p in places.tolist()])
    rank = by_frequency.index(code[f" {synonym}"])
    peers = [*by_frequency[rank - 10 : rank], *by_frequency[rank + 1 : rank + 11]]
    base = cost(model, windows, code[f" {word}"])
    return (
        cost(model, windows, code[f" {synonym}"]) - base,
        np.mean([cost(model, windows, peer) for peer in peers]) - base,
    )


# %% mystnb={"figure": {"name": "fig-ng-synonyms", "caption": "Added bits when a word of the validation plays is replaced by a synonym, and on average by 20 words as frequent as the synonym but unrelated; word trigram model."}, "image": {"alt": "Dot chart with one row a word pair. In every row the synonym lies on the left, by 0.2 to 3.4 bits; on average 7.2 bits for synonyms and 8.9 for unrelated words."}}
paid = {f"{a} → {b}": added_bits(readers[3], a, b) for a, b in usable.items()}
ax = plots.dots(list(paid), [s for s, _ in paid.values()], "added bits", name="synonym")
plots.dots(
    list(paid), [c for _, c in paid.values()], "added bits", name="unrelated, as frequent", ax=ax
)
saved = np.array([c - s for s, c in paid.values()])
draws = np.random.default_rng(0).choice(saved, (2000, len(saved))).mean(1)
low, high = np.quantile(draws, [0.025, 0.975])
print(
    f"synonym {np.mean([s for s, _ in paid.values()]):.1f} bits, "
    f"unrelated {np.mean([c for _, c in paid.values()]):.1f} bits; "
    f"saved {saved.mean():.1f}, 95 % interval {low:.1f} to {high:.1f}"
)

# %% [markdown]
# The synonym is cheaper than the control by a bit or two ({numref}`fig-ng-synonyms`): it is a noun where a noun is
# due, and its own few occurrences have taught the table that much. What is missing is any *transfer*. Suppose we read
# a passage about the wide sea, fifty times over. A reader would now also expect "the wide ocean" sooner. The table?

# %%
phrase = tokenizers["word"].encode(" sail the wide")
extra = torch.tensor([*phrase, code[" sea"]] * 50)
taught = ngram.ModifiedKneserNey(count(torch.cat([train["word"], extra]), 3, 8192))
for word in (" sea", " ocean"):
    before, after = (m.probs(phrase)[code[word]].item() for m in (readers[3], taught))
    print(f"P({word} | sail the wide): {before:.1e} before, {after:.1e} after")

# %% [markdown]
# What it learns about the sea makes the ocean *less* likely, since the row sums to one and the context needs less of
# a reserve now. Words are labels here, and labels have no neighbours.
#
# ### Another domain
#
# Train on one corpus, test on the other. Nothing else changes ({numref}`tab-ng-domain`).

# %% mystnb={"figure": {"name": "tab-ng-domain", "caption": "Bits per byte on the validation text of one corpus after training on the other: modified Kneser-Ney, BPE tokens of the training corpus, order 5, with 95 % intervals."}}
rows = []
for trained, (_, cutters) in toolbox.items():
    model = ngram.ModifiedKneserNey(upto(tables_of[trained]["BPE"], 5))
    line = [
        evaluate.score(model, cutters["BPE"], c.text("validation")) for c, _ in toolbox.values()
    ]
    rows.append(
        (
            trained,
            *(f"{s.bits_per_byte:.3f} [{s.interval[0]:.3f}, {s.interval[1]:.3f}]" for s in line),
        )
    )
Markdown(
    tabulate(rows, ["trained on", *(f"tested on {name}" for name in toolbox)], tablefmt="pipe")
)

# %% [markdown]
# Both are English. They share grammar, most of their frequent words, and centuries of meaning; the table shares only
# exact strings, and pays for it with more than a bit per byte in either direction.
#
# ### The curse
#
# All three failures are one. A table has a cell for each *exact* context, and no cell knows of its neighbours. So the
# number of facts to be learnt grows as $V^n$ ({numref}`tab-ng-size`), while the text offers one fact per token.
# Bengio and colleagues called this the curse of dimensionality when they introduced the neural language model
# {cite}`bengio2003`: give each word a vector, let similar words have similar vectors, and what is learnt about one
# sentence is learnt about its neighbours too. That is where the next chapters begin.
#
# (sec-ng-bar)=
# ## The bar
#
# Orders are chosen, on validation. Now the {term}`test set`, for the first and only time in this chapter
# ({ref}`err-order`, {ref}`err-validation`). Beside our models stand baselines that know no language: uniform bytes,
# byte frequencies, and two general-purpose compressors. Compression and prediction are one task: a model that needs
# $b$ bits per byte compresses to $b/8$ of the size ({ref}`ch-concepts`). `bz2` and `lzma` get two chances: the test
# text alone, and the extra bytes it costs after the training text.


# %%
def packed(corpus, pack):
    first, then = corpus.text().encode(), corpus.text("test").encode()
    return 8 * len(pack(then)) / len(then), 8 * (len(pack(first + then)) - len(pack(first))) / len(
        then
    )


compressors = {"bz2": bz2.compress, "lzma": lzma.compress}
packs = {
    (corpus, name): packed(source, pack)
    for corpus, (source, _) in toolbox.items()
    for name, pack in compressors.items()
}
finals = {
    (corpus, unit, n): measure(corpus, unit, n, "test")
    for corpus in toolbox
    for unit, n in [("byte", 1), *((u, chosen[corpus, u]) for u in ORDERS)]
}


# %% mystnb={"figure": {"name": "tab-ng-bar", "caption": "The bar: bits per byte on the test split, with 95 % intervals. The orders of the n-gram models were chosen on validation."}}
def cell(s):
    return f"{s.bits_per_byte:.3f} [{s.interval[0]:.3f}, {s.interval[1]:.3f}]"


both = list(toolbox)
rows = [
    ("uniform over 256 bytes", "8.000", "8.000"),
    ("byte frequencies (unigram)", *(cell(finals[c, "byte", 1]) for c in both)),
]
for name in compressors:
    rows.append((f"{name}, test text alone", *(f"{packs[c, name][0]:.3f}" for c in both)))
    rows.append((f"{name}, after the training text", *(f"{packs[c, name][1]:.3f}" for c in both)))
for unit in ORDERS:
    order = " / ".join(str(chosen[c, unit]) for c in both)
    rows.append(
        (f"{unit} n-grams, n = {order}", *(cell(finals[c, unit, chosen[c, unit]]) for c in both))
    )
Markdown(tabulate(rows, ["model", *both], tablefmt="pipe", disable_numparse=True))

# %% tags=["hide-input"]
best_test = {
    c: min((finals[c, u, chosen[c, u]] for u in ORDERS), key=lambda s: s.bits_per_byte)
    for c in both
}
glue("ng_bar_shakespeare", best_test["Shakespeare"].bits_per_byte, display=False)
glue("ng_bar_wikipedia", best_test["Wikipedia"].bits_per_byte, display=False)
gap, low, high = finals["Shakespeare", "BPE", chosen["Shakespeare", "BPE"]].minus(
    finals["Shakespeare", "word", chosen["Shakespeare", "word"]]
)
print(f"Shakespeare test, BPE minus words: {gap:+.3f} [{low:+.3f}, {high:+.3f}]")

# %% [markdown]
# How low could anyone go? The cross-entropy of any model bounds the {term}`entropy` of the language from above, and
# there is no test that bounds it from below except asking those who speak it. Shannon had a reader guess English text
# letter by letter and placed the entropy between 0.6 and 1.3 bits per letter {cite}`shannon1951`. Cover and King let
# people bet and found about 1.3 {cite}`coverking1978`. A word trigram model trained on 583 million words reached 1.75
# bits per character {cite}`brown1992`. (These are for modern prose, in part for an alphabet of 27 letters without
# case or punctuation, so compare with care.)
#
# Our tables, on four megabytes, stop at {glue:text}`ng_bar_shakespeare:.2f` bits per byte for Shakespeare and
# {glue:text}`ng_bar_wikipedia:.2f` for Wikipedia. Between them and the human reader lies most of a bit per character,
# and that bit is what the rest of this book is about.
#
# ## The answer
#
# *How far can counting alone take us?* From 8 bits per byte to {glue:text}`ng_bar_shakespeare:.2f` on unseen plays,
# ahead of both general-purpose compressors in {numref}`tab-ng-bar`, in a minute of computing and without a single
# step of gradient descent. *Where must it fail?* Where the evidence stands outside the window, where the words are
# new but their meaning is not, and where the text comes from elsewhere. More text pushes these walls back, by a
# smaller step with each doubling; it does not remove them.
#
# ## What we learnt
#
# - An n-gram model is a table of relative frequencies. These are the maximum likelihood estimate, and useless as they
#   stand: fresh text is full of n-grams that were never seen.
# - Smoothing takes from the seen and gives to the unseen. All methods are $P_k = \alpha + \gamma P_{k-1}$ and differ
#   in what a context reserves.
# - Leave-one-out turns counts of counts into predictions: $N_1/N$ is the mass of the unseen, and $r - r^*$ is nearly
#   constant, which justifies a constant discount.
# - Kneser–Ney asks after how many contexts a word turns up. That is the only lower-order distribution which preserves
#   the marginals.
# - Intervals of single models overlap; paired differences decide which method is better.
# - Bytes, BPE and words reach nearly the same bits per byte, each at its own order.
# - An unsmoothed table of high order writes well because it recites; a smoothed one does not recite, and rambles.
# - N-grams seen once carry the model: pruning them is worse than a shorter context.
# - Exact match is the limit: no reach beyond $n - 1$ tokens, no similarity, no transfer.
#
# ## Exercises
#
# ```{exercise} Missing mass
# :label: ex-ng-missing
#
# Write `missing_mass(tokens, n)`: the Good–Turing estimate of the probability that the next n-gram of this text is
# new ({prf:ref}`thm-ng-missing`).
# ```


# %% tags=["exercise"]
def missing_mass(tokens, n):
    """The estimate N_1 / N for the n-grams of a list of tokens."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def missing_mass(tokens, n):
    """The estimate N_1 / N for the n-grams of a list of tokens."""
    seen = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    return sum(c == 1 for c in seen.values()) / sum(seen.values())


# %% tags=["check"]
assert missing_mass(list("aab"), 1) == 1 / 3
assert missing_mass(list("abab"), 2) == 1 / 3, "ab is seen twice, ba once"
assert missing_mass(list("abcd"), 2) == 1 and missing_mass(list("aaaa"), 2) == 0
assert missing_mass(["ab", "c", "a", "bc"], 2) == 1, "(ab, c) is not (a, bc)"
assert missing_mass(tokens, 2) == missing

# %% [markdown]
# ```{exercise} Continuation probabilities
# :label: ex-ng-continuation
#
# Write `continuation(tokens)`: a dictionary from each word that follows another to {eq}`eq-ng-continuation`, computed
# from the list of tokens with nothing but Python.
# ```


# %% tags=["exercise"]
def continuation(tokens):
    """{word: N1+(. word) / N1+(. .)} for the words of a list of tokens."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def continuation(tokens):
    """{word: N1+(. word) / N1+(. .)} for the words of a list of tokens."""
    kinds = set(pairwise(tokens))
    return {word: n / len(kinds) for word, n in Counter(w for _, w in kinds).items()}


# %% tags=["check"]
assert continuation(list("aba")) == {"a": 0.5, "b": 0.5}
assert continuation(list("abac")) == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, "what stands before"
assert continuation(list("abab")) == continuation(list("aba")), "a pair counts once, however often"
lower = ngram.KneserNey(pair_toy, discount=[0, 0.5]).probs([])
mine = continuation(tokens)
assert all(abs(lower[number[w]].item() - mine.get(w, 0)) < 1e-12 for w in words)

# %% [markdown]
# ```{exercise} Stupid back-off
# :label: ex-ng-stupid
#
# Brants and colleagues {cite}`brants2007` gave up normalisation: the score of $w$ is $c(h,w)/c(h\,\bullet)$ if the
# n-gram was seen, else 0.4 times the score after the shorter context, down to $c(w)/N$. Write `stupid(counts, word,
# context)` for ids; `counts` is a `Counts`, so `counts[gram]` is the count of a tuple and `counts.after(context)` a
# dictionary. Then look at what the scores of a row sum to.
# ```


# %% tags=["exercise"]
def stupid(counts, word, context):
    """The stupid back-off score of an id after a list of ids, with the factor 0.4."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def stupid(counts, word, context):
    """The stupid back-off score of an id after a list of ids, with the factor 0.4."""
    followers = counts.after(context)
    if word in followers:
        return followers[word] / sum(followers.values())
    return 0.4 * stupid(counts, word, context[1:]) if context else 0.0


# %% tags=["check"]
peer = lm.StupidBackoff(0.4, 3, vocabulary=vocabulary())
peer.fit([everygrams(tokens, max_len=3)])
for context in ("the", "in the", "that Jack", "rat the", "dog", ".", "built .", ""):
    context = context.split()
    row = [stupid(toy, number[w], [number[c] for c in context]) for w in words]
    assert np.allclose(row, [peer.score(w, context) for w in words]), context
print(
    "the scores after 'the' sum to",
    round(sum(stupid(toy, i, [number["the"]]) for i in range(16)), 3),
)

# %% [markdown]
# ```{exercise} A detector of broken models
# :label: ex-ng-sums
#
# Write `broken(model, contexts)`: the contexts (lists of ids) whose row of probabilities is no distribution, that is,
# has a negative entry, an entry that is not a number, or a sum further than 1e-9 from one. Use it on each model you
# write.
# ```


# %% tags=["exercise"]
def broken(model, contexts):
    """The contexts after which model.probs is not a probability distribution."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def broken(model, contexts):
    """The contexts after which model.probs is not a probability distribution."""
    rows = [(context, model.probs(context)) for context in contexts]
    return [context for context, p in rows if not ((p >= 0).all() and abs(p.sum() - 1) < 1e-9)]


# %% tags=["check"]
class Faulty:
    def probs(self, context):
        rows = [[0.5, 0.5], [1.5, -0.5], [0.5, 0.4], [0.6, 0.5], [float("nan"), 1.0]]
        rows += [[0.5, 0.5 - 1e-6], [0.5, 0.5 - 1e-12], [1.0, 0.0]]
        return torch.tensor(rows[context[-1]], dtype=torch.float64)


assert broken(Faulty(), [[i] for i in range(8)]) == [[1], [2], [3], [4], [5]]
assert broken(ngram.Katz(toy), [[], [number["the"]], [number["dog"]]]) == []

# %% [markdown]
# ```{exercise} Spelling correction through a noisy channel
# :label: ex-ng-spelling
#
# A typist meant a word $w$ and we see $s$. By Bayes' rule the best guess maximises $P(s \mid w)\,P(w \mid
# \text{context})$. Let every word at edit distance one or less from $s$ be an equally likely source; then the
# language model decides alone. Write `correct(left, typo, right)`: of the words in `candidates(typo)`, the one that
# makes the whole line most probable under `readers[3]`.
# ```


# %%
def candidates(typo):
    cuts = [(typo[:i], typo[i:]) for i in range(len(typo) + 1)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    near = {a + b[1:] for a, b in cuts if b} | {a + c + b for a, b in cuts for c in letters}
    near |= {a + c + b[1:] for a, b in cuts if b for c in letters}
    near |= {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1} | {typo}
    return sorted(word for word in near if f" {word}" in code)


print(candidates("loxe"))


# %% tags=["exercise"]
def correct(left, typo, right):
    """The candidate for ``typo`` between the words ``left`` and ``right`` that fits best."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def correct(left, typo, right):
    """The candidate for ``typo`` between the words ``left`` and ``right`` that fits best."""

    def log_probability(word):
        line = tokenizers["word"].encode(f"{left} {word} {right}")
        return readers[3].score(torch.tensor([line])).sum().item()

    return max(candidates(typo), key=log_probability)


# %% tags=["check"]
cases = [
    ("I am in", "loxe", "with you", "love"),
    ("we will", "loxe", "the day", "lose"),
    ("to be or", "nof", "to be", "not"),
    ("the king", "nof", "France", "of"),
    ("I pray thee", "speaj", "to me", "speak"),
]
guesses = [correct(left, typo, right) for left, typo, right, _ in cases]
print(guesses)
assert guesses == [case[3] for case in cases]

# %% [markdown]
# ```{exercise} Back-off or interpolation?
# :label: ex-ng-backoff
#
# A model interpolates if its class attribute `interpolates` is true, and backs off otherwise. Write
# `backing_off(method)`: a subclass of the method that backs off. Is Witten–Bell better with {eq}`eq-ng-recursion` or
# with {eq}`eq-ng-backoff`? Does the answer depend on the order?
# ```


# %% tags=["exercise"]
def backing_off(method):
    """A subclass of an interpolated n-gram method that backs off."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def backing_off(method):
    """A subclass of an interpolated n-gram method that backs off."""
    return type(f"BackingOff{method.__name__}", (method,), {"interpolates": False})


# %% tags=["check"]
backed = backing_off(ngram.WittenBell)
assert issubclass(backed, ngram.WittenBell) and ngram.WittenBell.interpolates, (
    "leave the parent alone"
)
other = backing_off(ngram.KneserNey)
assert issubclass(other, ngram.KneserNey) and not other.interpolates, "any method"
row = backed(pair_toy).probs([number["the"]])
assert abs(row.sum() - 1) < 1e-9
assert abs(row[number["house"]] - 4 / 14) < 1e-12, "a seen word gets alpha and nothing more"
for n in (2, 3, 5):
    pair = [score(m(upto(counts["BPE"], n))) for m in (ngram.WittenBell, backed)]
    print(
        f"n = {n}: interpolated {pair[0].bits_per_byte:.3f}, backing off {pair[1].bits_per_byte:.3f}"
    )

# %% [markdown]
# ## Further reading
#
# - Chen and Goodman {cite}`chengoodman1999` compare all the methods of this chapter and invent the last; the best
#   single paper on smoothing. Goodman {cite}`goodman2001` adds caching, classes and skipping.
# - Church and Gale {cite}`churchgale1991` is the experiment of {numref}`fig-ng-churchgale`; Gale and Sampson
#   {cite}`galesampson1995` explain Good–Turing without tears.
# - Teh {cite}`teh2006` shows that interpolated Kneser–Ney is approximate inference in a Bayesian model: a discount is
#   what a Pitman–Yor process looks like from outside.
# - Rosenfeld {cite}`rosenfeld2000` looks back on two decades of statistical language modelling at the moment before
#   neural models took over.
# - Heafield {cite}`heafield2011,heafield2013` shows how to do all of this with billions of n-grams; Liu and
#   colleagues {cite}`liu2024infinigram` with trillions of tokens and no fixed $n$.
# - Jurafsky and Martin {cite}`jurafskymartin2025` and Manning and Schütze {cite}`manningschuetze1999` have textbook
#   chapters on n-grams.
