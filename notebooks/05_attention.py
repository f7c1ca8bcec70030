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
# (ch-attention)=
# # Attention: looking back
#
# **How can a model look back at any token it has read, and what does the look cost?**
#
# *About three minutes on two cores. You need {ref}`ch-concepts` for the {term}`cross-entropy`. {ref}`ch-ngram` and
# {ref}`ch-rnn` show the two problems that this chapter solves.*
#
# An {term}`n-gram` model looks at the last $n-1$ tokens and at nothing else. A recurrent network reads everything, but
# what it has read must fit into one vector of fixed size, overwritten at every step. Both lose the beginning of a
# long sentence: the first by decree, the second by wear.
#
# {term}`Attention` keeps all of it. Every token that was read stays where it is, and each position decides anew which
# of them to look at. It was introduced to let a translation system look back at the source sentence
# {cite}`bahdanau2015`, and became, two years later, the only way by which the positions of a Transformer
# communicate {cite}`vaswani2017`.
#
# The plan:
#
# 1. a look-up that need not match exactly, as one formula, and the formula as three matrices;
# 2. its parts, each derived and measured: the {term}`softmax`, the square root, the mask, the heads;
# 3. the formula as one of the five essays prints it, and what that one computes;
# 4. what attention cannot see, namely order, and four ways to show it;
# 5. the gradient, on paper and in code;
# 6. a tiny model that learns to look something up, and a look at how it does it;
# 7. the bill: operations, memory, seconds.

# %%
import copy
import math
from time import perf_counter

import torch
import torch.nn.functional as F
from IPython.display import Markdown
from tabulate import tabulate
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from minilm import plots
from minilm.attention import Attention, KVCache, attention, attention_weights, causal_mask
from minilm.layers import EPS, rotary_table, rotate, sinusoids

plots.use_style()
torch.set_default_dtype(torch.float64)  # so that every machine prints the same digits


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# %% [markdown]
# (sec-at-lookup)=
# ## A look-up that need not match
#
# A Python dictionary is a memory of pairs. You bring a *query*; the dictionary finds the {term}`key` that
# equals it, and returns the *value* stored there. If no key is equal you get an error.
#
# Language rarely offers equal keys. We want a look-up that returns something sensible when the query falls *between*
# keys, and that has a gradient, so that it can be learnt. Statistics has had one since 1964. To guess $y$ at a place
# $x$ where nothing was measured, average all measured $y_i$, and give those with a near $x_i$ more weight:
#
# $$
# \hat y(x) = \sum_i \frac{\kappa(x, x_i)}{\sum_j \kappa(x, x_j)} \; y_i, \qquad
# \kappa(x, x_i) = e^{-(x - x_i)^2 / 2 h^2}.
# $$ (eq-at-kernel)
#
# This is the estimator of Nadaraya and Watson {cite}`nadaraya1964,watson1964`, or *kernel smoothing*. The width $h$
# says how near is near. Here it is at work on forty noisy measurements of a sine.


# %%
def smooth(x, xs, ys, h):
    weights = torch.exp(-((x[:, None] - xs) ** 2) / (2 * h**2))
    return weights / weights.sum(1, keepdim=True) @ ys


xs = 2 * math.pi * torch.rand(40, generator=torch.Generator().manual_seed(0))
ys = xs.sin() + 0.3 * normal(40)
x = torch.linspace(0, 2 * math.pi, 121)

# %% mystnb={"figure": {"name": "fig-at-kernel", "caption": "Kernel smoothing of forty noisy measurements (dots) with three widths h. A narrow kernel repeats its nearest neighbour, a wide one answers with the mean whatever the question."}, "image": {"alt": "Dots scattered around one period of a sine. The curve for width 0.05 jumps from dot to dot, the one for 0.4 follows the sine closely, the one for 5 is nearly a flat line."}}
curves = {f"h = {h}": smooth(x, xs, ys, h) for h in (0.05, 0.4, 5)}
plots.lines(x, curves, "x", "y").plot(xs, ys, "k.", alpha=0.5)
for name, curve in curves.items():
    print(name, f"off the sine by {(curve - x.sin()).square().mean().sqrt():.2f} on average")

# %% [markdown]
# The two bad curves of {numref}`fig-at-kernel` are the two ends of a scale. As $h \to 0$ all weight falls on the
# nearest key: the dictionary. As $h \to \infty$ the weights become equal: the mean of everything, in language a bag
# of words. In between lies a look-up that generalises.
#
# The weights of {eq}`eq-at-kernel` are a softmax, for $\kappa$ is an exponential. Multiply out the square:
# $-(x - x_i)^2 / 2h^2 = (x\,x_i - \tfrac12 x_i^2) / h^2 - x^2/2h^2$. The last term is the same for all $i$, so it
# cancels in the fraction. What remains is a scalar product of a vector made from $x$ alone with a vector made from
# $x_i$ alone,
#
# $$
# q = \bigl(x, -\tfrac12\bigr) / h^2, \qquad k_i = \bigl(x_i, x_i^2\bigr),
# $$
#
# and kernel smoothing is *exactly* what this chapter is about: a softmax over scalar products of a query with keys,
# used to average values. (`attention` divides the products by $\sqrt 2$, for a reason to come, so we multiply first.)

# %%
h = 0.4
q = torch.stack([x, torch.full_like(x, -0.5)], 1) / h**2 * 2**0.5
k = torch.stack([xs, xs**2], 1)
assert_close(attention(q, k, ys[:, None])[:, 0], smooth(x, xs, ys, h))
print("attention is kernel smoothing:", tuple(q.shape), "queries,", tuple(k.shape), "keys")

# %% [markdown]
# What attention adds is that nobody has to choose the kernel. Queries and keys are *learnt* functions of the tokens;
# training decides what counts as near {cite}`tsai2019`.
#
# (sec-at-qkv)=
# ## Queries, keys, values
#
# Let $x_1, \dots, x_T$ be the vectors of $T$ tokens, each of width $d$, the rows of a matrix $X$. Every token plays
# three parts. It *asks* with a query, it is *found* by a key, and it *answers* with a value:
#
# $$
# Q = X W^Q, \qquad K = X W^K, \qquad V = X W^V .
# $$ (eq-at-qkv)
#
# The $W$ are {term}`parameters <parameter>`. Rows $q_t$ and $k_s$ have $d_k$ entries, rows $v_s$ may have any
# number. Then
#
# $$
# A = \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt{d_k}}\Bigr), \qquad \operatorname{Attention}(Q, K, V) = A V,
# $$ (eq-at-attention)
#
# with the softmax taken in each row. Row $t$ of $A$ is a probability distribution: how position $t$ spreads its
# attention over all positions $s$. This is {term}`self-attention`, since the same tokens ask and answer. Where the
# questions come from one sequence and the answers from another, as in translation, it is called *cross-attention*.
#
# An example to do by hand. Three tokens, *cat sat it*, and the question that "it" asks: which noun came before? We
# choose vectors of two entries, the first meaning "noun", the second "verb". The values carry what a reader would
# want to know: "is an animal" and "is an action".

# %%
words = ["cat", "sat", "it"]
keys = torch.tensor([[1.5, 0.0], [0.0, 1.0], [0.5, 0.5]])
values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
query = torch.tensor([2.0, 0.0])  # "it" looks for nouns
scores = keys @ query / 2**0.5
weights = scores.exp() / scores.exp().sum()
for word, score, weight in zip(words, scores, weights, strict=True):
    print(f"{word}: score {score:.3f}, weight {weight:.3f}")
print("answer:", (weights @ values).round(decimals=3).tolist())

# %% [markdown]
# Most of the answer is the animal. A little of it is the action, because a softmax never gives a weight of exactly
# zero. For a whole sequence, the loop over queries is the definition; the matrix form {eq}`eq-at-attention`, PyTorch's
# kernel `scaled_dot_product_attention`, and the function of this book, all have to agree with it.


# %%
def attention_by_loops(Q, K, V):
    rows = []
    for q in Q:
        e = [math.exp(q @ k / math.sqrt(len(q))) for k in K]
        rows.append(sum(e_s / sum(e) * v for e_s, v in zip(e, V, strict=True)))
    return torch.stack(rows)


X = normal(6, 4)
WQ, WK, WV = normal(3, 4, 4, seed=1)
Q, K, V = X @ WQ, X @ WK, X @ WV
Y = attention_by_loops(Q, K, V)
assert_close((Q @ K.T / 2).softmax(-1) @ V, Y)
assert_close(attention(Q, K, V), Y)
assert_close(F.scaled_dot_product_attention(Q, K, V), Y)
print("loops = matrices = minilm = torch, for", tuple(Y.shape))

# %% [markdown]
# Three corrections to what the five essays say about {eq}`eq-at-attention`.
#
# *$K$ is a key as in a table, not a secret.* Two of the documents translate it as 密钥, a cryptographic key
# ({ref}`err-qkv-name`). And $Q, K, V$ are matrices; the vectors are their rows.
#
# *The weights are applied to the values, and to nothing else.* Document 0 applies them "to the query, key and value"
# ({ref}`err-qkv-weights`). Queries and keys make $A$ and are then forgotten. You can check it in the formula: no
# change of $Q$ and $K$ that leaves $A$ as it is can change the output. Multiply the queries by an invertible matrix
# and the keys by its inverse transposed:

# %%
M = normal(4, 4, seed=2)
assert_close(attention(Q @ M, K @ torch.linalg.inv(M).T, V), Y)
print("other queries, other keys, the same A, the same answer")

# %% [markdown]
# *What is averaged is not the hidden states, and not only those of the other words.* Document 1 writes
# $\operatorname{Attention}(h, h, h)$: no projections, so that queries, keys and values are all the hidden state itself
# ({ref}`err-values`). What would be lost?
#
# ```{prf:theorem} Without projections every token looks at itself
# :label: thm-at-self
# Let $Q = K = X$ with rows of equal length. Then no weight in row $t$ of $A$ is larger than $A_{tt}$, and the scores
# are symmetric: $t$ finds $s$ exactly as interesting as $s$ finds $t$.
# ```
#
# ```{prf:proof}
# By the inequality of Cauchy and Schwarz $x_t \cdot x_s \le \lVert x_t \rVert \lVert x_s \rVert = x_t \cdot x_t$, and
# the softmax keeps the order of the scores. Symmetry is that of the scalar product.
# ```
#
# Rows do have nearly equal lengths, because the layers that feed attention normalise them ({ref}`ch-transformer`). An
# adjective that looks for its noun, or a second bracket that looks for the first, needs a query unlike its own key.


# %%
def self_lookers(A):
    return (A.argmax(-1) == torch.arange(A.shape[-1])).double().mean().item()


many = F.normalize(normal(200, 16, 32), dim=-1) * 32**0.5  # 200 sequences of 16 tokens
q, k = many @ (normal(2, 1, 32, 32, seed=1) / 32**0.5)
print(f"no projections: {self_lookers(attention_weights(many, many)):.3f} look at themselves most")
print(f"projections:    {self_lookers(attention_weights(q, k)):.3f}, by chance {1 / 16:.3f}")


# %% [markdown]
# (sec-at-softmax)=
# ## The softmax and its Jacobian
#
# The softmax turns any scores $z$ into a distribution $p$:
#
# $$
# p_i = \frac{e^{z_i}}{\sum_j e^{z_j}} .
# $$ (eq-at-softmax)
#
# Adding the same number to all scores changes nothing, for it cancels. Implementations use this: they subtract the
# largest score first, so that no exponential overflows. Multiplying all scores by a number $s$ does change the
# result. With $s > 1$ it sharpens the distribution, as a small {term}`temperature` $1/s$ does; with $s$ between 0 and
# 1 it flattens it.

# %%
z = torch.tensor([1.0, 2.0, 3.0])
assert_close((z + 1000).softmax(0), z.softmax(0))
print("naive:", (z + 1000).exp() / (z + 1000).exp().sum())
for s in (0.0, 1.0, 5.0):
    print(f"scores times {s}:", [round(p, 3) for p in (s * z).softmax(0).tolist()])

# %% [markdown]
# How does $p$ respond when one score moves? Take the logarithm, $\log p_i = z_i - \log \sum_k e^{z_k}$. Its derivative
# by $z_j$ is $\delta_{ij} - p_j$, where $\delta_{ij}$ is one if $i = j$ and zero otherwise. Since
# $\partial p_i = p_i \, \partial \log p_i$,
#
# $$
# J_{ij} = \frac{\partial p_i}{\partial z_j} = p_i (\delta_{ij} - p_j), \qquad
# J = \operatorname{diag}(p) - p\, p^\top .
# $$ (eq-at-jacobian)
#
# A derivation is a claim, and this one can be tested twice: against automatic differentiation, and against the
# definition of the derivative with a small step.


# %%
def jacobian(p):
    return torch.diag(p) - torch.outer(p, p)


z = normal(5)
J, step = jacobian(z.softmax(0)), 1e-5
assert_close(J, torch.autograd.functional.jacobian(lambda z: z.softmax(0), z))
steps = step * torch.eye(5)
by_differences = ((z + steps).softmax(1) - (z - steps).softmax(1)).T / (2 * step)
assert_close(J, by_differences, atol=1e-9, rtol=0)
print("row sums:", J.sum(1).abs().max().item() < 1e-15)
print("smallest eigenvalue is 0:", torch.linalg.eigvalsh(J)[0].abs().item() < 1e-15)

# %% [markdown]
# Three readings of {eq}`eq-at-jacobian`.
#
# - The rows sum to zero: what one token gains in attention, the others lose. The direction $(1, \dots, 1)$ is the
#   shift that changes nothing.
# - $J$ is the covariance matrix of a one-hot vector drawn from $p$. So it is symmetric, and no eigenvalue is negative.
# - If $p$ is one-hot, $J = 0$. Inside a network a softmax that is *certain* passes no gradient. It cannot learn that it
#   was wrong. (At the output the logarithm of the loss repairs this: the gradient there is model minus text,
#   {ref}`sec-rnn-softmax`.)
#
# The last point is the important one. {numref}`fig-at-saturation` shows it for sixteen scores drawn from a normal
# distribution and multiplied by $s$.

# %% mystnb={"figure": {"name": "fig-at-saturation", "caption": "Sixteen random scores multiplied by s. The largest weight rises towards one. The largest eigenvalue of the softmax Jacobian, the most that any change of the scores can achieve, rises at first and then falls towards zero. Means of 200 draws."}, "image": {"alt": "Two curves over the scale of the scores from 0.1 to 100, logarithmic. The largest weight rises from 0.07 to nearly 1. The largest eigenvalue of the Jacobian starts at 0.07, is highest, above 0.2, between scales 1 and 10, and falls to 0.02 at scale 100."}}
scales = torch.logspace(-1, 2, 25)
p = (scales[:, None, None] * normal(200, 16)).softmax(-1)
J = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
largest = {
    "largest weight": p.amax(-1),
    "largest eigenvalue of J": torch.linalg.eigvalsh(J)[..., -1],
}
curves = {name: values.mean(1) for name, values in largest.items()}
plots.lines(scales, curves, "scale s of the scores", "", log="x")
for name, curve in curves.items():
    print(
        f"{name:24}",
        "at s = 0.1, 1, 10, 100:",
        [round(v, 3) for v in curve[[0, 8, 16, 24]].tolist()],
    )

# %% [markdown]
# (sec-at-root)=
# ## Why the square root
#
# Now the $\sqrt{d_k}$ of {eq}`eq-at-attention`. Let the entries of a query and a key be independent, with mean 0 and
# variance 1. (That is an assumption: how large they really are when a layer starts out, its first weights decide,
# {ref}`sec-tf-init`.) Each product $q_i k_i$ has mean $\mathrm{E}[q_i]\,\mathrm{E}[k_i] = 0$ and variance
# $\mathrm{E}[q_i^2]\,\mathrm{E}[k_i^2] = 1$. A sum of $d_k$ independent terms adds up their variances:
#
# $$
# \operatorname{Var}(q \cdot k) = \sum_{i=1}^{d_k} \operatorname{Var}(q_i k_i) = d_k .
# $$ (eq-at-variance)
#
# So the scores of a head of width 64 have a standard deviation of 8, and those of width 1,024 one of 32.
# {numref}`fig-at-saturation` says what happens there: before the first training step one token has most of the
# weight, chosen by chance, and the gradient that could correct it has shrunk. Dividing by $\sqrt{d_k}$ gives every
# width a variance of one. We measure all three quantities, for 16 keys.

# %% mystnb={"figure": {"name": "fig-at-root", "caption": "Random queries and keys of width d, 16 keys, 400 draws. Left: the largest weight. Right: the mean size of the softmax Jacobian (Frobenius norm). Without the root, one key takes most of the weight as the width grows, and the Jacobian shrinks: to three fifths at width 64, to a fifth at width 1,024."}, "image": {"alt": "Two charts over width 1 to 1024. With the root both curves are flat: largest weight about 0.25, Jacobian norm about 0.3. Without it the largest weight climbs to 0.96 and the Jacobian norm falls to 0.06."}}
widths, sizes, tops = [1, 4, 16, 64, 256, 1024], {}, {}
for name, power in {"divided by the root": 0.5, "as they are": 0.0}.items():
    sizes[name], tops[name] = [], []
    for d in widths:
        raw = torch.einsum("nd,nsd->ns", normal(400, d), normal(400, 16, d, seed=1))
        p = (raw / d**power).softmax(-1)
        tops[name].append(p.amax(-1).mean().item())
        norm = (p.square().sum(-1) - 2 * p.pow(3).sum(-1) + p.square().sum(-1) ** 2).clamp(0).sqrt()
        sizes[name].append(norm.mean().item())
    print(
        f"{name:20} largest weight",
        [round(t, 2) for t in tops[name]],
        "| J",
        [round(s, 2) for s in sizes[name]],
    )
charts = {"largest weight": tops, "size of the Jacobian": sizes}
for (label, series), ax in zip(charts.items(), plots.panels(2, (8.4, 3.2), False), strict=True):
    plots.lines(widths, series, "width d", label, log="x", ax=ax)


# %% [markdown]
# (The one-line norm uses $\lVert \operatorname{diag}(p) - pp^\top \rVert^2 = \sum p_i^2 - 2 \sum p_i^3 + (\sum
# p_i^2)^2$, which saves building the matrices.) And {eq}`eq-at-variance` itself:

# %%
for d in (4, 64, 1024):
    raw = (normal(5000, d) * normal(5000, d, seed=1)).sum(1)
    before, after = raw.var() / d, (raw / d**0.5).var()
    print(f"d = {d:4}: variance of q·k is {before:.2f} d, and {after:.2f} after the root")


# %% [markdown]
# The argument speaks of independent entries. During training queries and keys stop being independent, which is the
# purpose of training, and then scores may grow with $d_k$ or with time. Some newer models therefore also normalise each
# query and key {cite}`henry2020`. In our layer (`qk_norm`) this bounds the scores by $\sqrt{d_k}$; where the norm has a
# learnt gain, as in most models, the gain moves the bound.
#
# (sec-at-printed)=
# ## The formula of document 2
#
# Document 2 prints, as "a simplified Transformer model",
#
# $$
# \operatorname{Attention}(Q, K, V) = \operatorname{softmax}\Bigl(\frac{Q K^\top}{\sqrt{d_k}}\Bigr) W^V .
# $$ (eq-at-printed)
#
# The left side mentions $V$; the right side does not. Since the book promises to run what the essays print, we run it.


# %%
def printed(Q, K, WV):
    return attention_weights(Q, K) @ WV


try:
    printed(Q, K, WV)
except RuntimeError as error:
    print("T = 6, d = 4:", error)

# %% [markdown]
# The weights are $T \times T$ and $W^V$ has $d$ rows, so the product exists only if the text happens to have as many
# tokens as the vectors have entries. Give it such a text, and it runs. That is worse.

# %%
short = X[:4]
out = printed(short @ WQ, short @ WK, WV)
mix = attention_weights(short @ WQ, short @ WK)
assert_close(out, torch.stack([sum(mix[t, s] * WV[s] for s in range(4)) for t in range(4)]))
assert_close(attention(short @ WQ, short @ WK, short @ WV), mix @ short @ WV)
print("T = d = 4: runs, and averages the rows of a weight matrix")

# %% [markdown]
# Row $t$ of the result is an average of the rows of $W^V$: of *parameters*. The token at position $s$ contributes row
# number $s$ of the matrix, the same whichever token it is. The text decides how the rows are mixed but is itself
# nowhere in the mixture. In the correct formula, $AV = A X W^V$, the text stands between the two.
#
# How much does it matter? Take the purest task there is: sixteen tokens, and a question: which token stands at
# position $p$? The token's vector tells its identity and its position, queries are made from $p$. Both formulas get
# the same parameters and 400 training steps; we ask about sequences neither has seen.

# %%
n_tokens = vocab_size = 16


class LookUp(nn.Module):
    def __init__(self, as_printed):
        super().__init__()
        self.as_printed = as_printed
        self.ask, self.key = nn.Embedding(16, 16), nn.Linear(32, 16, bias=False)
        self.value = nn.Parameter(torch.randn(32, 16) / 4)  # rows for positions, then for tokens

    def forward(self, ids, asked):
        place = torch.eye(n_tokens).expand(len(ids), -1, -1)
        X = torch.cat([place, F.one_hot(ids, vocab_size).to(place)], -1)
        A = attention_weights(self.ask(asked)[:, None], self.key(X))[:, 0]
        return A @ self.value[:n_tokens] if self.as_printed else (A[:, None] @ X @ self.value)[:, 0]


def questions(n, seed):
    generator = torch.Generator().manual_seed(seed)
    ids, asked = (torch.randint(16, shape, generator=generator) for shape in ((n, n_tokens), (n,)))
    return ids, asked, ids[torch.arange(n), asked]


# %%
def accuracy_of(as_printed, seed):
    torch.manual_seed(seed)
    model = LookUp(as_printed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0)
    for step in range(400):
        ids, asked, answer = questions(64, 1000 * seed + step)
        loss = F.cross_entropy(model(ids, asked), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids, asked, answer = questions(4000, 999_999)
    return (model(ids, asked).argmax(-1) == answer).double().mean().item()


for name, as_printed in {"A V": False, "A W^V, as printed": True}.items():
    results = [accuracy_of(as_printed, seed) for seed in range(3)]
    print(f"{name:18}", [f"{r:.2f}" for r in results])
print(f"{'by chance':18} {1 / vocab_size:.2f}")

# %% [markdown]
# With $AV$ the model answers every question. With the printed formula it answers about one in seven, against one in
# sixteen by guessing. What it averages are parameters, so a token can show itself only through the *weights*, by
# making its place count a little more or a little less. Training finds this narrow channel, and it is not enough.
#
# The correction is {ref}`err-wv`: $W^V$ belongs one step earlier, in $V = X W^V$. The simpler formula of document 0 is
# right as it stands.
#
# (sec-at-masks)=
# ## Masks
#
# A {term}`language model` predicts each token from the ones before it. All positions are computed at once, so nothing
# but a rule prevents position $t$ from looking at position $t + 1$, which holds the answer. The rule is a
# {term}`causal mask`: where $s > t$, the score is set to $-\infty$ before the softmax, so that the weight is
# $e^{-\infty} = 0$ and the rest of the row still sums to one.

# %%
A = attention_weights(Q[:4], K[:4], causal_mask(4, 4))
for row in A:
    print(" ".join(f"{a:.2f}" for a in row))

# %% [markdown]
# Masking after the softmax would be wrong: the rows would no longer sum to one, and hidden tokens would leave a trace
# in the sum. With the mask in the right place, row $t$ is *exactly* what it would be had the text stopped at $t$.
# This makes training efficient: one pass over $T$ tokens is $T$ predictions, each from its own history.

# %%
masked = attention(Q, K, V, causal_mask(6, 6))
for t in range(6):
    assert_close(masked[t], attention(Q[t : t + 1], K[: t + 1], V[: t + 1])[0])
assert_close(masked, F.scaled_dot_product_attention(Q, K, V, is_causal=True))
print("row t knows tokens 1 to t and nothing else")

# %% [markdown]
# The second common mask hides *padding*. Texts of different lengths are filled up to one rectangle, and the filling
# must not answer. There the mask says the same for every query: key $s$ is real or it is not. Whatever stands in a
# hidden place, even a million, changes nothing.

# %%
real = torch.tensor([True, True, True, True, False, False])
noise = torch.where(real[:, None], X, 1e6)
padded = attention(X @ WQ, noise @ WK, noise @ WV, real[None])
assert_close(padded, attention(X @ WQ, X[:4] @ WK, X[:4] @ WV))
print("two rows of padding changed nothing")

# %% [markdown]
# None of the five documents mentions the causal mask ({ref}`err-mask`), though four of them explain how text is
# generated. What would happen without it? To find out we need a model. Here is the smallest that deserves the name:
# an {term}`embedding`, layers of attention whose results are added to what is there, and a linear layer that turns
# the last vectors into {term}`logits`. It has nothing of a Transformer but attention (and a norm, which keeps the
# numbers tame). {ref}`ch-transformer` adds the rest. `Attention` is the layer of `minilm`: {eq}`eq-at-qkv`,
# {eq}`eq-at-attention` and the heads of the next section. The four kinds of positions are explained after that.


# %%
class AttentionOnly(nn.Module):
    def __init__(self, vocab_size, outputs, n_layers=1, n_heads=2, d_model=32, positions="rotary"):
        super().__init__()
        self.positions, self.embedding = positions, nn.Embedding(vocab_size, d_model)
        self.place = nn.Embedding(128, d_model)  # used by learned positions only
        layers = (Attention(d_model, n_heads, bias=False) for _ in range(n_layers))
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.RMSNorm(d_model, EPS) for _ in range(n_layers + 1))
        self.head = nn.Linear(d_model, outputs)

    def forward(self, ids, causal=True):
        x, t, table = self.embedding(ids), torch.arange(ids.shape[1]), None
        if self.positions == "learned":
            x = x + self.place(t)
        elif self.positions == "sinusoid":
            x = x + sinusoids(t, x.shape[-1])
        elif self.positions == "rotary":
            table = rotary_table(t, self.layers[0].d_head)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = x + layer(norm(x), causal=causal, rotary=table)
        return self.head(self.norms[-1](x))


# %% [markdown]
# One function trains it on any task of this chapter. A task is a function that draws `ids` and `targets`; a target of
# $-100$ is not scored. Where `targets` has a last axis, the model answers several questions at every position. (How
# to choose optimizer and learning rate is the business of {ref}`ch-training`.)


# %%
def train(model, task, steps, T, seed, learning_rate=0.01, **how):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.98), weight_decay=0)
    for step in range(steps):
        for group in optimizer.param_groups:  # up in 20 steps, then down to nothing
            group["lr"] = learning_rate * min((step + 1) / 20, 1 - step / steps)
        ids, targets = task(32, T, generator)
        logits = model(ids, **how)
        loss = F.cross_entropy(logits.reshape(targets.numel(), -1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


# %%
@torch.no_grad()
def right(model, task, T, n=256):
    """Which answers are right, and which are scored at all."""
    ids, targets = task(n, T, torch.Generator().manual_seed(999_999))
    guesses = model(ids).reshape(*targets.shape, -1).argmax(-1)
    return (guesses == targets).double(), targets != -100


def make(seed, *args, **fields):
    torch.manual_seed(seed)
    return AttentionOnly(*args, **fields)


# %% [markdown]
# The text is pure noise: sixteen letters, drawn independently. Nobody can predict the next one, so an honest loss is
# $\ln 16 = 2.77$ nats, and nothing below. We train one model with the causal mask and one without.


# %%
def dice(B, T, generator):
    ids = torch.randint(16, (B, T + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


ids, targets = dice(1000, 16, torch.Generator().manual_seed(7))
by_position = {}
for name, causal in {"causal mask": True, "no mask": False}.items():
    model = train(make(0, 16, 16), dice, 250, 16, seed=1, causal=causal)
    with torch.no_grad():
        losses = F.cross_entropy(model(ids, causal=causal).mT, targets, reduction="none")
    by_position[name] = losses.mean(0)
    first, last = losses[:, :-1].mean(), losses[:, -1].mean()
    print(f"{name}: {first:.2f} nats at positions 1 to 15, {last:.2f} at 16")


# %% mystnb={"figure": {"name": "fig-at-cheat", "caption": "Loss at each position of a text of random letters. Without a mask the model reads the answer from the next position. At the last position there is no next one, and the model does worse than guessing."}, "image": {"alt": "Two curves over positions 1 to 16. With a causal mask the loss stays at 2.8 nats. Without a mask it is nearly zero up to position 15 and jumps to 2.9 at position 16."}}
plots.lines(range(1, 17), by_position, "position", "nats")
print(f"ln 16 = {math.log(16):.2f}")

# %% [markdown]
# Without the mask the loss falls nearly to zero at every position but the last: the model predicts dice. It has
# learnt to copy the letter to its right. {numref}`fig-at-cheat` shows the price at the last position, where there is
# no letter to the right. But generation happens *only* at the last position. So a loss that is too good to be true is
# the sign of a missing mask, and a test of causality belongs to every implementation: change a token, and check that
# no earlier output moves. An {term}`encoder` such as BERT may look both ways; it pays with another objective.
#
# (sec-at-heads)=
# ## Heads
#
# One softmax gives one distribution. It can concentrate on one place, or blur over several; it cannot return two
# places *apart*. {term}`Multi-head attention` therefore runs $H$ attentions side by side, each with projections of
# its own to $d_k = d / H$ entries, and mixes what they return:
#
# $$
# \operatorname{MultiHead}(X) = \operatorname{Concat}(Y_1, \dots, Y_H)\, W^O, \qquad
# Y_h = \operatorname{Attention}(X W^Q_h, X W^K_h, X W^V_h) .
# $$ (eq-at-heads)
#
# Cut $W^O$ into $H$ blocks of $d_k$ rows, and the concatenation becomes a sum, $\sum_h Y_h W^O_h$. Each head reads
# the sequence by itself and *adds* its finding to the common vector; heads do not talk to each other within a layer.
# The projections of all heads stacked are again three $d \times d$ matrices. So the number of parameters, $4 d^2$
# without biases, and the number of multiplications do not depend on $H$. In code a head is a slice:


# %%
def multi_head_by_hand(X, in_proj, out_proj, H):
    Q, K, V = (X @ in_proj.T).chunk(3, 1)  # the three projections stand side by side
    width = Q.shape[1] // H
    heads = [slice(h * width, (h + 1) * width) for h in range(H)]
    return sum(attention(Q[:, h], K[:, h], V[:, h]) @ out_proj.T[h] for h in heads)


theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
ours, X = Attention(12, 3, bias=False), normal(1, 7, 12)
ours.qkv.weight, ours.out.weight = theirs.in_proj_weight, theirs.out_proj.weight
assert_close(theirs(X, X, X)[0], ours(X))
assert_close(multi_head_by_hand(X[0], theirs.in_proj_weight, theirs.out_proj.weight, 3), ours(X)[0])
for H in (1, 3, 6):
    n_weights = sum(p.numel() for p in Attention(12, H, bias=False).parameters())
    print("heads:", H, "weights:", n_weights)

# %% [markdown]
# (The oracle is `nn.MultiheadAttention` of PyTorch, with the same weights. Document 4 imports a `MultiHeadAttention`
# from `transformers`, which has none, and then never uses it: {ref}`err-multihead-import`. The formula of document 2
# is called multi-head there, and is one head: {ref}`err-multihead`.)
#
# Is the claim about two places true? The task: at every position name the token one back *and* the token three back.
# One layer, width 32; only the number of heads differs.


# %%
def shifted(ids, by):
    return F.pad(ids[:, : ids.shape[1] - by], (by, 0), value=-100)


def two_places(B, T, generator):
    ids = torch.randint(16, (B, T), generator=generator)
    return ids, torch.stack([shifted(ids, 1), shifted(ids, 3)], -1)


for H in (1, 2):
    for seed in (0, 1):
        model = train(make(seed, 16, 32, n_heads=H), two_places, 300, 16, seed)
        hits, scored = right(model, two_places, 16)
        near, far = (hits * scored).sum((0, 1)) / scored.sum((0, 1))
        print(f"heads: {H}, seed {seed}: one back {near:.2f}, three back {far:.2f}")


# %% [markdown]
# One head masters the nearer place and all but gives up the other. It could look at both with equal weights, but then
# it returns the mean of two vectors, and a mean does not tell which token was which. Two heads answer both questions,
# with the same number of parameters.
#
# Queries are many; keys and values may be fewer. In *grouped-query attention* $H/G$ query heads share one key-value
# head {cite}`ainslie2023`; with $G = 1$ all heads share the same one {cite}`shazeer2019`. This saves some parameters.
# What it is made for is the memory of generation, to which {ref}`sec-at-cost` comes.
#
# (sec-at-positions)=
# ## Positions
#
# ### What attention cannot see
#
# Nothing in {eq}`eq-at-attention` mentions $t$. A set of keys and values goes in, and an average comes out; in what
# order they stood is not part of the question.
#
# ```{prf:theorem} Without positions and mask, attention commutes with every permutation
# :label: thm-at-permutation
# Let $P$ be a permutation matrix, and let $\operatorname{SA}(X)$ be self-attention without a mask, with any weights
# and any number of heads. Then $\operatorname{SA}(PX) = P \operatorname{SA}(X)$.
# ```
#
# ```{prf:proof}
# Permuting the rows of $X$ permutes those of $Q = XW^Q$, $K$ and $V$. The scores become $PQ (PK)^\top = P (QK^\top)
# P^\top$. The softmax works on rows, entry by entry up to the sum of the row, so $\operatorname{softmax}(P S P^\top)
# = P \operatorname{softmax}(S) P^\top$. Hence the output of a head is $P A P^\top P V = P A V$, since $P^\top P = I$.
# Stacking heads and multiplying with $W^O$ from the right leaves $P$ on the left.
# ```
#
# So a word's vector would be the same in *dog bites man* and *man bites dog*. With a causal mask, one layer still
# cannot see the order of the past: its output at the last token does not depend on the order in which the earlier
# ones came. (Two layers can, as we shall see.)

# %%
layer, X = Attention(12, 3), normal(1, 7, 12)
order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
assert_close(layer(X[:, order]), layer(X)[:, order])
past = torch.tensor([2, 4, 0, 5, 1, 3, 6])  # the last token stays last
assert_close(layer(X[:, past], causal=True)[:, -1], layer(X, causal=True)[:, -1])
clocks = sinusoids(torch.arange(7), 12)  # one of the answers below
late, early = layer(X, causal=True) + clocks, layer(X + clocks, causal=True)
late_past, early_past = (
    layer(X[:, past], causal=True) + clocks,
    layer(X[:, past] + clocks, causal=True),
)
assert_close(late_past[:, -1], late[:, -1])
assert not torch.isclose(early_past[:, -1], early[:, -1]).any()
print("order is invisible; positions added to the output come too late, to the input in time")

# %% [markdown]
# The last lines answer document 2, which combines the *output* of attention with the {term}`position encoding`
# ({ref}`err-multihead`). By then all tokens have been averaged without regard to order; what is added afterwards says
# where the reader stands, and not where anything was. Positions have to enter before the scores.
#
# ### Four ways
#
# Document 4 says that position encoding "adds position information", which is true and cannot be implemented
# ({ref}`err-positions`). There are four standard answers.
#
# **None.** Rely on the mask. A causal layer is not entirely blind to position: the first token averages one value, the
# tenth ten. Deeper layers can make use of this, and decoders without any position encoding do learn
# {cite}`haviv2022`.
#
# **Sinusoids** {cite}`vaswani2017` are added to the embeddings. Position $p$ becomes a vector of sines and cosines,
# as the hands of $d/2$ clocks that run at different speeds:
#
# $$
# e_p = \bigl(\sin \omega_0 p, \cos \omega_0 p, \sin \omega_1 p, \cos \omega_1 p, \dots\bigr), \qquad
# \omega_i = 10000^{-2i/d} .
# $$ (eq-at-sinusoid)
#
# The fastest clock turns by one radian a token, the slowest needs tens of thousands of tokens for a turn. Why clocks?
# Because $\sin a \sin b + \cos a \cos b = \cos(a - b)$, the scalar product of two positions depends only on how far
# apart they are.
#
# **Learned** vectors, one for each position up to the longest text: GPT-2's way {cite}`radford2019`. Nothing to
# derive, and nothing beyond the last vector. This is the hard limit of {ref}`err-length`.
#
# **Rotary** positions {cite}`su2024` leave the embeddings alone. Inside each head they *turn* queries and keys, pair
# of entries by pair, by angles proportional to the position. With $R_p$ the matrix that turns pair $i$ by the angle
# $\omega_i p$,
#
# $$
# (R_t\, q) \cdot (R_s\, k) = q^\top R_t^\top R_s\, k = q^\top R_{s - t}\, k .
# $$ (eq-at-rotary)
#
# A turn by $-t$ and one by $s$ make a turn by $s - t$. So the score knows the distance and nothing else about the
# places, and the values stay untouched. Sinusoids must hope that training keeps the sum of token and position apart;
# rotary builds the distance into the product. Nearly all recent models use it.


# %%
def rotate_by_hand(x, position, base=10_000.0):
    half, turned = len(x) // 2, x.clone()
    for i in range(half):
        angle = position * base ** (-i / half)
        a, b = x[i], x[i + half]  # entry i is paired with entry i + d/2
        turned[i] = a * math.cos(angle) - b * math.sin(angle)
        turned[i + half] = a * math.sin(angle) + b * math.cos(angle)
    return turned


q, k = normal(2, 5, 8)
table = rotary_table(torch.arange(5), 8)
by_hand = torch.stack([rotate_by_hand(x, t) for t, x in enumerate(q)])
assert_close(rotate(q, table), by_hand)
cos, sin = table[0], table[1, :, 4:].repeat(1, 2)  # Llama's sines have no signs
theirs = apply_rotary_pos_emb(q[None, None], k[None, None], cos[None], sin[None])
assert_close(torch.cat(theirs)[:, 0], torch.stack([rotate(q, table), rotate(k, table)]))
there = rotary_table(torch.arange(5) + 70, 8)
assert_close(
    rotate(q, there) @ rotate(k, there).T, rotate(q, table) @ rotate(k, table).T, atol=1e-4, rtol=0
)
print("by hand = minilm = transformers; 70 places further on, the scores are the same")

# %% [markdown]
# {numref}`fig-at-distance` draws what both clockworks say about distance when query and key are otherwise alike. It is
# the same curve, $\sum_i \cos(\omega_i \Delta)$, at the same width: high nearby, and lower with distance, in a wave
# that gets longer. Nearness comes built in.

# %% mystnb={"figure": {"name": "fig-at-distance", "caption": "The scalar product of two positions against their distance: sinusoids of width 64, and a rotated query and key whose entries are all equal. Divided by the value at distance 0."}, "image": {"alt": "Two curves over distance 0 to 200 lie on top of each other: they start at 1, fall quickly to about 0.65 at distance 10 and then slowly, with ripples."}}
distance = torch.arange(201)
added = sinusoids(distance, 64) @ sinusoids(torch.tensor([0]), 64)[0]
turned = rotate(torch.ones(201, 64), rotary_table(distance, 64)) @ torch.ones(64)
curves = {"sinusoids": added / added[0], "rotary": turned / turned[0]}
plots.lines(distance, curves, "distance in tokens", "product")
assert_close(*curves.values())
print("at 0, 1, 10, 100:", [round(v, 2) for v in curves["rotary"][[0, 1, 10, 100]].tolist()])

# %% [markdown]
# ### What each can count
#
# Which of them serves which question? One model answers three at every position of a random text in which one letter
# is the *marker*:
#
# - **three back**: which letter stood three places before?
# - **since**: how many places back is the last marker? (up to 15)
# - **how many**: how many markers so far? (up to 15)
#
# The first needs a distance; the second a content *and* a distance; the third needs no order at all, but a count,
# and an average does not count: twice the markers in twice the text have the same mean. We train on texts of 32
# tokens, two layers, three seeds, and then ask about texts of 64 tokens as well. Learned vectors for positions 33 to
# 64 exist but were never trained, as in any model that is used beyond its length.


# %%
def three_questions(B, T, generator):
    ids = torch.randint(1, 16, (B, T), generator=generator)
    ids[torch.rand(B, T, generator=generator) < 0.1] = 0  # the marker
    place = torch.arange(T).expand(B, T)
    last = torch.where(ids == 0, place, -100).cummax(1).values
    since, many = place - last, (ids == 0).cumsum(1)
    answers = [shifted(ids, 3), since.where(since < 16, -100), many.where(many < 16, -100)]
    return ids, torch.stack(answers, -1)


QUESTIONS, KINDS, results = (
    ["three back", "since", "how many"],
    ["none", "sinusoid", "learned", "rotary"],
    {},
)
for kind in KINDS:
    for seed in range(3):
        model = make(seed, 16, 48, n_layers=2, n_heads=4, d_model=48, positions=kind)
        train(model, three_questions, 300, 32, seed)
        results[kind, seed] = right(model, three_questions, 64)


# %% mystnb={"figure": {"name": "tab-at-positions", "caption": "Share of right answers by kind of position, for places 17 to 32 of a text (the length of training) and 33 to 64 (beyond it). Lowest and highest of three seeds. The last row is the most frequent answer."}}
def share(kind, question, places):
    values = []
    for seed in range(3):
        hits, scored = (part[:, places, question] for part in results[kind, seed])
        values.append(((hits * scored).sum() / scored.sum()).item())
    return f"{min(values):.2f}–{max(values):.2f}"


def most_frequent(question, places):
    _, targets = three_questions(256, 64, torch.Generator().manual_seed(999_999))
    answers = targets[:, places, question].flatten()
    answers = answers[answers != -100]
    return f"{(answers == answers.mode().values).double().mean():.2f}"


halves = (slice(16, 32), slice(32, 64))
columns = [(q, places) for q in range(3) for places in halves]
rows = [(kind, *(share(kind, *column) for column in columns)) for kind in KINDS]
rows.append(("most frequent", *(most_frequent(*column) for column in columns)))
heads = [
    "positions",
    *(f"{QUESTIONS[q]}, {'beyond' if p.start == 32 else 'trained'}" for q, p in columns),
]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% mystnb={"figure": {"name": "fig-at-length", "caption": "The question three back, by place in the text, one seed. Training saw 32 places."}, "image": {"alt": "Four curves over places 4 to 64. Rotary stays at 1 almost to the end and closes at 0.86. Learned positions stay at 1 up to place 32 and then drop to about 0.1 at once. Sinusoids start at 0.6, stay near 0.3 up to place 32 and fall to about 0.1; no positions fall from about 0.25 to 0.15."}}
curves = {kind: results[kind, 0][0][:, 3:, 0].mean(0) for kind in KINDS}
ax = plots.lines(range(4, 65), curves, "place in the text", "share right")
ax.axvline(32.5, color="0.6", linewidth=1)
for kind, curve in curves.items():
    print(f"{kind:8} places 4–32: {curve[:29].mean():.2f}, 33–64: {curve[29:].mean():.2f}")

# %% [markdown]
# Read {numref}`tab-at-positions` by columns.
#
# *Three back.* Within the length of training, learned and rotary positions solve it without a mistake. Without
# positions the model is little better than one that always names the same letter. Sinusoids can do it, since one seed
# did; the others were still far away after the same 300 steps. Taking the clocks apart has to be learnt.
#
# *Since.* Rotary answers nearly always. The question asks for a content at a distance, and that is what its product
# measures. Positions added to the embedding get about three quarters.
#
# *How many.* The model without positions is behind the others here too, but it is right about seven times in ten,
# against three in *since*: this question is not about order. No kind is perfect: an average knows the *share* of
# markers, and the number is the share times the length. The exercises show how a causal layer can find the length.
#
# *Beyond the length of training* the ranks change. Learned vectors drop at once to the level of guessing in *three
# back* ({numref}`fig-at-length`) and not far above it in *since*: the new vectors are noise. Sinusoids drop nearly as
# far, though they are defined for every place, because the model has never seen those positions of the hands. Rotary
# carries most of its skill over, where the question is about a distance it has trained on. For the count, which grows
# with the text, it fails like the others. So relative positions help with longer texts and promise nothing; larger
# studies say the same {cite}`press2022,kazemnejad2023`. These are tiny models after a short training. More training
# would move the numbers; it would not give the learned vectors anything to learn from.
#
# (sec-at-gradient)=
# ## The gradient, on paper
#
# Let $L$ be any loss computed from the output $Y = AV$ of one head, and write $\bar M = \partial L / \partial M$ for
# the matrix of derivatives by the entries of $M$. Given $\bar Y$, what are $\bar Q$, $\bar K$ and $\bar V$? We go
# backwards through $S = QK^\top / \sqrt{d_k}$, $A = \operatorname{softmax}(S)$, $Y = AV$.
#
# ```{prf:theorem} The gradient of attention
# :label: thm-at-gradient
# With $r_t = \sum_s A_{ts} \bar A_{ts}$,
#
# $$
# \begin{aligned}
# \bar V &= A^\top \bar Y, & \bar A &= \bar Y V^\top, & \bar S_{ts} &= A_{ts} (\bar A_{ts} - r_t), \\
# \bar Q &= \bar S K / \sqrt{d_k}, & \bar K &= \bar S^\top Q / \sqrt{d_k} .
# \end{aligned}
# $$
# ```
#
# ```{prf:proof}
# For any product $Y = AV$ a small change gives $dY = dA\,V + A\,dV$, and $dL = \sum_{ij} \bar Y_{ij}\, dY_{ij} =
# \operatorname{tr}(\bar Y^\top dY)$. The part with $dV$ is $\operatorname{tr}(\bar Y^\top A\, dV) = \operatorname{tr}
# ((A^\top \bar Y)^\top dV)$, so $\bar V = A^\top \bar Y$. The part with $dA$ is $\operatorname{tr}(\bar Y^\top dA\, V)
# = \operatorname{tr}((\bar Y V^\top)^\top dA)$, so $\bar A = \bar Y V^\top$. In row $t$ the softmax has the Jacobian
# {eq}`eq-at-jacobian` with $p = A_t$, symmetric, so $\bar S_{ts} = \sum_u \bar A_{tu} A_{tu} (\delta_{us} - A_{ts}) =
# A_{ts} (\bar A_{ts} - \sum_u A_{tu} \bar A_{tu})$. The last two equations are those of a product again.
# ```
#
# In words: $\bar A_{ts} = \bar y_t \cdot v_s$ says how much the loss would rise if $t$ listened more to $s$. What
# counts is the difference to $r_t$, the present average: attention moves towards those that answer *better than
# average*, and the more weight they have already, the faster. A token without weight gets no gradient and is not
# discovered. A masked token has $A_{ts} = 0$, so the mask needs no further care.


# %%
def attention_gradient(Q, K, V, dY, mask=None):
    A, root = attention_weights(Q, K, mask), Q.shape[-1] ** 0.5
    dV, dA = A.T @ dY, dY @ V.T
    dS = A * (dA - (A * dA).sum(-1, keepdim=True))
    return dS @ K / root, dS.T @ Q / root, dV


Q, K, V, dY = (normal(6, 4, seed=i) for i in range(4))
mask = causal_mask(6, 6)
ours = attention_gradient(Q, K, V, dY, mask)
leaves = [M.clone().requires_grad_() for M in (Q, K, V)]
theirs = torch.autograd.grad((attention(*leaves, mask) * dY).sum(), leaves)
for mine, autograd in zip(ours, theirs, strict=True):
    assert_close(mine, autograd)
gaps = [(a - b).abs().max() for a, b in zip(ours, theirs, strict=True)]
print("paper = autograd:", max(gaps).item() < 1e-12)


# %% [markdown]
# Autograd and the paper could share a mistake in what is differentiated. Finite differences know nothing but the
# function itself: move one entry a little up and down, and compare the loss.


# %%
def differences(i, step=1e-5):
    grad = torch.zeros(6, 4)
    for index in range(24):
        moved = []
        for sign in (1, -1):
            inputs = [M.clone() for M in (Q, K, V)]
            inputs[i].view(-1)[index] += sign * step
            moved.append((attention(*inputs, mask) * dY).sum())
        grad.view(-1)[index] = (moved[0] - moved[1]) / (2 * step)
    return grad


for i, name in enumerate("QKV"):
    assert_close(differences(i), ours[i], atol=1e-8, rtol=0)
    wrong = (
        (differences(i) - 1.01 * ours[i]).abs().max()
    )  # would a mistake of one per cent be seen?
    print(f"d{name}: differences agree to 1e-8; one per cent off would show:", bool(wrong > 1e-4))

# %% [markdown]
# (sec-at-induction)=
# ## Attention at work
#
# We now train a model to do something no table of counts can: to use a pattern it has never seen before. The text
# repeats itself with a period that changes from text to text, and the letters are drawn anew each time:
# `q d m a w … q d m a w …`. From the second round on the next letter is certain, for a reader who finds the place
# where the present letter stood before and looks at *what came after it*. Models that do this were found inside large
# language models, and their heads are called *induction heads* {cite}`olsson2022`.


# %%
def repeats(B, T, generator, shortest=8, longest=20):
    period = torch.randint(shortest, longest + 1, (B, 1), generator=generator)
    tune = torch.randint(32, (B, longest), generator=generator)
    place = torch.arange(T + 1)
    ids = tune.gather(1, place % period)
    return ids[:, :-1], torch.where(place[1:] >= period, ids[:, 1:], -100)


ids, targets = repeats(1, 24, torch.Generator().manual_seed(1))
print("ids    ", *ids[0].tolist())
print("targets", *["." if t < 0 else t for t in targets[0].tolist()])

# %%
hits = {}
for n_layers in (1, 2):
    for seed in range(2):
        model = make(seed, 32, 32, n_layers=n_layers, d_model=48)
        reader = train(model, repeats, 400, 40, seed)
        found, scored = right(reader, repeats, 40)
        hits[n_layers, seed] = ((found * scored).sum() / scored.sum()).item()
print(
    {n: [round(hits[n, seed], 2) for seed in range(2)] for n in (1, 2)},
    "by chance",
    round(1 / 32, 2),
)

# %% [markdown]
# Two layers nearly always find the answer, one layer in a fifth of the cases. (That is more than chance, since the
# answer must be one of the letters read 7 to 19 places ago, and a distance can tell that much.) Why should *two* layers
# be needed? A single layer can find the earlier place of the present letter. But what it can fetch from there is that
# letter, which it knows already, and not the one that came next.

# %% [markdown]
# How does it do it? We look at the attention weights, layer by layer and head by head, and ask of each head two
# questions. How much of its attention goes to the token before? And how much goes, at position $t$ with period $n$, to
# position $t - n + 1$: the token that came after the last occurrence of the present one?


# %%
@torch.no_grad()
def look(model, ids):
    """The weights of every layer, (H, T, T), for one text."""
    x, T, maps = model.embedding(ids), ids.shape[1], []
    table = rotary_table(torch.arange(T), model.layers[0].d_head)
    for layer, norm in zip(model.layers, model.norms, strict=False):
        q, k, _ = layer.project(norm(x))
        maps.append(attention_weights(rotate(q, table), rotate(k, table), causal_mask(T, T))[0])
        x = x + layer(norm(x), causal=True, rotary=table)
    return maps


PERIOD = 12
tune = torch.randint(32, (64, PERIOD), generator=torch.Generator().manual_seed(3))
texts = tune.repeat(1, 3)
t = torch.arange(PERIOD, 3 * PERIOD)
scores = {}
for text in texts:
    for number, maps in enumerate(look(reader, text[None])):
        for head, A in enumerate(maps):
            pair = torch.stack([A[t, t - 1].mean(), A[t, t - PERIOD + 1].mean()]) / len(texts)
            scores[number, head] = scores.get((number, head), 0) + pair


# %% mystnb={"figure": {"name": "tab-at-heads", "caption": "What each head looks at, and what is left when it is switched off: mean weight on the token before, mean weight on the token after the last occurrence of the present one, and the share of right answers without this head."}}
@torch.no_grad()
def without(model, number, *heads):
    model = copy.deepcopy(model)
    by_head = model.layers[number].out.weight.unflatten(1, (-1, model.layers[number].d_head))
    by_head[:, heads] = 0
    return model


def overall(model):
    found, scored = right(model, repeats, 40)
    return ((found * scored).sum() / scored.sum()).item()


rows = []
for (number, head), (before, after) in scores.items():
    left_over = overall(without(reader, number, head))
    rows.append(
        (f"layer {number + 1}, head {head + 1}", *(f"{v:.2f}" for v in (before, after, left_over)))
    )
rows.append(("layer 2, both heads", "", "", f"{overall(without(reader, 1, 0, 1)):.2f}"))
rows.append(("none switched off", "", "", f"{overall(reader):.2f}"))
heads = ["head", "on the one before", "on the one after the match", "right without it"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "fig-at-induction", "caption": "A text of period 12, twice. The stronger the mark, the more attention; rows ask, columns answer. Left: the head of layer 1 that looks most at the token before. Right: the head of layer 2 that looks most at the token after the last occurrence of the present one."}, "image": {"alt": "Two triangular maps of 24 by 24. The left one is marked along the first line below the diagonal. The right one is marked along a line eleven places below the diagonal, from row 13 on."}}
first = max((h for h in scores if h[0] == 0), key=lambda h: scores[h][0])
second = max((h for h in scores if h[0] == 1), key=lambda h: scores[h][1])
maps = look(reader, texts[:1, : 2 * PERIOD])
letters = [chr(97 + i) if i < 26 else str(i - 26) for i in texts[0, : 2 * PERIOD].tolist()]
for (number, head), ax in zip((first, second), plots.panels(2, size=(8.4, 4.2)), strict=True):
    plots.heatmap(maps[number][head], letters, letters, fmt=None, ax=ax)
    ax.set_title(f"layer {number + 1}, head {head + 1}")
    print(
        f"layer {number + 1}, head {head + 1}:",
        [round(v, 2) for v in scores[number, head].tolist()],
    )

# %% [markdown]
# {numref}`tab-at-heads` shows a division of labour. A head of layer 1 looks at the token before, wherever it is. It
# writes into every place *which letter stands to the left of it*. The heads of layer 2 then ask: where is a place whose
# left neighbour was my letter? That place is one *after* the match, and it holds the answer. In
# {numref}`fig-at-induction` the two steps are the two diagonals. The second needs what the first has written,
# and so one layer cannot do it.
#
# So far this is a story told about a picture. The last column tests it. Switch off the head that looks one back,
# which never looks at an answer, and most answers are lost. Switch off *one* head of layer 2 and most answers stay
# right, for the other does the same; switch off both, and what is left is chance. Had we tried single heads only, we
# would have thought little of both heads of layer 2.
#
# (sec-at-cost)=
# ## The bill
#
# ### Operations
#
# Count a multiplication with its addition as two operations. For one sequence of $T$ tokens a layer needs $3$
# projections of $2 T d^2$, one more for $W^O$, and for all heads together $2 T^2 d$ for the scores and $2 T^2 d$ for
# the average:
#
# $$
# \text{operations} = 8\, T d^2 + 4\, T^2 d .
# $$ (eq-at-flops)
#
# The two terms are equal at $T = 2d$. PyTorch can count what a piece of code really multiplies, and a formula in a
# book should agree with it.


# %%
def operations(T, d):
    return 8 * T * d**2 + 4 * T**2 * d


def counted(T, d, n_heads=4):
    layer = Attention(d, n_heads, bias=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        q, k, v = layer.project(torch.zeros(1, T, d))
        layer.out(attention(q, k, v).transpose(1, 2).flatten(2))
    return counter.get_total_flops()


for T, d in ((16, 32), (64, 32), (1024, 128)):
    assert counted(T, d) == operations(T, d)
for name, d in (("this chapter", 48), ("GPT-2 small", 768), ("GPT-3", 12_288)):
    part = [1 - 8 * T * d**2 / operations(T, d) for T in (1000, 100_000)]
    print(
        f"{name}, d = {d}: equal at T = {2 * d}; share of the square {part[0]:.2f}, {part[1]:.2f}"
    )

# %% [markdown]
# So the square in $T$, for which attention is notorious, is the smaller part of the work up to thousands of tokens in a
# wide model. Beyond, it takes over. (The shares are those at a thousand and at a hundred thousand tokens; the
# widths are from {cite}`radford2019,brown2020`.)
#
# ### Memory, and a softmax in one pass
#
# The written-out formula stores $A$: $H\,T^2$ numbers a layer, and training keeps them for the way back. That, not the
# arithmetic, is what first stops it. But nobody needs $A$. Only the averages are wanted, and these can be computed
# while the keys stream past, block by block. The obstacle is the softmax, which divides by a sum over *all* keys, and
# subtracts the largest score of all. The way around it {cite}`milakov2018`: keep the largest score so far, $m$, the
# sum so far, $\ell$, and the average so far, unnormalised, $u$. When a block brings a larger $m'$, everything old is
# worth $e^{m - m'}$ of what it was:
#
# $$
# m' = \max(m, \max_s z_s), \qquad
# \ell' = e^{m - m'} \ell + \sum_s e^{z_s - m'}, \qquad
# u' = e^{m - m'} u + \sum_s e^{z_s - m'} v_s .
# $$ (eq-at-online)


# %%
def attention_in_blocks(q, K, V, block=2):
    m, total, u = torch.tensor(-torch.inf), 0.0, torch.zeros(V.shape[1])
    for k, v in zip(K.split(block), V.split(block), strict=True):
        z = k @ q / len(q) ** 0.5
        larger = torch.maximum(m, z.max())
        shrink, e = (m - larger).exp(), (z - larger).exp()
        m, total, u = larger, shrink * total + e.sum(), shrink * u + e @ v
    return u / total


q, K, V = 30 * normal(8, seed=1), 30 * normal(7, 8, seed=2), normal(7, 5, seed=3)
assert_close(attention_in_blocks(q, K, V), attention(q[None], K, V)[0])
print("one pass over the keys, without the matrix: equal")

# %% [markdown]
# FlashAttention does this on a GPU in blocks that fit into its fast memory, and computes $A$ a second time for the
# gradient instead of storing it {cite}`dao2022`. `scaled_dot_product_attention` is PyTorch's version, on processors
# too, and what `minilm` calls at run time. The result is the same; the work in {eq}`eq-at-flops` is the same; the
# memory is linear in $T$. (Timings differ between machines, so the tests do not compare the next cell.)


# %%
def seconds(function, *inputs):
    times = []
    for _ in range(5):
        start = perf_counter()
        function(*inputs)
        times.append(perf_counter() - start)
    return sorted(times)[2]


# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "fig-at-time", "caption": "Seconds for four heads of width 32, without projections, on one core of the machine that built this book. The third line grows with the square of T."}, "image": {"alt": "Three lines over T from 128 to 2048 on logarithmic scales. The written-out formula and PyTorch's kernel both rise at least as steeply as the line of slope two; the kernel is the faster."}}
lengths, times = [128, 256, 512, 1024, 2048], {"written out": [], "kernel": []}
for T in lengths:
    qkv = [normal(1, 4, T, 32, seed=i).float() for i in range(3)]
    times["written out"].append(seconds(attention, *qkv))
    times["kernel"].append(seconds(F.scaled_dot_product_attention, *qkv))
square = {"square of T": [times["kernel"][-1] * (T / lengths[-1]) ** 2 for T in lengths]}
ax = plots.lines(lengths, times | square, "T", "seconds", log="xy")
plots.plain_ticks(ax, "x").set_xticks(lengths, map(str, lengths))
ax.minorticks_off()
for name, values in times.items():
    print(f"{name:11}: doubling T from 1024 takes {values[-1] / values[-2]:.1f} times as long")

# %% [markdown]
# ### Generation, and what it must remember
#
# Generating the next token needs only one new row of $A$: one query against all keys so far. The keys and values of
# the past do not change, thanks to the causal mask, so a {term}`KV cache` keeps them. The price moves from time to
# memory.

# %%
layer, X = Attention(12, 6, n_kv_heads=2), normal(1, 8, 12)
whole = layer(X, causal=True)
cache, rows = KVCache(1, 1, n_kv_heads=2, size=8, d_head=2, like=X), []
for t in range(8):
    rows.append(layer(X[:, t : t + 1], cache=(cache, 0, cache.positions(1))))
    cache.advance(1)
assert_close(torch.cat(rows, 1), whole)
print("token by token = all at once;", cache.k.numel() + cache.v.numel(), "numbers kept")

# %% [markdown]
# A cache holds $2 \cdot L \cdot G \cdot d_k$ numbers a token, for $L$ layers and $G$ key-value heads. With $G = H$ this
# can outgrow the model itself; this is the reason for the grouped heads above.

# %%
shapes = {
    "12 layers, 12 heads of 64 (as in GPT-2)": (12, 12, 64),
    "32 layers, 32 heads of 128": (32, 32, 128),
}
shapes["32 layers, 8 key-value heads of 128"] = (32, 8, 128)
for name, (L, G, d_k) in shapes.items():
    size = 2 * L * G * d_k * 2 / 1024  # two bytes a number
    print(f"{name:40} {size:5.0f} KiB a token, {size / 128:.2f} GiB for 8,192 tokens")


# %% [markdown]
# ## The answer
#
# *How can a model look back at any token it has read?* By a look-up with three learnt parts: a query that says what is
# sought, keys that say what is offered, values that are returned, and a softmax that makes the choice soft enough to
# be learnt. Distance does not weaken it: the last token reaches the first in one step, as documents 1 and 4 say, where
# a recurrent network needs $T$. *What does the look cost?* $8Td^2 + 4T^2d$ operations a layer, where a recurrent
# network has no square of $T$; and a memory of everything read.
#
# And what does a picture of attention prove? Little by itself. Document 1 hopes for interpretability through
# visualisation ({ref}`err-attention-explains`). {numref}`fig-at-induction` made us *suspect* a mechanism; the last
# column of {numref}`tab-at-heads`, where a head was taken away, tested it.
#
# ## What we learnt
#
# - Attention is kernel smoothing with a learnt kernel: softmax over products of queries and keys, averaging values.
# - The weights are applied to values only. Put $W^V$ in their place and the text disappears from the average.
# - The Jacobian of the softmax is $\operatorname{diag}(p) - pp^\top$. Inside a network a certain softmax passes no
#   gradient, hence the square root: $\operatorname{Var}(q \cdot k) = d_k$.
# - The causal mask goes in before the softmax. A training loss that is too good is the sign that it is missing.
# - Heads are parallel look-ups whose results are summed; their number costs no parameters.
# - Without positions attention sees a set. Rotary positions put the distance, and only the distance, into the score.
# - An average cannot count. What a kind of position makes easy depends on the question, and nothing tested here is
#   safe far beyond the length of training.
# - The gradient moves attention towards values that help more than the present average.
# - Two layers can find "what came after the last one like this"; one layer cannot.
#
# ## Exercises
#
# ```{exercise} A window
# :label: ex-at-window
#
# Some models let a position see itself and only the $w - 1$ tokens before it, so that cost grows with $T$ and not with
# its square. Write `window_mask(T, w)`, a table of booleans, True where position $t$ (row) may look at $s$ (column).
# ```


# %% tags=["exercise"]
def window_mask(T, w):
    """(T, T) booleans: row t sees the last w tokens up to and including itself."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def window_mask(T, w):
    """(T, T) booleans: row t sees the last w tokens up to and including itself."""
    distance = torch.arange(T)[:, None] - torch.arange(T)
    return (distance >= 0) & (distance < w)


# %% tags=["check"]
assert window_mask(4, 2).tolist() == [[s in (t - 1, t) for s in range(4)] for t in range(4)]
assert torch.equal(window_mask(5, 5), causal_mask(5, 5)), (
    "a window as long as the text is the causal mask"
)
assert torch.equal(window_mask(3, 1), torch.eye(3, dtype=torch.bool)), "the narrowest sees itself"
assert (
    window_mask(9, 3).sum(1).tolist() == [1, 2, 3, 3, 3, 3, 3, 3, 3]
    and window_mask(2, 1).dtype == torch.bool
)

# %% [markdown]
# ```{exercise} A head built by hand
# :label: ex-at-previous
#
# Training found a head that looks at the token before. You can build one. Write `previous_head(T)`: a pair of
# matrices, queries and keys, each with $T$ rows, such that under the causal mask every position but the first gives
# the one before it a weight above 0.9. Hint: give each place a direction of its own.
# ```


# %% tags=["exercise"]
def previous_head(T):
    """Queries and keys with T rows that make every position look at the one before."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def previous_head(T):
    """Queries and keys with T rows that make every position look at the one before."""
    places = torch.eye(T)
    return 100 * T**0.5 * places.roll(
        1, 0
    ), places  # the query of place t is the direction of t - 1


# %% tags=["check"]
for T in (2, 5, 12):
    q, k = previous_head(T)
    A = attention_weights(q, k, causal_mask(T, T))
    t = torch.arange(1, T)
    assert A.shape == (T, T) and (A[t, t - 1] > 0.9).all(), (
        f"T = {T}: smallest {A[t, t - 1].min():.2f}"
    )

# %% [markdown]
# ```{exercise} Where am I?
# :label: ex-at-where
#
# A causal layer without any position encoding can find out how many tokens it has read. Let the first token of a text
# be special, and write `places(T)`: choose queries, keys and values (nothing in them may depend on the place, except
# that the first token differs from the others), call `attention` with the causal mask, and compute $1, 2, \dots, T$
# from its output, as a tensor of floats of shape (T,).
# ```


# %% tags=["exercise"]
def places(T):
    """The numbers 1 to T, from the output of causal attention without positions."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def places(T):
    """The numbers 1 to T, from the output of causal attention without positions."""
    indifferent, first = torch.zeros(T, 1), torch.zeros(T, 1)
    first[0] = 1  # an average over t tokens, one of which says 1, is 1/t
    return 1 / attention(indifferent, indifferent, first, causal_mask(T, T))[:, 0]


# %% tags=["check"]
calls, written_out = [], attention


def attention(*inputs, **named):  # the check watches what your function asks for
    calls.append([*inputs, *named.values()][:3])
    return written_out(*inputs, **named)


try:
    for T in (1, 4, 30):
        assert_close(places(T), torch.arange(1.0, T + 1), atol=1e-3, rtol=0)
    assert len(calls) >= 3, "use attention"
    alike = [(part[..., 1:, :] == part[..., 1:2, :]).all() for part in calls[-1]]
    assert all(alike), "only the first token may differ"
    attention = lambda *inputs, **named: math.nan * written_out(*inputs, **named)
    assert places(4).isnan().all(), "compute the places from the output of attention"
finally:
    attention = written_out

# %% [markdown]
# ```{exercise} Grouped heads
# :label: ex-at-grouped
#
# Write `grouped(q, k, v)` for queries of shape (H, T, d) and keys and values of shape (G, T, d), where G divides H:
# query heads $0, \dots, H/G - 1$ use key-value head 0, the next $H/G$ use head 1, and so on. No mask. The result has
# shape (H, T, d).
# ```


# %% tags=["exercise"]
def grouped(q, k, v):
    """Attention of H query heads over G shared key-value heads."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def grouped(q, k, v):
    """Attention of H query heads over G shared key-value heads."""
    each = len(q) // len(k)
    return attention(q, k.repeat_interleave(each, 0), v.repeat_interleave(each, 0))


# %% tags=["check"]
for H, G in ((6, 2), (4, 4), (3, 1), (8, 4)):
    q, k, v = normal(H, 5, 4, seed=H), normal(G, 5, 4, seed=1), normal(G, 5, 4, seed=2)
    expected = F.scaled_dot_product_attention(q[None], k[None], v[None], enable_gqa=True)[0]
    assert_close(grouped(q, k, v), expected)

# %% [markdown]
# ```{exercise} Distance as a penalty
# :label: ex-at-alibi
#
# ALiBi {cite}`press2022` has no position vectors at all: it subtracts from each score the distance to the key, times a
# slope that is fixed for each head. Write `alibi(q, k, v, slope)` for one head (q, k, v of shape (T, d)), causal:
# $\operatorname{softmax}(q_t \cdot k_s / \sqrt d - \text{slope} \cdot (t - s))$.
# ```


# %% tags=["exercise"]
def alibi(q, k, v, slope):
    """Causal attention of one head whose scores fall with distance."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def alibi(q, k, v, slope):
    """Causal attention of one head whose scores fall with distance."""
    T, d = q.shape
    distance = torch.arange(T)[:, None] - torch.arange(T)
    scores = q @ k.T / d**0.5 - slope * distance
    return scores.masked_fill(distance < 0, -torch.inf).softmax(-1) @ v


# %% tags=["check"]
q, k, v = (normal(6, 4, seed=i) for i in range(3))
assert_close(alibi(q, k, v, 0.0), attention(q, k, v, causal_mask(6, 6)))
assert_close(alibi(q, k, v, 1e4), v, msg="a steep slope sees only itself")
weights = alibi(0 * q, k, torch.eye(6), math.log(2.0))[-1]
assert_close(
    weights, torch.tensor([1.0, 2, 4, 8, 16, 32]) / 63, msg="half the weight with each step back"
)
assert not torch.allclose(alibi(q, k, v, 0.5), alibi(q, k, v, -0.5))

# %% [markdown]
# ## Further reading
#
# - Bahdanau, Cho and Bengio {cite}`bahdanau2015` introduced attention, with a small network in place of the scalar
#   product; Vaswani and colleagues {cite}`vaswani2017` built everything from it.
# - Tsai and colleagues {cite}`tsai2019` follow the kernel view of the first section.
# - Su and colleagues {cite}`su2024` derive rotary positions from the wish that only distance should count; Press and
#   colleagues {cite}`press2022` and Kazemnejad and colleagues {cite}`kazemnejad2023` test what happens beyond the
#   length of training.
# - Shazeer {cite}`shazeer2019` and Ainslie and colleagues {cite}`ainslie2023` share key-value heads; Dao and colleagues
#   {cite}`dao2022` never store the matrix.
# - Olsson and colleagues {cite}`olsson2022` tell the story of induction heads; Elhage and colleagues
#   {cite}`elhage2021` read attention-only models like ours as a sum of paths.
# - Jain and Wallace {cite}`jain2019` and Wiegreffe and Pinter {cite}`wiegreffe2019` argue about what attention
#   explains.
