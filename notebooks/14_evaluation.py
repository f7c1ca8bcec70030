# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: all,-nbgrader
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
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
# (ch-evaluation)=
# # Evaluation: what a number is worth
#
# **Every chapter so far has ended in a number. When can two such numbers be compared, how sure are we of the
# difference, and what do they leave out?**
#
# *About two minutes on two cores, and three more where the networks of {ref}`ch-rnn`, {ref}`ch-gpt` and
# {ref}`ch-generation` have not been trained yet. You need {ref}`ch-concepts` for bits per byte, {ref}`ch-ngram` for
# counting, {ref}`ch-llm` for SmolLM2.*
#
# The five documents say little about evaluation, and say it in passing. Document 0 evaluates by
# {term}`cross-validation` and hopes for "better evaluation methods" in the future. Document 4 asks for an independent
# data set, as a last step. Documents 0 and 4 tune {term}`hyperparameters <hyperparameter>` "according to the results".
# Document 3 names three data sets. None of them says that the step can go wrong. It can, and in most of the ways below
# the number that comes out is too good. So this chapter is a tour of mistakes. Each is made on purpose, on a problem
# small enough for the truth to be known, and then measured.
#
# The plan:
#
# 1. three traps of {term}`perplexity`: other tokens, other contexts, a test text that has been read before;
# 2. {term}`held-out <test set>` text against cross-validation, where the right answer is known;
# 3. when a difference is one: paired intervals, permutation tests, how many examples it takes;
# 4. whether probabilities mean what they say ({term}`calibration`);
# 5. what people's judgements are worth, with people whose opinions we planted;
# 6. why benchmark numbers mislead: wordings, ceilings, and choosing on the test set;
# 7. metrics of text by hand, and sentences that fool them;
# 8. hyperparameter search, its price, and the bias of its best result;
# 9. the whole book on one ruler.

# %%
import gzip
import lzma
import math
import re
import time
import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from IPython.display import Markdown
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import sentence_bleu, sentence_chrf
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from tabulate import tabulate

from minilm import data, duplicates, evaluate, llama, metrics, ngram, plots, presets, tasks
from minilm.counts import count
from minilm.generate import generate_batch
from minilm.machine import threads
from minilm.quantise import quantise
from minilm.tokenizer import BPE, Characters, Words

plots.use_style()
shakespeare, wikipedia = data.load("shakespeare"), data.load("wikipedia")
train_text, held = shakespeare.text("train"), shakespeare.text("validation")

# %% [markdown]
# (sec-ev-perplexity)=
# ## Perplexity and its first trap: tokens
#
# {term}`Perplexity` is $e^H$, where $H$ is the mean price of a token in nats. It reads well: "as hard as guessing
# among so many equally likely tokens". But it is a price *per token*, and the tokenizer decides how many tokens a text
# has. If a text of $B$ bytes has $T$ tokens,
#
# $$
# \mathrm{PPL} = 2^{\,\mathrm{bpb} \cdot B / T},
# $$ (eq-ev-ppl)
#
# so at the same {term}`bits per byte` a model with twice as long tokens has the *square* of the perplexity. We count
# the same 600,000 characters of Shakespeare four times, with the same method (modified Kneser–Ney) and four
# tokenizers, and score the same 60,000 characters of held-out plays.

# %% mystnb={"figure": {"name": "tab-ev-tokens", "caption": "One text, one method, four tokenizers. Perplexity and price order the last two the other way round."}}
small, excerpt = train_text[:600_000], held[:60_000]
cuts = {
    "characters, order 7": (Characters.train(train_text + held), 7),
    "BPE 512, order 5": (BPE.train(small, 512), 5),
    "BPE 4096, order 4": (BPE.train(small, 4096), 4),
    "words 8192, order 3": (Words.train(small, 8192), 3),
}


def counted(text, units, order):
    return ngram.ModifiedKneserNey(count(torch.tensor(units.encode(text)), order, units.vocab_size))


scores = {
    name: evaluate.score(counted(small, units, n), units, excerpt)
    for name, (units, n) in cuts.items()
}
rows = [
    (name, s.bytes.sum() / s.tokens, s.perplexity, s.bits_per_byte) for name, s in scores.items()
]
heads = ["tokens", "bytes a token", "perplexity", "bits per byte"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=("", ".2f", ".1f", ".2f")))

# %%
for s in scores.values():
    assert math.isclose(s.perplexity, 2 ** (s.bits_per_byte * s.bytes.sum() / s.tokens))
print("equation holds for all four")

# %% [markdown]
# From the first row of {numref}`tab-ev-tokens` to the third, perplexity rises by a factor of nearly forty, and the
# price of the text by a tenth. Of the last two rows perplexity says that words are twice as good as BPE 4096; the
# bytes say that they are worse. Whoever quotes a perplexity without the tokenizer has said nothing, and whoever
# compares two across tokenizers has compared the tokenizers. (That characters come out best here is due to so little
# text; with all of it the units are level, {ref}`ch-ngram`.) The old literature quotes perplexity per *word*, which
# can be had from any tokenizer: divide the same nats by the number of words.
#
# There is a worse variant. Some word models replace what they do not know by one token `<unk>`, as in
# {ref}`ch-text`. Then part of the text need not be predicted at all, and the model that knows fewest words does best:

# %%
for size in (100, 1000, 8000):
    closed = Words.train(small, size, byte_fallback=False)
    ids = torch.tensor(closed.encode(excerpt))
    paid = evaluate.nll(counted(small, closed, 3), ids)
    unknown = (ids == closed.unknown).double().mean()
    print(f"{size:5} words: {unknown:.2f} unknown, perplexity {evaluate.perplexity(paid):.1f}")

# %% [markdown]
# The smallest vocabulary "wins" by a factor of ten, having thrown two fifths of the tokens away. `evaluate.score`
# refuses such a tokenizer. Its bytes do not add up to those of the text.
#
# (sec-ev-context)=
# ## The second trap: how much the model may look at
#
# A model with a context of 128 tokens reads a long text in windows. The first token of each window is predicted from
# nothing ({ref}`sec-gpt-where`). If the windows advance by less than their width, each token but the first few has
# more to go by, and the same model on the same text gets a better number, for more work. Papers differ in this
# {term}`stride`, often without saying so.

# %% tags=["nbval-ignore-output", "remove-output"]
gpt, units, gpt_log = presets.trained("gpt")

# %% mystnb={"figure": {"name": "fig-ev-context", "caption": "One GPT, one text, many results. Left: windows of fewer tokens, side by side. Right: full windows that overlap, by the number of tokens read for each token scored."}, "image": {"alt": "Two line charts of bits per byte. Left, the price falls from 16 to 128 tokens of context, steeply at first. Right, it falls by less than a hundredth at the first overlap and stays there."}}
ids = torch.tensor(units.encode(excerpt[:12_000]))
n_bytes = sum(len(units.token_bytes(i)) for i in ids[1:].tolist())
contexts, strides = [16, 32, 64, 128], [128, 64, 32, 16]
with threads():
    by_context = [evaluate.bits_per_byte(evaluate.nll(gpt, ids, c), n_bytes) for c in contexts]
    by_stride = [evaluate.bits_per_byte(evaluate.nll(gpt, ids, stride=s), n_bytes) for s in strides]
one, two = plots.panels(2, size=(7.2, 3.0))
plots.lines(contexts, {"": by_context}, "tokens in a window", "bits per byte", ax=one)
reads = [128 / s for s in strides]
plots.lines(reads, {"": by_stride}, "tokens read per token scored", "", ax=two)
one.set_xticks(contexts)
two.set_xticks(reads)
print("a wider window is cheaper:", by_context == sorted(by_context, reverse=True))
print("a shorter stride is cheaper than none:", min(by_stride[1:]) < by_stride[0])

# %% [markdown]
# Here the first halving of the stride gains not quite a hundredth of a bit, and further ones gain nothing; the width
# of the window matters more. Nothing about the model has changed in {numref}`fig-ev-context`. All tables of this book
# use windows side by side, the cheapest and the harshest rule. What matters is that one rule holds for all models of
# a table, and that it is written down.
#
# (sec-ev-contamination)=
# ## The third trap: it has read the test
#
# {term}`Contamination` is test text in the training data. With two trillion tokens from the web nobody can rule it out
# {cite}`sainz2023,dodge2021`. To see what it does we cause it. Forty passages of held-out plays; twenty of them are
# *planted* in the training text of a counting model, once each, the other twenty are not. In a second model they are
# planted in disguise: about every sixth word is replaced by another one, as by a careless copyist; in a third, every
# second word.


# %%
def passages(text, n, size):
    """n passages of about so many characters, spread evenly over a text."""
    starts = np.linspace(0, len(text) - 2 * size, n).astype(int)
    starts = [text.index("\n", start) + 1 for start in starts]
    return [text[s : s + size].rsplit(None, 1)[0] for s in starts]


def disguised(text, share, rng):
    """The text with a share of its words replaced by others of its words."""
    words = text.split(" ")
    return " ".join(rng.choice(words) if rng.random() < share else word for word in words)


pieces = passages(held, 40, 1500)
planted = np.arange(40) % 2 == 0
rng = np.random.default_rng(0)
copies = {"verbatim": 0, "every sixth word changed": 1 / 6, "every second word changed": 1 / 2}
dirty = {}
for how, share in copies.items():
    there = [disguised(piece, share, rng) for piece in np.array(pieces)[planted]]
    dirty[how] = small + "\n" + "\n".join(there)


# %%
def prices(text):
    """Bits per byte of every passage under counting on a text."""
    model = counted(text, units, 5)
    return np.array([evaluate.score(model, units, piece).bits_per_byte for piece in pieces])


bits = {how: prices(text) for how, text in dirty.items()}
reference = prices(
    train_text[600_000:1_200_000]
)  # the same author, a text that we know to be clean
for how, paid in bits.items():
    print(f"{how}: planted {paid[planted].mean():.2f}, others {paid[~planted].mean():.2f}")

# %% [markdown]
# A single copy among 600,000 characters, and the price of a passage falls to less than half. So much for how it
# flatters. Can one *find* it? Three detectors. Whoever has the training text looks for n-grams of the test passage in
# it: the share of its runs of 13 words that occur there. Whoever has only the model looks at the price; but an easy
# passage is cheap too. The price *minus what a reference model pays* takes the difficulty away, and brings in the
# reference's own whims. The {term}`AUC` says how often a detector puts a planted passage before a clean one: 0.5 is
# chance.


# %% mystnb={"figure": {"name": "tab-ev-contamination", "caption": "Three detectors of planted passages: the probability that a planted passage looks more suspicious than a clean one."}}
def overlap(text, n=13):
    """For each passage the share of its runs of n words that occur in a text."""
    there = duplicates.shingles(text, n)
    return [len(own & there) / len(own) for own in (duplicates.shingles(p, n) for p in pieces)]


rows = []
for how, text in dirty.items():
    suspicion = {"overlap": overlap(text), "price": -bits[how], "gap": reference - bits[how]}
    rows.append((how, *(roc_auc_score(planted, s) for s in suspicion.values())))
heads = ["planted", "n-gram overlap", "price", "price minus reference"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=".2f"))

# %% mystnb={"figure": {"name": "fig-ev-contamination", "caption": "Forty passages, half of them planted with every second word changed: what the suspected model pays, against what a clean reference pays. On the dotted line both pay the same. Planted passages lie below the cloud of the others."}, "image": {"alt": "Scatter plot of bits per byte under the suspected model against bits per byte under the reference. Clean passages lie a little below the diagonal, around 2.2; planted ones lie below it, around 1.7."}}
ax = plots.axes("bits per byte, clean reference", "bits per byte, suspected model", (5.2, 3.4))
how = "every second word changed"
for label, chosen, mark in (("planted", planted, "o"), ("clean", ~planted, "x")):
    ax.plot(reference[chosen], bits[how][chosen], mark, label=label)
ax.axline((2.5, 2.5), slope=1, color="0.5", linestyle=":")
ax.legend()
print(f"gap of the planted {np.mean((reference - bits[how])[planted]):.2f}", end=", ")
print(f"of the clean {np.mean((reference - bits[how])[~planted]):.2f} bits per byte")

# %% [markdown]
# {numref}`tab-ev-contamination` says that runs of words find copies, even careless ones, and are blind once every
# second word is another. The report on GPT-3 searched for runs of up to 13 words {cite}`brown2020`; a paraphrase, a
# translation, or the questions in another order pass through. The price still knows. Whether it takes a reference
# depends on the passages. Ours are of one kind and much the same difficulty, so the plain price does best; where hard
# and easy texts are mixed, as in a benchmark, it would call every nursery rhyme a leak. And counting is an extreme
# case, because it remembers everything at first sight. A network that has met a passage once among billions of others
# has moved by a hair ({ref}`ch-gpt`), and telling members from strangers is then close to chance {cite}`duan2024`. The
# remedy that works is a text written after the training.
#
# (sec-ev-heldout)=
# ## Held-out text against cross-validation
#
# Document 0 says that models are evaluated "usually by cross-validation" ({ref}`err-cross-validation`). For language
# models that is not the custom. They are judged on a held-out text. What is the difference worth? We need a case in
# which the truth is known. Ten plays are drawn at random; a small counting model is made from them. The truth is what
# it pays on plays of the same author that are *not* among the ten, a text ten times as large as any test set the ten
# could spare. Four estimates are made from the ten alone:
#
# - the price of the training text itself;
# - one split: count eight plays, score the other two;
# - five folds *of plays*: each pair of plays is scored by a model of the other eight, and the five prices are averaged;
# - five folds *of lines*: the plays are cut into pieces of forty tokens, and every fifth piece makes a fold.

# %%
clips = [torch.tensor(units.encode(play.text[:24_000])) for play in shakespeare.train]


def fitted(parts):
    return ngram.ModifiedKneserNey(count(torch.cat(parts), 3, units.vocab_size))


def price(model, parts):
    """Bits per token of some texts."""
    return torch.cat([evaluate.nll(model, part) for part in parts]).mean().item() / math.log(2)


def folded(folds):
    """Mean price of each fold under a model of the others."""
    rest = lambda i: [part for j, fold in enumerate(folds) if j != i for part in fold]
    return np.mean([price(fitted(rest(i)), fold) for i, fold in enumerate(folds)])


# %%
def four_estimates(rng):
    """The error of each estimate for ten random plays, in bits per token."""
    order = rng.permutation(len(clips))
    ten, others = [clips[i] for i in order[:10]], [clips[i] for i in order[10:]]
    pieces = [piece for play in ten for piece in play.split(40) if len(piece) == 40]
    model = fitted(ten)
    truth = price(model, others)
    return {
        "training text": price(model, ten) - truth,
        "one split": price(fitted(ten[:8]), ten[8:]) - truth,
        "five folds of plays": folded([ten[i::5] for i in range(5)]) - truth,
        "five folds of lines": folded([pieces[i::5] for i in range(5)]) - truth,
    }


rng = np.random.default_rng(0)
errors = [four_estimates(rng) for _ in range(10)]
errors = {name: np.array([e[name] for e in errors]) for name in errors[0]}

# %% mystnb={"figure": {"name": "tab-ev-folds", "caption": "Four estimates of the price of unseen plays, in bits per token. Bias: the mean error over ten random choices of ten plays (negative: too good). Spread: the standard deviation of the error. Work: models fitted."}}
work = {"training text": 1, "one split": 1, "five folds of plays": 5, "five folds of lines": 5}
rows = [(name, e.mean(), e.std(ddof=1), work[name]) for name, e in errors.items()]
Markdown(tabulate(rows, ["estimate", "bias", "spread", "work"], tablefmt="pipe", floatfmt="+.2f"))

# %% [markdown]
# {numref}`tab-ev-folds` has four lessons. The training text tells nothing: it is off by three bits a token, more than
# twenty times the bias of one split. One split and folds of plays have nearly the same small bias *upwards*, since
# both judge a model of eight plays where we shall use one of ten. Folding narrows the spread, because all ten plays
# are used for testing, and it costs five trainings. And folds of lines, which look like the same method, come out too
# good, because each held-out piece has its neighbours in the training text, with the same names and the same scene.
# That is contamination, made at home. Folds have to be cut where the future text will be cut from the past: by play,
# by author, by day.
#
# So {term}`cross-validation` is right where data are few and training is cheap, as in `ngram.cross_validate`, which
# {ref}`ch-ngram` used to check the formula for its discounts. Where one training costs a million, nobody trains five
# times to make an interval narrower that a longer test text makes narrow for free. {cite}`arlot2010` is a survey.
#
# (sec-ev-paired)=
# ## Is the difference real? Pairs and permutations
#
# Two models have been scored on a text of $n$ passages: prices $a_1, \dots, a_n$ and $b_1, \dots, b_n$. The usual
# report is two means, each with its interval, and a look at whether the intervals overlap. That look is far too blunt.
# Both models find the same passages hard:
#
# ```{prf:theorem} Why pairs
# :label: thm-ev-pairs
# Let $(a_i, b_i)$ be independent pairs with standard deviations $\sigma_a$, $\sigma_b$ and correlation $\rho$. Then
# $\operatorname{Var}(\bar a - \bar b) = (\sigma_a^2 + \sigma_b^2 - 2 \rho \sigma_a \sigma_b) / n$.
# ```
#
# ```{prf:proof}
# $\bar a - \bar b$ is the mean of the $n$ independent differences $a_i - b_i$, each with variance
# $\sigma_a^2 + \sigma_b^2 - 2 \operatorname{Cov}(a_i, b_i)$, and $\operatorname{Cov}(a_i, b_i) = \rho \sigma_a
# \sigma_b$.
# ```
#
# With two *different* test texts $\rho$ would be 0. On the same text it is close to 1, and most of the noise cancels.
# Counting against our GPT, on 150,000 bytes of held-out plays in passages of 2,000:

# %% tags=["nbval-ignore-output"]
counting = counted(train_text, units, 6)
with threads():
    pair = {
        name: evaluate.score(model, units, held[:150_000])
        for name, model in (("GPT", gpt), ("counting", counting))
    }
a, b = (s.nats / s.bytes / math.log(2) for s in pair.values())
rho = np.corrcoef(a, b)[0, 1]
by_hand = np.sqrt((a.var() + b.var() - 2 * rho * a.std() * b.std()) / len(a))
assert math.isclose(by_hand, (a - b).std() / len(a) ** 0.5)
unpaired = np.sqrt((a.var() + b.var()) / len(a))
print(f"correlation over {len(a)} passages: {rho:.1f}")
print(f"standard error of the difference is {unpaired / by_hand:.0f} times smaller in pairs")

# %% mystnb={"figure": {"name": "fig-ev-pairs", "caption": "The same two models on the same passages. Left the two prices, each with its own 95 % interval; right, on the same scale, the paired difference."}, "image": {"alt": "Dot chart. The whiskers of GPT and counting overlap almost completely, at about 2.1 to 2.2 bits per byte. A second chart shows the difference of the two with a whisker several times shorter."}}
one, two = plots.panels(2, size=(7.2, 1.9), share_y=False)
singles = {name: metrics.estimate(np.mean, x) for name, x in (("GPT", a), ("counting", b))}
plots.dots(
    list(singles), [e.value for e in singles.values()], "bits per byte",
    [e[1:] for e in singles.values()], ax=one,
)  # fmt: skip
gap = metrics.paired(a, b)
plots.dots(["GPT minus\ncounting"], [gap.value], "bits per byte", [gap[1:3]], ax=two)
width = np.diff(one.get_xlim())[0]
two.set_xlim(gap.value - width / 2, gap.value + width / 2)
print("single intervals overlap:", singles["GPT"].high > singles["counting"].low)

# %% [markdown]
# The interval comes from the {term}`bootstrap`: draw the passages anew, with replacement, and look at the middle 95 %
# of the results ({cite}`efron1993`; `metrics.estimate`). Its sibling is the {term}`permutation test`. If the models
# did not differ, it would be chance which of the two prices of a passage is whose. So exchange the two in every
# passage by the toss of a coin, thousands of times, and count how often the mean difference comes out as large as the
# one observed. That share is the {term}`p-value`. By hand, and as in `metrics.paired`:

# %%
rng, d = np.random.default_rng(0), a - b
signs = rng.choice([-1, 1], (20_000, len(d)))
by_hand = np.mean(np.abs((signs * d).mean(1)) >= abs(d.mean()))
assert abs(by_hand - gap.p) < 0.01
print("agrees with metrics.paired")

# %% tags=["nbval-ignore-output"]
print(f"GPT minus counting: {gap:+.3f}")

# %% [markdown]
# One warning. Intervals and p-values here are about *passages*: would the order be the same on other plays? They say
# nothing about other seeds of the training, which differ as well ({ref}`sec-gpt-ruler`).
#
# ### Right or wrong: McNemar's test
#
# Many tasks give marks of 0 and 1. Then pairs in which both models are right, or both wrong, say nothing about the
# difference. Let $n_{10}$ be the examples only the first gets right, $n_{01}$ those only the second does. If there is
# no difference, each of these $n_{10} + n_{01}$ is the toss of a coin; the test of McNemar {cite}`mcnemar1947` in its
# exact form is the binomial test of that. It is the permutation test once more, since exchanging equal marks changes
# nothing.
#
# Real marks: SmolLM2 completes a text about the capital of 80 countries (`tasks.capitals`), in five wordings. No
# chat template; six tokens, the likeliest each time; right if the name of the capital is among them.

# %%
model, words = llama.load("smollm2")
known = [pair for split in tasks.capitals().values() for pair in split][:80]
names, capitals = [pair.names[0] for pair in known], [pair.target for pair in known]
wordings = [
    "The capital of {} is",
    "{}'s capital is",
    "The capital city of {} is called",
    "Sweden: Stockholm\nPeru: Lima\n{}:",
    "Question: What is the capital of {}?\nAnswer:",
]


def plain(text):
    """Lower-case letters without accents."""
    letters = unicodedata.normalize("NFKD", text.lower())
    return re.sub(r"[^a-z ]", "", "".join(c for c in letters if not unicodedata.combining(c)))


# %%
def marks(wording):
    """For each country whether its capital is named."""
    prompts = [words.encode(wording.format(name)) for name in names]
    said = generate_batch(model, prompts, 6, temperature=0)
    texts = [plain(words.decode(ids)) for ids in said]
    return np.array([plain(right) in text for right, text in zip(capitals, texts, strict=True)])


with threads():
    hits = {wording: marks(wording) for wording in wordings}
first, second = hits[wordings[0]], hits[wordings[1]]
n10, n01 = int((first & ~second).sum()), int((~first & second).sum())
print(f"right: {first.mean():.2f} and {second.mean():.2f}")
exact = binomtest(n10, n10 + n01).pvalue
assert abs(exact - metrics.paired(first, second).p) < 0.02
print("McNemar's exact test agrees with the permutation test")

# %% tags=["nbval-ignore-output"]
print(f"only the first is right: {n10}; only the second: {n01}; p = {exact:.1e}")
print("difference:", metrics.paired(first, second))

# %% [markdown]
# (sec-ev-power)=
# ### How many examples?
#
# The question should be asked beforehand. Model A is right in 80 % of cases, and we hope that B is right in 82 %. How
# many examples does it take to see it, with a test at the 5 % level and a chance of 80 % to succeed? That chance is
# called {term}`power`. With normal quantiles $z_{0.975} + z_{0.8} = 2.8$, the standard error must be at most
# $\delta / 2.8$. Two separate samples have the variance $p_1 (1 - p_1) + p_2 (1 - p_2)$ for each example; pairs have
# $q - \delta^2$, where $q$ is the share of examples on which the two disagree. So
#
# $$
# n_{\text{unpaired}} = \frac{2.8^2}{\delta^2} \bigl( p_1 (1 - p_1) + p_2 (1 - p_2) \bigr), \qquad
# n_{\text{paired}} = \frac{2.8^2}{\delta^2} \bigl( q - \delta^2 \bigr).
# $$ (eq-ev-power)

# %%
p1, p2, q = 0.80, 0.82, 0.10
quantiles = norm.ppf(0.975) + norm.ppf(0.8)
unpaired = quantiles**2 * (p1 * (1 - p1) + p2 * (1 - p2)) / (p2 - p1) ** 2
in_pairs = quantiles**2 * (q - (p2 - p1) ** 2) / (p2 - p1) ** 2
print(f"two samples: {unpaired:,.0f} each; in pairs: {in_pairs:,.0f}")


def power(n, only_a, only_b, trials=1500, seed=0):
    """How often McNemar's test finds the difference at the 5 % level."""
    rng = np.random.default_rng(seed)
    rest = 1 - only_a - only_b
    found = [
        binomtest(int(x), int(x + y)).pvalue < 0.05 if x + y else False
        for x, y, _ in rng.multinomial(n, [only_a, only_b, rest], trials)
    ]
    return np.mean(found)


print(
    f"McNemar's test finds it on {in_pairs:,.0f} examples: {power(int(in_pairs), 0.04, 0.06):.2f}"
)

# %% mystnb={"figure": {"name": "fig-ev-power", "caption": "The chance that McNemar's test sees a true difference, by the number of examples. Two models that disagree on a tenth of all examples."}, "image": {"alt": "Three rising curves with a logarithmic axis from 50 to 3,200 examples. A difference of 5 points is seen four times in five from about 350 examples, one of 2 points from about 2,000, one of 1 point in two cases of five even with 3,200."}}
sizes = [50, 100, 200, 400, 800, 1600, 3200]
curves = {
    f"{points} point{'s' * (points > 1)}": [
        power(n, 0.05 - points / 200, 0.05 + points / 200, 300) for n in sizes
    ]
    for points in (5, 2, 1)
}
ax = plots.lines(sizes, curves, "examples", "power", log="x")
ax.axhline(0.8, color="0.5", linestyle=":")
plots.plain_ticks(ax, "x")
print(f"100 examples, 2 points: power {curves['2 points'][1]:.1f}")

# %% [markdown]
# With 100 examples, which is what many tests have, a difference of two points will be missed nine times in ten. And
# the one time it is found it will look larger than it is, or it would not have been found. Many comparisons in the
# literature were too small from the start to see what they report {cite}`card2020`.
#
# ### Twenty comparisons
#
# Where there is no difference, a test at the 5 % level still claims one, once in twenty times. Try twenty ideas that
# are worth nothing, and the chance that one or more will be "significant" is $1 - 0.95^{20}$.

# %%
rng = np.random.default_rng(0)
noise = rng.normal(size=(400, 20, 100))  # experiments, ideas worth nothing, examples
z = noise.mean(2) / (noise.std(2, ddof=1) / 10)
p = 2 * norm.sf(np.abs(z))
print(f"one or more below 0.05: {(p.min(1) < 0.05).mean():.2f}; expected {1 - 0.95**20:.2f}")
print(f"below 0.05 / 20: {(p.min(1) < 0.05 / 20).mean():.2f}")

# %% [markdown]
# The remedy of Bonferroni divides the level by the number of comparisons; Holm's {cite}`holm1979` is never worse
# ({ref}`ex-ev-holm`). What neither can do is count the ideas that were tried and not written down.
#
# (sec-ev-calibration)=
# ## Do probabilities mean what they say?
#
# A model is *calibrated* if, of all the things that it gives a probability of 0.7, seventy per cent come true. In
# medicine or law that matters more than the mean: one can work with a system that knows when it does not know. Take
# the likeliest next token, its probability, and whether it came. Sort the tokens into ten bins by probability; in
# each, compare the mean probability with the share that came. The weighted mean gap is the {term}`expected calibration
# error`
#
# $$
# \mathrm{ECE} = \sum_{k} \frac{n_k}{n} \, \bigl| \overline{p}_k - \overline{y}_k \bigr|,
# $$ (eq-ev-ece)
#
# and the picture is called a {term}`reliability diagram` {cite}`guo2017`. Four models: counting with the discounts of
# {ref}`ch-ngram`; counting that discounts too little, by 0.1; our GPT; and SmolLM2. For each we keep the logits of a
# stretch of Shakespeare to fit on, and another to judge.

# %%
overconfident = ngram.KneserNey(counting.counts, 0.1)
stretches = {"fit": held[:5_000], "judge": held[200_000:205_000]}


@torch.no_grad()
def predictions(model, words, text, width):
    """Logits for the tokens of a text but the first of each window, and those tokens."""
    ids = torch.tensor(words.encode(text))
    rows = ids[: len(ids) // width * width].view(-1, width)
    logits = torch.cat([model(row[None, :-1])[0].float() for row in rows])
    return logits, rows[:, 1:].flatten()


with threads():
    seen = {
        name: [predictions(*of, text, 128) for text in stretches.values()]
        for name, of in {
            "counting": (counting, units),
            "counting, D = 0.1": (overconfident, units),
            "GPT": (gpt, units),
            "SmolLM2": (model, words),
        }.items()
    }

# %% [markdown]
# Repair comes with diagnosis. {term}`Temperature scaling <temperature scaling>` divides all logits by one number
# $\tau$, chosen so that the held-out *fit* stretch gets the highest likelihood. The order of the tokens stays, so
# every greedy answer stays; only the confidence changes. Why by likelihood and not by the ECE itself? Because the
# logarithm is a {term}`proper <proper scoring rule>` score: its expectation is lowest at the true probabilities, so
# it rewards a model for meaning what it says, and also for saying something definite. The ECE alone is perfect for a
# model that gives every token its overall frequency.


# %%
def nats(logits, targets, tau=1.0):
    return torch.nn.functional.cross_entropy(logits / tau, targets).item()


def top(logits, targets, tau=1.0):
    """Probability of the likeliest token, and whether it came."""
    probability, guess = (logits / tau).softmax(-1).max(-1)
    return probability.double().numpy(), (guess == targets).numpy()


taus = {
    name: minimize_scalar(
        lambda tau, fit=fit: nats(*fit, tau),
        bounds=(0.5, 4),
        method="bounded",
        options={"xatol": 0.01},
    ).x
    for name, (fit, _) in seen.items()
}

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-ev-ece", "caption": "Calibration of the likeliest next token on held-out plays, with 95 % intervals over tokens; tau was fitted on another stretch. Nats per token of different tokenizers cannot be compared."}}
rows = []
for name, (_, judge) in seen.items():
    before, after = (metrics.calibration_error(*top(*judge, t)) for t in (1.0, taus[name]))
    loss = [nats(*judge, t) for t in (1.0, taus[name])]
    rows.append((name, f"{before}", f"{taus[name]:.2f}", f"{after}", *(f"{x:.2f}" for x in loss)))
heads = ["model", "ECE", "tau", "ECE at tau", "nats a token", "at tau"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% mystnb={"figure": {"name": "fig-ev-reliability", "caption": "Reliability diagram: of the likeliest next tokens with about the probability on the horizontal axis, the share that came. In six bins, so that each has a good number of tokens. On the thin grey diagonal a model means what it says; below it, it is overconfident."}, "image": {"alt": "Line chart with a thin grey diagonal. Counting, the GPT and SmolLM2 stay close to the diagonal. Counting with a discount of 0.1 runs well below it."}}
ax = plots.axes("probability of the likeliest token", "share that came", (5.2, 3.8))
for name, (_, judge) in seen.items():
    p, came = top(*judge)
    bin_of = np.minimum((p * 6).astype(int), 5)
    points = [(p[bin_of == k].mean(), came[bin_of == k].mean()) for k in np.unique(bin_of)]
    ax.plot(*zip(*points, strict=True), label=name)
ax.axline((0, 0), slope=1, color="0.6", linestyle="-", linewidth=0.8)
ax.legend()
print({name: f"{tau:.1f}" for name, tau in taus.items()})

# %% [markdown]
# Three of the four keep close to the diagonal in {numref}`fig-ev-reliability`, without anybody having aimed at it.
# Their parameters, or their discounts, were set by likelihood, a proper score, and none of them has overfitted. It
# takes both: trained for too long by the same score, a network becomes too sure {cite}`guo2017`. The exception is the
# model whose discount somebody set by hand. Where a context has been seen once it is nearly sure of what followed, and
# wrong most of the time: its error is five times as large or more ({numref}`tab-ev-ece`), and it pays for it. One
# number repairs much of that, though not all, since it lowers all confidences alike and the trouble sits in some of
# them. SmolLM2 is a little too sure of itself as well. Where there is nothing to repair, a number fitted on two
# thousand tokens repairs nothing and may do a little harm.
#
# A calibrated *next token* is not a calibrated *answer*. How sure the model is of the words it writes says little
# about whether the sentence is true; SmolLM2 names wrong capitals in the same tone as right ones
# ({ref}`sec-llm-capitals`, {ref}`err-logical`). And models that have been tuned to please people lose part of the
# calibration that pretraining gave them {cite}`achiam2023`.
#
# (sec-ev-human)=
# ## What people's judgements are worth
#
# For stories, summaries and dialogues no formula decides, and people are asked. Then the people are the instrument,
# and an instrument has to be checked first. The tool is **agreement**. Two annotators mark 100 summaries as good or
# bad:

# %%
table = np.array([[78, 8], [6, 8]])  # rows: the first says good, bad; columns: the second
n = table.sum()
agreement = np.trace(table) / n
by_chance = (table.sum(0) * table.sum(1)).sum() / n**2
kappa = (agreement - by_chance) / (1 - by_chance)
print(f"agreement {agreement:.2f}, by chance {by_chance:.2f}, kappa {kappa:.2f}")
both = [(i, j) for i in (0, 1) for j in (0, 1) for _ in range(table[i, j])]
assert math.isclose(kappa, cohen_kappa_score(*zip(*both, strict=True)))

# %% [markdown]
# They agree on 86 of 100, and on 74 they would agree without looking, because nearly all summaries are good.
# {term}`Cohen's kappa` {cite}`cohen1960` counts only what goes beyond: $\kappa = (a - c) / (1 - c)$ with agreement $a$
# and chance $c$, 0 for coin tossing and 1 for complete agreement. A report of human judgements without a number of
# this kind says nothing about whether other people would judge alike. Nor does a high kappa make the judgement
# *right*: two people can share a prejudice, such as the one for longer answers.
#
# ### Which of two?
#
# Comparing is easier than marking, so systems are often ranked by pairs: which answer is better? The model of Bradley
# and Terry {cite}`bradley1952` gives each system a strength $s$, and says
#
# $$
# P(i \text{ beats } j) = \sigma(s_i - s_j), \qquad \sigma(x) = \frac{1}{1 + e^{-x}}.
# $$ (eq-ev-bt)
#
# ({ref}`ch-finetuning` trained on preferences with the same formula.) To see whether it finds the truth, we plant one:
# five systems with known strengths, and judges who decide by {eq}`eq-ev-bt`, but who also favour whichever answer is
# shown *first*, by 0.4. 1,200 judgements. Fitting the strengths is logistic regression on rows that hold $+1$ for
# the first system and $-1$ for the second; the constant is the preference for the first place.

# %%
strengths = np.array([0.8, 0.5, 0.2, -0.4, -1.1])


def judged(n, rng, favour=0.4, first=None):
    """n judgements: who was shown first, who second, and whether the first won."""
    i, j = np.array([rng.choice(5, 2, replace=False) for _ in range(n)]).T
    won = rng.random(n) < 1 / (1 + np.exp(-(strengths[i] - strengths[j] + favour)))
    return i, j, won


def fitted_strengths(i, j, won):
    """Strengths with mean zero, and the advantage of the first place."""
    rows = np.eye(5)[i] - np.eye(5)[j]
    fit = LogisticRegression(C=1e4).fit(rows, won)
    return fit.coef_[0] - fit.coef_[0].mean(), fit.intercept_[0]


found, favour = fitted_strengths(*judged(1200, np.random.default_rng(0)))
print("planted", strengths, "found", found.round(2), f"first place {favour:.2f}")


# %%
def mm(i, j, won, rounds=300):
    """Bradley and Terry by hand: each strength e^s is wins over the sum of n_ij / (e^s_i + e^s_j)."""
    w = np.ones(5)
    wins = np.bincount(np.where(won, i, j), minlength=5)
    met = np.zeros((5, 5))
    np.add.at(met, (i, j), 1)
    met += met.T
    for _ in range(rounds):
        w = wins / (met / (w[:, None] + w)).sum(1)
    return np.log(w) - np.log(w).mean()


games = judged(1200, np.random.default_rng(0), favour=0.0)
rows = np.eye(5)[games[0]] - np.eye(5)[games[1]]
fit = LogisticRegression(C=1e6, fit_intercept=False).fit(rows, games[2]).coef_[0]
np.testing.assert_allclose(mm(*games), fit - fit.mean(), atol=1e-3)
print("both fits agree")

# %% [markdown]
# The planted strengths come back, and so does the planted prejudice. (Where the order cannot be modelled, show every
# pair in both orders.) How sure is the *ranking*? Draw the judgements anew, as always:

# %% mystnb={"figure": {"name": "fig-ev-bt", "caption": "Five systems with planted strengths (crosses), and what 1,200 judgements say (dots with 95 % bootstrap intervals)."}, "image": {"alt": "Dot chart of five systems. Each dot lies near its cross; the whiskers are about 0.4 wide, and those of neighbours come close to each other."}}
games = np.array(judged(1200, np.random.default_rng(0)))
rng = np.random.default_rng(1)
draws = [fitted_strengths(*games[:, rng.integers(0, 1200, 1200)])[0] for _ in range(200)]
low, high = np.percentile(draws, [2.5, 97.5], axis=0)
ax = plots.dots(list("ABCDE"), found, "strength", list(zip(low, high, strict=True)))
ax.plot(strengths, range(5), "kx", linestyle="none", markersize=9, zorder=5)
wrong = np.mean([np.argmax(draw) != 0 for draw in draws])
print(f"another system is first in {wrong:.2f} of the samples drawn anew")

# %% [markdown]
# Public rankings of chat systems work like this, with hundreds of thousands of votes {cite}`chiang2024`. Some are run
# by the **Elo** rule of chess, which moves the two ratings after each game by $K (\text{won} - P)$. That is one step
# uphill on the log-likelihood of a single game (without the term for the first place), and it never comes to rest:
# the last games count most. The same 1,200 games in another order give another table.


# %%
def elo(i, j, won, rate=0.18):
    """Ratings after the games in the order given; in units of s, the usual K of 32 points is 0.18."""
    s = np.zeros(5)
    for x, y, first in zip(i, j, won, strict=True):
        step = rate * (first - 1 / (1 + np.exp(s[y] - s[x])))
        s[x], s[y] = s[x] + step, s[y] - step
    return s


rng = np.random.default_rng(0)
tables = [elo(*games[:, rng.permutation(1200)]) for _ in range(300)]
firsts = Counter("ABCDE"[int(np.argmax(s))] for s in tables)
print("first, in 300 orders of the same games:", dict(sorted(firsts.items())))

# %% [markdown]
# ### What it costs
#
# A judge prefers the better of two systems in 55 of 100 pairs. One judgement has a variance of about 1/4, so by the
# reasoning of {eq}`eq-ev-power` it takes $2.8^2 \cdot \tfrac14 / 0.05^2$ pairs. How many is that, and how long does
# it take at half a minute each?

# %%
need = quantiles**2 * 0.25 / 0.05**2
print(f"{need:.0f} judgements, {need * 30 / 3600:.1f} hours; with three judges a pair", end=" ")
print(f"{3 * need * 30 / 3600:.1f} hours")

# %% [markdown]
# That is for one comparison of two systems, on one kind of text, in one language. So programs are used in place of
# people: metrics, below, or another language model as the judge, which has the planted weakness of our judges and
# more, among them a liking for long answers and perhaps for its own {cite}`zheng2023`. A substitute has to be checked
# against the people it stands for, by exactly the tools of this section.
#
# (sec-ev-benchmarks)=
# ## Why benchmark numbers mislead
#
# A benchmark is a set of questions, a way to put them, a way to read the answers, and a mean. The mean gets quoted.
#
# ### The wording
#
# The five wordings of {ref}`sec-ev-paired` ask for the same 80 facts.

# %% mystnb={"figure": {"name": "fig-ev-wordings", "caption": "One model, 80 countries, five wordings: the share of capitals named, with 95 % intervals."}, "image": {"alt": "Dot chart of five wordings. The shares reach from zero to about four tenths, and the intervals of the best and the worst wording are far apart."}}
shares = {w: metrics.share(hit) for w, hit in hits.items()}
labels = [w.replace("\n", " ").replace("{}", "...") for w in shares]
plots.dots(
    labels, [e.value for e in shares.values()], "share named", [e[1:] for e in shares.values()]
)
values = [e.value for e in shares.values()]
print(f"worst {min(values):.2f}, best {max(values):.2f}")
table = np.array(list(hits.values()))
print(f"right in one or more: {table.any(0).mean():.2f}; in all: {table.all(0).mean():.2f}")

# %% [markdown]
# To the last wording the model answers with nothing at all, since it takes the text to be finished. It knows no fewer
# capitals for that. The intervals in {numref}`fig-ev-wordings` are about the *countries*. None of them covers what the
# wording does, and that is the larger part. In published comparisons the format of the prompt alone has moved a model
# by tens of points, and changed the order of models {cite}`sclar2024,zhao2021`. {ref}`ch-classification` turns this
# into a method.
#
# ### Choosing on the test set
#
# Someone tries five wordings and reports the best one. That is a choice, made on the test set, and its result is too
# good: the maximum of several noisy numbers has been selected for its noise. How much too good? Choose the wording on
# one random set of countries, and look at the same wording on the others:

# %%
rng = np.random.default_rng(0)
for n in (5, 10, 40):
    claimed, kept = [], []
    for _ in range(2000):
        order = rng.permutation(80)
        best = table[:, order[:n]].mean(1).argmax()
        claimed.append(table[best, order[:n]].mean())
        kept.append(table[best, order[n:]].mean())
    print(f"chosen on {n}: claimed {np.mean(claimed):.2f}, on the others {np.mean(kept):.2f}")

# %% [markdown]
# The fewer the examples and the more the candidates, the larger the gap; {ref}`sec-ev-search` draws the curve.
# Hence three parts ({ref}`err-validation`): one to fit, one to choose on, one to report on, once. Document 4 has the
# independent set; that it comes *after* all choices is the other half of the rule ({ref}`err-order`).
#
# ### The ceiling
#
# Labels have errors, some 3 % on average in the test sets of ten well-known collections {cite}`northcutt2021`. Suppose
# 4 % of the labels of a test set of 200 are wrong, where there are two classes. A perfect model scores 96 %. One that
# errs in one case of a hundred scores about 95 %, and what can be seen of the difference is this:

# %%
rng = np.random.default_rng(0)
truth = rng.random((4000, 200)) < 0.5
labels = truth ^ (rng.random(truth.shape) < 0.04)
good = truth ^ (rng.random(truth.shape) < 0.01)
perfect_share, good_share = (truth == labels).mean(1), (good == labels).mean(1)
print(f"perfect: {perfect_share.mean():.3f}; errs in one of a hundred: {good_share.mean():.3f}")
print(f"the perfect model is not ahead in {np.mean(perfect_share <= good_share):.2f} of such tests")

# %% [markdown]
# Near the ceiling a benchmark measures its own mistakes. GLUE, a collection of nine tasks with one mean
# ({numref}`tab-ev-sets`), was passed by models in little more than a year, in the sense that they scored above
# people, and its harder successor followed {cite}`wang2018,wang2019superglue`. Passing it did not mean that models
# read like people. What the essays call "close to human" ({ref}`err-bigger`, {ref}`err-understand`) was, wherever one
# can look it up, a score on such a set.
#
# ### Goodhart
#
# "When a measure becomes a target, it ceases to be a good measure" {cite}`strathern1997`. The next section has
# sentences that are bad and score well; {ref}`ch-finetuning` has a model that learnt to exploit a flaw in its reward.
# Choosing the best of five wordings is the mildest form of it.
#
# (sec-ev-text)=
# ## Metrics of text
#
# Document 1 promises "fluent and accurate translations", without a number ({ref}`err-quality-claims`). The numbers
# that one could give compare a translation, a summary or an answer with a **reference** that a person wrote. Five ways
# are in common use. All of them compare strings; none knows what a sentence says. By hand, on one example:

# %%
reference_text = "the black cat sat on the old mat"
candidate = "a black cat sat on the mat"


def grams(items, n):
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


# %% [markdown]
# {term}`Exact match <exact match>` and {term}`token F1` were made for short answers {cite}`rajpurkar2016`. Both texts
# are put in lower case; punctuation and articles go. Then they are equal or not; or one counts shared words, as
# precision $p$ (of the words said) and recall $r$ (of the words wanted), and $F_1 = 2 p r / (p + r)$.

# %%
said, wanted = (metrics.normalised(text).split() for text in (candidate, reference_text))
shared = (Counter(said) & Counter(wanted)).total()
by_hand = 2 * shared / (len(said) + len(wanted))
assert math.isclose(by_hand, metrics.token_f1([candidate], [reference_text]).value)
print(f"exact match {float(said == wanted):.0f}, token F1 {by_hand:.3f}")

# %% [markdown]
# **BLEU** {cite}`papineni2002` is precision only, of 1-, 2-, 3- and 4-grams, each counted at most as often as the
# reference has it. The four are multiplied and the fourth root taken. Since precision alone would reward saying
# little, a text shorter than its reference ($c < r$ words) pays a penalty:
#
# $$
# \mathrm{BLEU} = \min\bigl(1, e^{1 - r / c}\bigr) \, \Bigl( \prod_{n=1}^{4} p_n \Bigr)^{1/4}.
# $$ (eq-ev-bleu)

# %%
c, r = candidate.split(), reference_text.split()
precisions = [(grams(c, n) & grams(r, n)).total() / grams(c, n).total() for n in (1, 2, 3, 4)]
bleu = 100 * min(1, math.exp(1 - len(r) / len(c))) * math.prod(precisions) ** 0.25
assert math.isclose(bleu, sentence_bleu(candidate, [reference_text]).score)
print("precisions", [f"{p:.2f}" for p in precisions], f"BLEU {bleu:.1f}")

# %% [markdown]
# BLEU belongs to whole corpora, where the counts of all sentences are added before anything is divided. It depends on
# how words are cut, so that numbers of different papers could not be compared until one program did it the same way
# for everybody {cite}`post2018`. We use that program. (Where no run of a length is shared, the formula gives 0; the
# program puts a small number in its place, so that single sentences still get a few points.) **chrF**
# {cite}`popovic2015` avoids words: runs of one to six characters, mean precision $P$, mean recall $R$, and an $F$ that,
# in the program, weighs recall double, so it also serves languages that write without spaces.

# %%
a, b = candidate.replace(" ", ""), reference_text.replace(" ", "")
shared = [(grams(a, n) & grams(b, n)).total() for n in range(1, 7)]
P = np.mean([s / grams(a, n).total() for n, s in enumerate(shared, 1)])
R = np.mean([s / grams(b, n).total() for n, s in enumerate(shared, 1)])
chrf = 100 * 5 * P * R / (4 * P + R)
assert math.isclose(chrf, sentence_chrf(candidate, [reference_text]).score, rel_tol=1e-6)
print(f"P {P:.3f}, R {R:.3f}, chrF {chrf:.1f}")

# %% [markdown]
# **ROUGE** {cite}`lin2004` was made for summaries. ROUGE-1 and ROUGE-2 count shared words and pairs. The R stands for
# recall; today, and here, the F1 is reported. ROUGE-L takes the longest sequence of words that both contain in the
# same order, gaps allowed.


# %%
def longest_common(x, y):
    """Length of the longest common subsequence, row by row."""
    row = [0] * (len(y) + 1)
    for item in x:
        new = [0]
        for j, other in enumerate(y):
            new.append(row[j] + 1 if item == other else max(row[j + 1], new[j]))
        row = new
    return row[-1]


length = longest_common(c, r)
rouge_l = 2 * length / (len(c) + len(r))
library = RougeScorer(["rougeL"]).score(reference_text, candidate)["rougeL"].fmeasure
assert math.isclose(rouge_l, library)
print(f"{length} words in the same order, ROUGE-L {rouge_l:.3f}")

# %% [markdown]
# ### Where they fail
#
# One reference, and seven candidates that a reader would judge at a glance.

# %%
right = "The committee did not approve the new budget on Friday."
tries = {
    "the same": right,
    "opposite": "The committee did approve the new budget on Friday.",
    "wrong day": "The committee did not approve the new budget on Monday.",
    "paraphrase": "On Friday the panel rejected the proposed spending plan.",
    "words shuffled": "Friday not the on budget did committee approve new the.",
    "too short": "The committee.",
    "everything": "The committee did not approve approve the new old budget plan on Friday Monday.",
}

# %% mystnb={"figure": {"name": "tab-ev-fail", "caption": "Seven candidates for one reference. The paraphrase says the same and comes out last or nearly so; the sentence that says the opposite is far ahead of it in all but exact match."}}
marked = {"exact match": metrics.exact_match, "token F1": metrics.token_f1}
marked |= {"BLEU": metrics.bleu, "chrF": metrics.chrf, "ROUGE-L": metrics.rouge}
table = [
    (label, *(metric([text], [right]).value for metric in marked.values()))
    for label, text in tries.items()
]
heads = ["candidate", *marked]
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt=("", ".0f", ".2f", ".0f", ".0f", ".2f")))

# %%
by_label = {row[0]: row[1:] for row in table}
for metric, opposite, paraphrase in zip(
    heads[1:], by_label["opposite"], by_label["paraphrase"], strict=True
):
    print(f"{metric:12} prefers the opposite to the paraphrase: {opposite > paraphrase}")

# %% [markdown]
# The metrics of {numref}`tab-ev-fail` are useful all the same: averaged over many texts, for systems of the same
# kind, they follow what people say about translations to some degree. They must not decide about single texts, about
# systems of different kinds, or about truth. And a metric that is optimised is soon beaten: for token F1 the shuffled
# words are perfect, and a candidate that names both days still gets 0.8. {ref}`ch-search` and {ref}`ch-writing` use
# these metrics, and beside each table they show texts.
#
# (sec-ev-search)=
# ## Searching hyperparameters, and its price
#
# Documents 0 and 4 adjust the "parameters" according to the evaluation. What is adjusted in this way are
# {term}`hyperparameters <hyperparameter>` ({ref}`err-optimisation`): what the training itself does not set. There are
# three honest ways to search and one dishonest way to report. The object is cheap, so that we can afford the search
# hundreds of times: a Kneser–Ney model of order 4 whose four discounts, one for each order, lie between 0 and 1.

# %%
ids = torch.tensor(units.encode(small))
counts = count(ids, 4, units.vocab_size)
choose_on = held[:40_000]


def block_prices(discounts):
    """Nats and bytes of every passage of 2,000 bytes under Kneser-Ney with these discounts."""
    s = evaluate.score(ngram.KneserNey(counts, list(map(float, discounts))), units, choose_on)
    return s.nats, s.bytes


start = time.perf_counter()
n_bytes = block_prices([0.5] * 4)[1]
trial = time.perf_counter() - start
pool = np.random.default_rng(0).uniform(0.05, 0.95, (96, 4))
grid = np.array(np.meshgrid(*[[0.25, 0.75]] * 4)).T.reshape(-1, 4)
prices_of = lambda settings: np.array([block_prices(s)[0] for s in settings]) / math.log(2)
random_bits, grid_bits = prices_of(pool), prices_of(grid)
bpb = lambda bits: bits.sum(-1) / n_bytes.sum()

# %% mystnb={"figure": {"name": "fig-ev-importance", "caption": "96 random settings: bits per byte against each of the four discounts. Only some of them matter."}, "image": {"alt": "Four scatter plots side by side. The price shows little trend with the discounts of orders 1 and 2 and clear valleys with those of orders 3 and 4."}}
for order, ax in enumerate(plots.panels(4, size=(7.4, 2.3))):
    ax.plot(pool[:, order], bpb(random_bits), ".")
    ax.set(xlabel=f"D of order {order + 1}", ylabel="" if order else "bits per byte")
squares = np.c_[np.ones(96), pool, pool**2]


def explained(columns):
    """Share of the variance that a parabola in some of the discounts explains."""
    y = bpb(random_bits)
    rest = y - squares[:, columns] @ np.linalg.lstsq(squares[:, columns], y, rcond=None)[0]
    return 1 - rest.var() / y.var()


print("variance explained by each:", [f"{explained([0, k, k + 4]):.1f}" for k in (1, 2, 3, 4)])

# %% [markdown]
# {numref}`fig-ev-importance` is typical: few hyperparameters matter, and one does not know beforehand which. A
# **grid** with two values for each of four takes sixteen trials, and tries two values of those that matter. Sixteen
# {term}`random <random search>` points try sixteen values of each, whichever matters {cite}`bergstra2012`.
# {term}`Successive halving <successive halving>` {cite}`jamieson2016` starts with many settings on little data, keeps
# the better half (here a quarter), and gives those more: with a quarter of the text for the first round, 32 settings
# cost as much as 8, and so on. Each method has the price of sixteen trials on the whole text. As random search and
# halving depend on the draw, we repeat them 200 times.

# %%
rng = np.random.default_rng(0)


def by_random(n=16):
    return bpb(random_bits[rng.choice(96, n, replace=False)]).min()


def by_halving():
    """32 settings on a quarter of the passages, the best 8 of them on all."""
    some = rng.choice(96, 32, replace=False)
    few = rng.choice(len(n_bytes), len(n_bytes) // 4, replace=False)
    kept = some[random_bits[some][:, few].sum(1).argsort()[:8]]
    return bpb(random_bits[kept]).min()


best = bpb(random_bits).min()
rows = [("grid, 2 values each", 16, bpb(grid_bits).min() - best, None)]
for name, method in (("random", by_random), ("successive halving", by_halving)):
    found = np.array([method() for _ in range(200)]) - best
    rows.append((name, 16, found.mean(), np.percentile(found, 95)))

# %% mystnb={"figure": {"name": "tab-ev-search", "caption": "Three searches at the price of sixteen trials: how far the result is above the best of all 96 random settings, in bits per byte; mean and 95th percentile over 200 repetitions."}}
heads = ["search", "trials' worth", "above the best, mean", "95 %"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=("", "", ".3f", ".3f")))

# %% [markdown]
# On average random points do a little better than the grid in {numref}`tab-ev-search`, and in one case of twenty a
# good deal worse: a search is an experiment with a seed of its own. Halving is ahead of both, because a quarter of the
# text is enough to see which settings are hopeless. Its risk does not occur here: a setting that starts slowly and
# ends well, such as a small learning rate, is thrown out in the first round.
#
# ### The best of many is too good
#
# The dishonest report is the validation score of the winner. It was chosen as the best of $k$, and so in part for its
# luck. To see it, take a choice with little in it: which ten plays out of 34 are drawn to count. Forty such models,
# and a validation set of eight passages drawn at random. What does the best of $k$ gain over the average model on the
# passages on which it was chosen, and what on all others?

# %%
rng = np.random.default_rng(0)
draws = [fitted([clips[i] for i in rng.choice(len(clips), 10, replace=False)]) for _ in range(40)]
equals = [evaluate.score(draw, units, held[:60_000]) for draw in draws]
equals = np.array([s.nats / s.bytes / math.log(2) for s in equals])  # models, passages


def best_of(k, n=8):
    """Gain of the best of k models over the average one: on n passages chosen by, and on the others."""
    passage = rng.permutation(equals.shape[1])
    some = equals[rng.choice(40, k, replace=False)]
    here, there = (equals[:, w].mean() - some[:, w].mean(1) for w in (passage[:n], passage[n:]))
    return here.max(), there[here.argmax()]


# %% mystnb={"figure": {"name": "fig-ev-bias", "caption": "The gain of the best of k models over the average one: as claimed by the validation passages it was chosen on, and as kept on other passages. Means over 1,000 draws."}, "image": {"alt": "Two lines over the number of models tried, from 1 to 40. The claimed gain rises above the kept gain, and the distance grows with the number of models."}}
tried = [1, 2, 5, 10, 20, 40]
gains = [np.mean([best_of(k) for _ in range(1000)], axis=0) for k in tried]
claimed, kept = zip(*gains, strict=True)
ax = plots.lines(tried, {"claimed": claimed, "kept": kept}, "models tried", "gain, bits per byte")
ax.set_xticks(tried)
print(f"best of 40: claimed {claimed[-1]:.3f}, kept {kept[-1]:.3f} bits per byte")

# %% [markdown]
# A good part of the claim in {numref}`fig-ev-bias` is gone on other passages, and the more models are tried, the more.
# What has been chosen on validation is reported on test, once. A model that is to be compared with another must have
# been given the same number of trials, or the comparison is one of patience. A new method with a hundred trials
# against a baseline with one has decided many a paper; LSTMs that were merely tuned with care have overtaken their
# successors {cite}`melis2018`. {cite}`cawley2010` measure how large the bias of selection can be.
#
# ### The price
#
# The price of a search is trials times the price of a trial.

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-ev-price", "caption": "What a search costs on this machine. The trial of counting was timed above; that of the GPT is the training time in its log."}}
trials = {"counting, order 4": trial, "the GPT of chapter 7": gpt_log[-1]["seconds"]}
span = lambda s: (
    f"{s:.2g} s" if s < 60 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"
)
rows = [(name, *(span(n * s) for n in (1, 16, 96, 3**4 * 5))) for name, s in trials.items()]
heads = ["model", "one trial", "16", "96", "grid of 3 values each, 5 folds"]
Markdown(tabulate(rows, heads, tablefmt="pipe"))

# %% [markdown]
# The last column is what cross-validated grid search means, the recipe of documents 0 and 4 taken together. For
# counting it is less than a minute. For a small network it is most of a day, and for a large language model it is out
# of the question; so those who train them search on small models and extrapolate ({ref}`ch-training`).
#
# (sec-ev-datasets)=
# ## The data sets of document 3
#
# Document 3 recommends IMDb, SQuAD and GLUE, and does not say what they are ({ref}`page-tools` has the addresses).
#
# ```{list-table} What document 3's data sets measure, and what stands in for them in this book.
# :name: tab-ev-sets
# :header-rows: 1
# :widths: 19 31 22 28
#
# * - data set
#   - what it measures
#   - metric, trap
#   - here
# * - IMDb {cite}`maas2011`
#   - is a film review positive or negative: 25,000 to train on, 25,000 to test
#   - accuracy; reviews of one film resemble each other
#   - sentences of film reviews {cite}`pang2005`, opt-in, their rights being unclear: {ref}`ch-bert`,
#     {ref}`ch-classification`
# * - SQuAD {cite}`rajpurkar2016`
#   - the answer to a question as a stretch of a Wikipedia paragraph: 100,000 questions
#   - exact match, token F1; questions were written while looking at the paragraph, so their words recur in it
#   - questions on Wikipedia passages and on capitals: {ref}`ch-finetuning`, {ref}`ch-search`
# * - GLUE {cite}`wang2018`
#   - nine tasks on sentences and pairs: grammar, sentiment, paraphrase, similarity, inference
#   - accuracy, F1, correlation, and the mean of all, which adds unlike things; saturated
#   - one of its nine, sentiment, has the same source as our reviews; the others have no stand-in here
# ```
#
# With a network and the library `datasets` they are loaded as below. The code is shown and not run, since this book
# runs without a network:
#
# ```python
# from datasets import load_dataset
#
# imdb = load_dataset("stanfordnlp/imdb")     # imdb["test"][0] -> {"text": ..., "label": 0 or 1}
# squad = load_dataset("rajpurkar/squad")     # {"context", "question", "answers": {"text", "answer_start"}}
# rte = load_dataset("nyu-mll/glue", "rte")   # {"sentence1", "sentence2", "label"}; test labels are withheld
#
# references = [answers["text"] for answers in squad["validation"]["answers"]]
# print(metrics.exact_match(predicted, references), metrics.token_f1(predicted, references))
# ```
#
# The last line is the function of this chapter; several references to a question are allowed, and the best one counts.
# The labels of GLUE's test parts are withheld, except for one task (MRPC). One sends predictions to a server, which
# limits how often; that is a technical answer to the problem of choosing on the test set.
#
# (sec-ev-ruler)=
# ## The whole book on one ruler
#
# Now the table that the book has been building. Every language model that was trained or loaded pays for the *same
# bytes*: ten passages each of the Shakespeare test plays and the Wikipedia test articles. Counting gets the training
# part of the text in question. The networks have read Shakespeare only. SmolLM2 has read the web, Wikipedia and
# Shakespeare most probably among it, so its row is marked. The compressors, which are language models in disguise
# ({ref}`ch-concepts`), get the training text first, so far as they can remember it: gzip looks back 32,768 bytes.

# %% tags=["nbval-ignore-output", "remove-output"]
lstm, _, _ = presets.trained("lstm")
mini, mini_units, _ = presets.trained("gpt2-mini")
assert units.tokens == mini_units.tokens  # one tokenizer for all networks of the book

# %%
tests = {"Shakespeare": shakespeare.text("test"), "Wikipedia": wikipedia.text("test")}
texts = {name: "\n\n".join(passages(text, 10, 500)) for name, text in tests.items()}
wiki_text = wikipedia.text("train")
wiki_units = BPE.train(wiki_text, 1024)
wiki_counting = counted(wiki_text, wiki_units, 6)
print({name: f"{len(text.encode()):,} bytes" for name, text in texts.items()})


class Uniform:
    """Every byte equally likely."""

    vocab_size, context = 256, 0

    def score(self, ids):
        return torch.full((1, ids.shape[1] - 1), -math.log(256))


class Mixture:
    """Two models of the same tokens, half and half."""

    def __init__(self, *models):
        self.models, self.vocab_size, self.context = models, models[0].vocab_size, 0

    def score(self, ids):
        paid = [evaluate.nll(model, ids[0]).double() for model in self.models]
        return torch.logaddexp(-paid[0], -paid[1])[None] - math.log(2)


# %%
def single(model):
    """The same counts, but of single tokens only."""
    return ngram.ModifiedKneserNey(replace(model.counts, tables=model.counts.tables[:1]))


spelled = BPE.train("", 257)
eight, four = quantise(model, 8), quantise(model, 4)
home = {
    "uniform": (Uniform(), spelled),
    "unigram": (single(counting), units),
    "counting, order 6": (counting, units),
    "LSTM": (lstm, units),
    "gpt2-mini": (mini, units),
    "GPT": (gpt, units),
    "GPT + counting": (Mixture(gpt, counting), units),
    "SmolLM2, 32 bits": (model, words),
    "SmolLM2, 8 bits": (eight, words),
    "SmolLM2, 4 bits": (four, words),
}

# %%
away = home | {
    "unigram": (single(wiki_counting), wiki_units),
    "counting, order 6": (wiki_counting, wiki_units),
}
for name in ("GPT + counting", "SmolLM2, 8 bits", "SmolLM2, 4 bits"):
    del away[
        name
    ]  # two kinds of tokens cannot be mixed; and one text will do for the rounded models


# %%
def size(model):
    """Numbers that a model stores, and the megabytes they take."""
    if isinstance(model, Mixture):
        return tuple(map(sum, zip(*map(size, model.models), strict=True)))
    if isinstance(model, torch.nn.Module):
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
        return sum(t.numel() for t in tensors), sum(t.nbytes for t in tensors) / 1e6
    tables = model.counts.tables if hasattr(model, "counts") else ()
    arrays = [array for t in tables for array in (t.keys, t.counts, t.suffixes, t.starts)]
    return sum(len(t.keys) for t in tables), sum(a.nbytes for a in arrays) / 1e6


results, seconds = {}, {}
with threads():
    for place, models in (("Shakespeare", home), ("Wikipedia", away)):
        for name, (one, cut) in models.items():
            context = 128 if one is lstm else min(one.context or 1024, 1024)
            start = time.perf_counter()
            results[name, place] = evaluate.score(one, cut, texts[place], context, block=250)
            seconds[name, place] = time.perf_counter() - start


# %%
def paid(name, place):
    """Bits per byte with their interval, and the paired difference to counting."""
    if (name, place) not in results:
        return "", ""
    s, bar = results[name, place], results["counting, order 6", place]
    gap = s.minus(bar)
    versus = "" if s is bar else f"{gap.value:+.2f} ± {(gap.high - gap.low) / 2:.2f}"
    return f"{metrics.Estimate(s.bits_per_byte, *s.interval)}", versus


learnt = {"Shakespeare": train_text, "Wikipedia": wiki_text}
pack = lambda how, place: evaluate.compressed(how, texts[place], learnt[place][-900_000:])


# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-ev-ruler", "caption": "The whole book on one ruler: bits per byte on the same bytes, with 95 % intervals over stretches of 250 bytes; the paired difference to counting; numbers stored (n-grams for counting), their memory, and seconds for a thousand bytes on this machine. Compressors have seen the end of the training text, as much of it as they remember. An asterisk: has probably read the test text."}}
rows = []
for name, (one, _) in home.items():
    memory = size(one)[1]
    numbers = size(model if "Smol" in name else one)[0]  # rounded weights are packed
    speed = 1000 * seconds[name, "Shakespeare"] / len(texts["Shakespeare"])
    cost = f"{numbers / 1e6:.1f} M", f"{memory:.0f} MB", f"{speed:.2f}"
    name_shown = name + "*" * name.startswith("Smol")
    rows.append((name_shown, *paid(name, "Shakespeare"), *paid(name, "Wikipedia"), *cost))
for name, how in (("gzip", gzip.compress), ("xz", lzma.compress)):
    shake, wiki = (f"{pack(how, place):.2f}" for place in texts)
    rows.append((name, shake, "", wiki, "", "", "", ""))
sides = [head for place in texts for head in (place, "minus counting")]
heads = ["model", *sides, "numbers", "memory", "s/kB"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %%
for place, models in (("Shakespeare", home), ("Wikipedia", away)):
    print(place, {name: f"{results[name, place].bits_per_byte:.1f}" for name in models})
versus = lambda name, place: results[name, place].minus(results["counting, order 6", place])
print("the mixture beats counting:", versus("GPT + counting", "Shakespeare").high < 0)
for place in texts:
    print(place, "SmolLM2 beats counting:", versus("SmolLM2, 32 bits", place).high < 0)

# %% [markdown]
# {numref}`tab-ev-ruler` can be read in three ways.
#
# *Down the plays.* Single tokens pay 3.7 bits. Of the general-purpose compressors xz lies half-way between them and
# counting; gzip, whose memory is short, does a little worse than single tokens. Our networks of minutes are level
# with counting (the GPT) or behind it (the LSTM, and the smaller recipe `gpt2-mini`), and store a fifth of the
# numbers. The mixture of counting and GPT is the best that this book has trained. SmolLM2 pays three quarters of
# counting's price here and half of it on Wikipedia, for thirty times the numbers of counting, and many tens of times
# the time of the GPT. The rows with 8 and 4 bits cost the same, and that says little about rounding: the file holds
# the layers in 4 bits already, the 32-bit model is those numbers unpacked ({ref}`ch-llm`), and rounding what is
# rounded changes next to nothing. It does save memory, though less than one would think, since the embedding table
# stays as it is. And it takes *longer* here: a long text is read at once, which these kernels are not made for
# ({ref}`sec-llm-speed`).
#
# *Across.* On Wikipedia the networks that have read only Shakespeare pay about as much as the plain frequencies of
# tokens in the right text. What a model has read counts for more than what it is. SmolLM2 has read both, perhaps
# these very bytes, and nobody can take its memory out of its score.
#
# *With the intervals.* Five thousand bytes cannot separate the GPT from counting; the 150,000 of {ref}`sec-ev-paired`
# could, by a hair. The excerpt is short because SmolLM2 is slow. So the rule about power holds for this table as well:
# it shows differences of a tenth of a bit and hides those of a hundredth.
#
# ## The answer
#
# *When can two numbers be compared?* When they are about the same bytes, all paid for, under one rule for the context,
# and neither model has read them. *How sure are we of the difference?* As sure as the paired interval over passages or
# questions says, provided that the question was asked once and the choices were made elsewhere; in our example pairs
# made the error three times smaller, and a hundred examples would have missed two points nine times in ten. *What do
# the numbers leave out?* Whether probabilities mean what they say, whether people would agree, how another wording
# would have come out, and, for every metric of text, what the text says.
#
# Document 0 hopes for better evaluation in the future. Permutations, McNemar's test, kappa and the model of Bradley
# and Terry are older than language models on computers. What is missing in practice is rarely a method.
#
# ## What we learnt
#
# - Perplexity is a price per token. Across tokenizers only prices per byte compare, and only with all bytes paid for.
# - A model has no perplexity; a model, a tokenizer, a window rule and a text have one.
# - A single planted copy makes a passage cheap. Overlap finds copies; the price also finds what has been disguised.
# - Cross-validation has to fold where the future is cut from the past, and costs as many trainings as folds.
# - Compare in pairs. Permutation, McNemar and the paired bootstrap are one idea; power is computed before the test.
# - Calibration is a property of its own, visible in a diagram, and repaired by one number fitted on held-out text.
# - People are an instrument: check their agreement, model their preferences, compute how many judgements it takes.
# - The wording of a prompt is part of the model that is measured. What is chosen on the test set is too good.
# - BLEU, chrF, ROUGE and F1 compare strings. They prefer the opposite of a sentence to its paraphrase.
# - Random search beats a grid of the same price where few settings matter; the best validation score is never the
#   report.
#
# ## Exercises
#
# ```{exercise} Holm's rule
# :label: ex-ev-holm
#
# Given p-values, Holm's rule {cite}`holm1979` goes through them from the smallest up. With $m$ tests, the $k$-th
# smallest ($k = 1, 2, \dots$) is significant if it is at most $\alpha / (m - k + 1)$ *and* all smaller ones are. Write
# `holm(p, alpha)`: a list of True and False in the order of `p`.
# ```


# %% tags=["exercise"]
def holm(p, alpha=0.05):
    """Which of the p-values are significant when the chance of any false alarm is to be alpha."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def holm(p, alpha=0.05):
    """Which of the p-values are significant when the chance of any false alarm is to be alpha."""
    order, passed = sorted(range(len(p)), key=p.__getitem__), [False] * len(p)
    for place, i in enumerate(order):
        if p[i] > alpha / (len(p) - place):
            break
        passed[i] = True
    return passed


# %% tags=["check"]
assert holm([0.01, 0.04, 0.02], 0.05) == [True, True, True], (
    "0.01 <= 0.05/3, 0.02 <= 0.05/2, 0.04 <= 0.05"
)
assert holm([0.04, 0.03, 0.026], 0.05) == [False] * 3, "the smallest fails, so all do"
assert holm([0.3, 0.001, 0.024], 0.05) == [False, True, True]
assert holm([0.022, 0.01, 0.04, 0.02]) == [False, True, False, False], "after 0.02 fails, all do"
assert holm([0.01, 0.01]) == [True] * 2 and holm([0.03, 0.03]) == [False] * 2, "of equal p-values"
assert holm([0.05], 0.05) == [True] and holm([0.04], 0.01) == [False] and holm([], 0.05) == []
rows = np.random.default_rng(0).random((2000, 8)).tolist()
false_alarms = np.mean([any(holm(row, 0.05)) for row in rows])
assert 0.03 < false_alarms < 0.07
print("eight tests of nothing: a false alarm in about 5 % of cases")

# %% [markdown]
# ```{exercise} Kappa for more than two classes
# :label: ex-ev-kappa
#
# Write `kappa(a, b)` for two lists of labels of any kind, one label of each annotator for each item. Two annotators who
# use one and the same label throughout agree completely, and kappa is 0 / 0; return 1.0 for them.
# ```


# %% tags=["exercise"]
def kappa(a, b):
    """Cohen's kappa of two lists of labels."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def kappa(a, b):
    """Cohen's kappa of two lists of labels."""
    agreement = sum(x == y for x, y in zip(a, b, strict=True)) / len(a)
    first, second = Counter(a), Counter(b)
    by_chance = sum(first[label] * second[label] for label in first) / len(a) ** 2
    return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0


# %% tags=["check"]
rng = np.random.default_rng(0)
for classes in (2, 3, 5):
    a = rng.integers(0, classes, 60).tolist()
    b = [x if rng.random() < 0.6 else int(rng.integers(0, classes)) for x in a]
    assert math.isclose(kappa(a, b), cohen_kappa_score(a, b))
assert kappa(list("xy"), list("yx")) == -1 and kappa(list("xxx"), list("xxx")) == 1.0
assert kappa(list("xx"), list("yy")) == 0, "two who never vary, and never agree"
assert kappa(list("xxxx"), list("xxyx")) == 0, "one who never varies agrees by chance"
print("equal to scikit-learn")

# %% [markdown]
# ```{exercise} How many examples
# :label: ex-ev-examples
#
# Write `examples(delta, disagree, power=0.8)`: how many examples a paired comparison needs by {eq}`eq-ev-power`,
# rounded up, to see a difference `delta` between models that disagree on a share `disagree` of them, at the 5 % level
# (two-sided).
# ```


# %% tags=["exercise"]
def examples(delta, disagree, power=0.8):
    """Examples needed for a paired comparison."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def examples(delta, disagree, power=0.8):
    """Examples needed for a paired comparison."""
    quantiles = norm.ppf(0.975) + norm.ppf(power)
    return math.ceil(quantiles**2 * (disagree - delta**2) / delta**2)


# %% tags=["check"]
assert examples(0.02, 0.1) == math.ceil(in_pairs), "the case of the text"
assert examples(0.01, 0.1) > 3.9 * examples(0.02, 0.1), (
    "half the difference, four times the examples"
)
assert examples(0.02, 0.2) > 1.9 * examples(0.02, 0.1), "pairs that disagree are noise"
assert examples(0.05, 0.1, power=0.95) > examples(0.05, 0.1)
n = examples(0.06, 0.12)
assert abs(power(n, 0.03, 0.09, 1000) - 0.8) < 0.1, "McNemar's test on as many examples"
print(f"2 points, disagreement 10 %: {examples(0.02, 0.1):,} examples")

# %% [markdown]
# ```{exercise} The price of a wrong confidence
# :label: ex-ev-proper
#
# An event has probability $q$, a model says $p$. Write `expected(q, p)`: the pair of the expected logarithmic score
# $-q \log p - (1-q) \log(1-p)$ in nats and the expected Brier score $q (1-p)^2 + (1-q) p^2$. Both are proper: for
# every $q$ the best $p$ is $q$. The absolute error $|p - y|$ is not; say what it would reward.
# ```


# %% tags=["exercise"]
def expected(q, p):
    """Expected logarithmic and Brier score of saying p where the truth is q."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def expected(q, p):
    """Expected logarithmic and Brier score of saying p where the truth is q."""
    return -q * np.log(p) - (1 - q) * np.log(1 - p), q * (1 - p) ** 2 + (1 - q) * p**2


# %% tags=["check"]
said = np.linspace(0.01, 0.99, 99)
for q in (0.1, 0.35, 0.8):
    for expectation in zip(*(expected(q, float(p)) for p in said), strict=True):
        assert abs(said[int(np.argmin(expectation))] - q) < 1e-9, "the truth is the best answer"
outcomes = np.random.default_rng(0).random(200_000) < 0.3
assert (
    abs(expected(0.3, 0.6)[1] - metrics.brier(np.full(200_000, 0.6)[:1000], outcomes[:1000]).value)
    < 0.03
)
assert math.isclose(expected(0.5, 0.5)[0], math.log(2)) and expected(1.0, 0.5)[1] == 0.25
absolute = [0.35 * (1 - p) + 0.65 * p for p in said]
print(f"q = 0.35: the absolute error is least at p = {said[int(np.argmin(absolute))]:.2f}")

# %% [markdown]
# ## Further reading
#
# - Efron and Tibshirani {cite}`efron1993`: the bootstrap and permutation tests, from first principles.
# - Dror and colleagues {cite}`dror2018`: which significance test for which task of language processing. Card and
#   colleagues {cite}`card2020`: how many published comparisons could have seen what they report.
# - Guo and colleagues {cite}`guo2017` on the calibration of networks, Achiam and colleagues {cite}`achiam2023` with a
#   diagram before and after tuning.
# - Post {cite}`post2018`: why BLEU scores could not be compared, in a few pages.
# - Bergstra and Bengio {cite}`bergstra2012` on random search, Cawley and Talbot {cite}`cawley2010` on the bias of
#   selection.
# - Liang and colleagues {cite}`liang2023`: many models, many tasks and many measures, with the prompts.
# - Chiang and colleagues {cite}`chiang2024` rank chat systems by pairs; Zheng and colleagues {cite}`zheng2023` let a
#   model judge, and list its prejudices.
