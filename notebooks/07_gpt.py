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
# (ch-gpt)=
# # GPT: maximum likelihood at work
#
# **What does one training objective, minutes of computing and a Transformer add up to, measured on the ruler by which
# we measured counting?**
#
# *Five to nine minutes on two cores, most of them spent watching two networks train, and two once they are trained. You
# need {ref}`ch-concepts` for likelihood and bits per byte, {ref}`ch-ngram` for the bar to clear, {ref}`ch-rnn` for the
# LSTM, and {ref}`ch-transformer` for the model. Everything that is random has a seed.*
#
# The Transformer of the last chapter is an empty form. Its weights are noise, and so is what it says. This chapter
# fills it in. The name of the result says how: a {term}`GPT` is a *generative pre-trained Transformer*
# {cite}`radford2018`, and {term}`pretraining <pretraining>` means that it has been made to give real text a high
# probability. That is the whole objective. No rule of grammar, no list of characters, no notion of a play goes in.
#
# The plan:
#
# 1. state the objective, prove what its minimum is, and derive the gradient that does all the work;
# 2. say what the first loss must be, before computing it;
# 3. write the smallest training loop, test it, look inside one step, and break it in an instructive way;
# 4. train the GPT of this chapter, and beside it the LSTM of {ref}`ch-rnn`;
# 5. measure both beside counting, and find out token by token *where* they differ;
# 6. let it {term}`overfit <overfitting>` on purpose, and ask whether what it writes is its own;
# 7. hand the weights to a library that other people wrote, and run the essays' code on them.

# %%
import copy
import math
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from IPython.display import Markdown
from tabulate import tabulate
from torch import nn

from minilm import data, evaluate, ngram, plots, presets
from minilm.batching import sample
from minilm.contract import loss, next_token
from minilm.counts import count
from minilm.generate import generate
from minilm.gpt import GPT
from minilm.gpt2_files import save_gpt2
from minilm.machine import threads
from minilm.tokenizer import Characters
from minilm.train import TrainConfig, train, validation
from minilm.transformer import Config

plots.use_style()

# %% [markdown]
# (sec-gpt-likelihood)=
# ## The objective
#
# Document 4 of the five essays writes it down for the GPT models, in its section 4.2:
#
# $$
# \log P_{\theta}(x) = \sum_{t=1}^{T} \log P_{\theta}(x_t \mid x_{<t}).
# $$ (eq-gpt-document)
#
# The equation is right. As an *objective* it is not finished, and what is missing matters for the code
# ({ref}`err-objective`). It speaks of one text where we have a corpus. It does not say what is varied: the text is
# fixed, and the {term}`parameters <parameter>` $\theta$ are what we may choose ({ref}`err-conditional`). A sum over
# tokens grows with the text, so losses of two texts cannot be compared until it is divided by their number. And at
# $t = 1$ nothing is given, so the first token has to be treated as given or started from a special one
# ({ref}`err-boundaries`). With a corpus of $N$ tokens to be predicted, each after its history $h_n$ within the model's
# {term}`context <context length>`, the objective reads
#
# $$
# \hat\theta = \arg\max_\theta \sum_{n=1}^{N} \log P_\theta(w_n \mid h_n) = \arg\min_\theta L(\theta), \qquad
# L(\theta) = -\frac{1}{N} \sum_{n=1}^{N} \log P_\theta(w_n \mid h_n).
# $$ (eq-gpt-objective)
#
# The left half is {term}`maximum likelihood`, the right half is the {term}`cross-entropy` {term}`loss`. They are one
# thing with two signs; document 3 lists them as if they were two ({ref}`err-formula-list`). We met
# {eq}`eq-gpt-document` as the {term}`chain rule` in {ref}`ch-concepts`. For any model that is blind to what comes later
# it is an identity, trained or not: the conditional probabilities multiply to a distribution over whole texts. That can
# be checked on all texts at once if there are few of them. With three tokens, and four positions after a start token,
# there are 81. The weights below are random and large, so that the distribution is far from uniform.

# %%
texts = torch.cartesian_prod(*[torch.arange(3)] * 4)  # (81, 4): all of them
rows = torch.cat([torch.zeros(81, 1, dtype=torch.long), texts], 1)  # each after the start token, 0


def log_likelihood(model, rows):
    batch = next_token(rows)
    log_probs = model(*batch.inputs).log_softmax(-1)  # (B, T, V)
    return log_probs.gather(-1, batch.targets[..., None])[..., 0].sum(1)  # (B,)


def loud(model):
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p)
    return model.double()


toy = Config(vocab_size=3, context=8, d_model=16, n_layers=2, n_heads=2)
total = log_likelihood(loud(GPT(toy)), rows).exp().sum().item()
print(f"81 texts, sum of their probabilities: {total:.6f}")

# %% [markdown]
# Now take the {term}`causal mask` away. The outputs still look like rows of probabilities, each of them sums to one,
# and `loss` would happily accept them.


# %%
class Leaky(GPT):
    """A GPT without the causal mask: every position sees the whole row, the answer included."""

    def forward(self, ids):
        return self.head(self.stack(self.embed(ids, torch.arange(ids.shape[1])[None])))


leaky_total = log_likelihood(loud(Leaky(toy)), rows).exp().sum().item()
print(f"without the mask the 81 'probabilities' sum to {leaky_total:.2f}")

# %% [markdown]
# The product no longer belongs to any distribution, since each factor has seen the token that it is said to predict.
# The essays leave the mask out wherever they describe a model that generates ({ref}`err-mask`). {ref}`ch-attention` saw
# on dice what becomes of such a model; further below we train one on text, and watch what its wonderful loss is worth.
#
# ### What the minimum is
#
# How low can $L$ go? {ref}`ch-concepts` proved that no model beats the entropy of the source. Here is the same
# statement for whole texts, in the form that explains training.
#
# ```{prf:theorem} Maximum likelihood minimises a divergence
# :label: thm-gpt-kl
# Let texts $x$ come from a distribution $p$. For every $\theta$,
#
# $$
# \mathbb{E}_{x \sim p}\bigl[-\log P_\theta(x)\bigr] = H(p) + D_{\mathrm{KL}}(p \,\|\, P_\theta), \qquad
# D_{\mathrm{KL}}(p \,\|\, q) = \sum_x p(x) \log \frac{p(x)}{q(x)} \ge 0.
# $$ (eq-gpt-kl)
#
# So the expected loss is smallest exactly where the divergence of the model from the source is smallest, and both have
# the same gradient.
# ```
#
# ```{prf:proof}
# Insert $\log P_\theta(x) = \log p(x) - \log \frac{p(x)}{P_\theta(x)}$ and take the expectation: the first term gives
# $H(p)$, which does not contain $\theta$, and the second the {term}`KL divergence`. It is not negative, because $\log
# u \le u - 1$ gives $\sum_x p(x) \log \frac{P_\theta(x)}{p(x)} \le \sum_x P_\theta(x) - 1 \le 0$.
# ```
#
# The roles of $p$ and $P_\theta$ are not symmetric. Where the source puts mass and the model puts none, the divergence
# is infinite; where the model puts mass that the source never uses, it only pays for what is missing elsewhere. A
# model trained this way prefers to say too much rather than to exclude something that happens. {ref}`ch-generation`
# cuts that surplus away when text is drawn.
#
# With 81 texts the theorem can be watched. We draw a random source $p$, and follow the gradient of the exact expected
# loss. {numref}`fig-gpt-kl` shows the loss, and the entropy below which it cannot fall.

# %%
p = torch.distributions.Dirichlet(torch.full((81,), 0.5, dtype=torch.float64))
torch.manual_seed(1)
p = p.sample()
entropy = -(p * p.log()).sum().item()
learner = GPT(toy).double()
optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0)
expected, divergence = [], []
for _ in range(300):
    log_q = log_likelihood(learner, rows)
    expected.append(-(p * log_q).sum())
    divergence.append((p * (p.log() - log_q)).sum().item())
    optimizer.zero_grad()
    expected[-1].backward()
    optimizer.step()
expected = [value.item() for value in expected]
assert np.allclose(expected, entropy + np.array(divergence)) and min(expected) > entropy

# %% mystnb={"figure": {"name": "fig-gpt-kl", "caption": "A GPT learns a source of 81 texts. The expected loss falls towards the entropy of the source and cannot pass it; what is left between the two lines is the KL divergence."}, "image": {"alt": "Line chart over 300 steps. The expected loss starts at 4.5 nats, a little above log 81, falls steeply in the first fifty steps and then flattens out close above a horizontal line, the entropy of the source."}}
series = {"expected loss": expected, "entropy of the source": [entropy] * 300}
plots.lines(range(300), series, "step", "nats per text")
print(f"loss {expected[0]:.1f}, log 81 = {math.log(81):.1f}; entropy {entropy:.2f}")
print(f"divergence at the start {divergence[0]:.1f}, at the end below 0.1: {divergence[-1] < 0.1}")

# %% [markdown]
# (A bump in the curve is a step that was too long. The direction of a gradient is right; how far to follow it is a
# guess.)
#
# A real source does not hand out $p(x)$. We have samples, and the mean over samples stands in for the expectation.
# That substitution is where {term}`overfitting` comes from: with few samples the minimum of the mean lies somewhere
# else than the minimum of the expectation. We come back to it.
#
# (sec-gpt-gradient)=
# ## The gradient in one line
#
# Everything a GPT learns arrives through the {term}`logits`. Let $z \in \mathbb{R}^V$ be the logits at one position,
# $p = \operatorname{softmax}(z)$, and $w$ the token that follows. What does the loss there, $\ell = -\log p_w$, ask
# of $z$?
#
# ```{prf:theorem} The gradient at the logits
# :label: thm-gpt-gradient
# $$
# \frac{\partial \ell}{\partial z_v} = p_v - [v = w].
# $$ (eq-gpt-gradient)
# ```
#
# ```{prf:proof}
# Write $\ell = \log \sum_u e^{z_u} - z_w$. The first term has the derivative $e^{z_v} / \sum_u e^{z_u} = p_v$, the
# second $-[v = w]$.
# ```
#
# Probability minus truth. Under a mean over $N$ positions each row is divided by $N$. Two independent checks, by
# automatic differentiation and by finite differences:

# %%
torch.manual_seed(0)
z = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)  # 4 positions, 6 tokens
truth = torch.tensor([2, 0, 5, 5])
(by_autograd,) = torch.autograd.grad(loss(z, truth), z)
by_hand = (z.softmax(-1) - nn.functional.one_hot(truth, 6)) / 4

nudges = torch.eye(24, dtype=torch.float64).view(24, 4, 6) * 1e-5
by_differences = [(loss(z + e, truth) - loss(z - e, truth)).item() / 2e-5 for e in nudges]
torch.testing.assert_close(by_hand, by_autograd)
assert np.allclose(by_hand.detach().flatten(), by_differences, atol=1e-9)
assert by_hand.sum(1).abs().max() < 1e-12
print("by hand = autograd = finite differences; every row sums to zero")

# %% [markdown]
# The line repays a second look.
#
# - Each row sums to zero. Training moves probability from one token to others; it never adds any.
# - The true token is pushed up by $1 - p_w$, the others down by what they hold. A token that was certain and came is
#   left alone. Learning is driven by surprise.
# - On average over the text, the push on a token is zero exactly when the model predicts it as often as it occurs. A
#   model with a free bias for each token is, once training has converged, {term}`calibrated <calibration>` at least in
#   this weak sense. The GPT below has no such bias, so it may only come near. We test how near.
# - Accuracy does not appear. Whether $w$ was the first guess makes no difference to {eq}`eq-gpt-gradient`
#   ({ref}`err-accuracy-objective`).
#
# From the logits the gradient goes back through the blocks by the chain rule of calculus, as {ref}`ch-transformer`
# showed. What comes out is a direction for every parameter at once.
#
# (sec-gpt-first-loss)=
# ## The first loss, predicted
#
# Before training, a model should know nothing and be sure of nothing: all tokens equally likely, so a loss of $\log
# V$. Ours is nearly there, and how nearly can be calculated. Embeddings start as normal numbers with standard deviation
# $s$, position vectors with $s_p$, both 0.02 here (OpenAI's GPT-2 draws positions with 0.01). The last norm gives the
# stream $x$ a length of $\sqrt{D}$, so the logit $z_v = \langle x, e_v \rangle$ of an unrelated token is normal with
# variance $s^2 D$, and the mean of $e^{z_v}$ is $e^{s^2 D / 2}$. One token is not unrelated. The output layer is the
# embedding table, and the stream still carries the embedding of the token just read, so *its* logit is $c = s^2 D /
# \sqrt{s^2 + s_p^2}$. For a target drawn at random,
#
# $$
# \mathbb{E}[\ell] = \mathbb{E}\Bigl[\log \sum_v e^{z_v}\Bigr] - \mathbb{E}[z_w] \approx
# \log \bigl( V e^{s^2 D / 2} + e^{c} \bigr).
# $$ (eq-gpt-first)
#
# {numref}`tab-gpt-first` compares this with untrained models of several sizes, the last two started too loudly on
# purpose.


# %%
def first_loss(V, D, s):
    torch.manual_seed(0)
    model = GPT(Config(vocab_size=V, context=64, d_model=D, n_layers=2, n_heads=4))
    nn.init.normal_(model.embedding.weight, std=s)
    with torch.no_grad():
        return -log_likelihood(model, torch.randint(V, (16, 65))).mean().item() / 64


def predicted(V, D, s, s_p=0.02):
    return math.log(V * math.exp(s**2 * D / 2) + math.exp(s**2 * D / math.hypot(s, s_p)))


# %% mystnb={"figure": {"name": "tab-gpt-first", "caption": "The loss before training, in nats per token: log V, the prediction, and what untrained models give on random ids. The standard deviation is that of the embeddings."}}
settings = [
    (84, 64, 0.02),
    (1024, 128, 0.02),
    (4096, 256, 0.02),
    (1024, 128, 0.1),
    (1024, 128, 0.5),
]
table = [(*s, math.log(s[0]), predicted(*s), first_loss(*s)) for s in settings]
heads = ["V", "D", "std", "log V", "predicted", "measured"]
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt=("d", "d", ".2f", ".1f", ".1f", ".1f")))

# %% [markdown]
# With GPT-2's weights the prediction fits, and is $\log V$ for every practical purpose. With louder embeddings the
# model starts out firmly convinced that every token will be repeated, and the loss is 1.7 times $\log V$ in one row
# and nine times in the other: a confident beginner is expensive. (The prediction for 0.1 is a little high, since the
# blocks add noise to the stream that the formula leaves out.) Make it a habit to compute $\log V$ before you look at
# the first loss. If it is far above, the start is too loud. If it is *below*, the model knows something it has no
# right to know, and the place to look is the mask, or the shift of the targets.
#
# (sec-gpt-loop)=
# ## The smallest training loop
#
# Training repeats four lines: predict, measure, differentiate, step. Here they are with PyTorch's {term}`optimizer`,
# as a generator that hands out the loss of each step. AdamW {cite}`loshchilov2019` is gradient descent that gives
# every parameter a step length of its own; {ref}`ch-training` writes it out.


# %%
def fit(model, stream, steps, lr=3e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for step in range(steps):
        batch = stream(step)
        nats = loss(model(*batch.inputs), batch.targets)
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
        yield nats.item()


# %% [markdown]
# This loop *is* the gradient descent that some of the essays list as a step after training ({ref}`err-optimisation`).
# `stream(step)` is the batch of a step: a function, so that the data of any step can be asked for again. Our text is
# Shakespeare in characters, the model a GPT of 0.1 million parameters.

# %%
shakespeare = data.load("shakespeare")
train_text, validation_text = shakespeare.text("train"), shakespeare.text("validation")
characters = Characters.train(train_text)
letters = torch.tensor(characters.encode(train_text))
small = Config(vocab_size=characters.vocab_size, context=64, d_model=64, n_layers=2, n_heads=4)
torch.manual_seed(0)
model = GPT(small)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(letters):,} characters")

# %% [markdown]
# ### First test: learn one batch by heart
#
# A loop with a mistake in it often trains, only worse than it should, and no error message will ever say so. The best
# test is one where we know the answer. Give the loop the same sixteen rows again and again. A model with more
# parameters than there are characters in the batch must be able to memorise it, so the loss must fall to its floor.
# The floor is not quite zero: several rows may begin with the same character and go on differently, and no model that
# reads from left to right can know which row it is in. The best it can do is {prf:ref}`thm-ng-mle` with whole prefixes
# as contexts.

# %%
stream = sample(letters, context=64, batch_size=16)
one = stream(0)


def floor(rows):
    prefixes = [tuple(row[: t + 1]) for row in rows for t in range(len(row) - 1)]
    pairs = Counter(zip(prefixes, (w for row in rows for w in row[1:]), strict=True))
    starts = Counter(prefixes)
    return -sum(n * math.log(n / starts[h]) for (h, _), n in pairs.items()) / len(prefixes)


whole = torch.cat([one.inputs[0], one.targets[:, -1:]], 1)
by_heart = list(fit(copy.deepcopy(model), lambda step: one, 300))
print(
    f"log V = {math.log(84):.1f}; first loss {by_heart[0]:.1f}, after 300 steps {by_heart[-1]:.1f}"
)
least = floor(whole.tolist())
print(f"floor {least:.3f}; reached within 0.03:", by_heart[-1] - least < 0.03)

# %% [markdown]
# The first loss is $\log V$, the last is the floor. Two numbers that we knew beforehand, and between them many of the
# mistakes one can make: unshifted targets show in the first, a forgotten `zero_grad` or a mask that blinds in the
# last. A mask that leaks passes: it sinks below the floor, but here by less than a hundredth. {ref}`sec-gpt-leak` has
# a test for it. {ref}`ex-gpt-step` lets you try some of these.
#
# ### One step under the hood
#
# What goes through the loop in one step? {numref}`tab-gpt-step` follows the shapes. A row of 65 characters is 64
# inputs and 64 targets, so a batch of sixteen rows poses 1,024 questions, and one backward pass collects the answers to
# all of them. This is what document 4's own code gives away ({ref}`err-classifier`): after deriving
# {eq}`eq-gpt-document` it averages all positions into one vector (`GlobalAveragePooling1D`) and predicts one label for
# each text, which would be sixteen questions.

# %% mystnb={"figure": {"name": "tab-gpt-step", "caption": "One training step of the character GPT, from ids to the loss."}}
ids = one.inputs[0]
with torch.no_grad():
    x = model.embed(ids, torch.arange(64)[None])
    y = model.stack(x, causal=True)
    logits = model.head(y)
stations = {
    "inputs": (ids, "B, T: ids of characters"),
    "targets": (one.targets, "B, T: the same, one later"),
    "after the embeddings": (x, "B, T, D: character plus position"),
    "after the blocks": (y, "B, T, D: what each position has gathered"),
    "logits": (logits, "B, T, V: a score for each next character"),
    "loss": (loss(logits, one.targets), "one number"),
}
table = [(name, tuple(tensor.shape), what) for name, (tensor, what) in stations.items()]
Markdown(tabulate(table, ["station", "shape", "meaning"], tablefmt="pipe"))

# %% [markdown]
# The gradient promises something that can be tested. To first order, a plain step of length $\eta$ against the
# gradient $g$ lowers the loss by $\eta \lVert g \rVert^2$:
#
# $$
# L(\theta - \eta g) = L(\theta) - \eta \lVert g \rVert^2 + O(\eta^2).
# $$ (eq-gpt-step)

# %%
probe = copy.deepcopy(model).double()
before = loss(probe(*one.inputs), one.targets)
before.backward()
squares = sum(p.grad.square().sum() for p in probe.parameters()).item()
for eta in (1e-2, 1e-3, 1e-4):
    moved = copy.deepcopy(probe)
    with torch.no_grad():
        for p, q in zip(moved.parameters(), probe.parameters(), strict=True):
            p -= eta * q.grad
        fell = (before - loss(moved(*one.inputs), one.targets)).item()
    print(f"step length {eta:.4f}: fell by {fell / (eta * squares):.3f} of the promise")

# %% [markdown]
# The shorter the step, the better the promise is kept. It is a promise about *this* batch. Whether the loss also falls
# on text that the model has not seen is another matter, and the only one that counts.
#
# ### What it writes while it learns
#
# Now a fresh batch at every step. We stop at a few places and let the model write: 80 characters after an empty line,
# drawn from its own distribution.


# %%
def written(model, tokenizer, length=80, prompt="\n\n", **how):
    ids = generate(model, tokenizer.encode(prompt), length, **{"seed": 1, **how})
    return tokenizer.decode(ids)


# %% tags=["nbval-ignore-output"]
losses = []
for step, nats in enumerate(fit(model, stream, 400), start=1):
    losses.append(nats)
    if step in (1, 30, 100, 200, 400):
        print(f"--- step {step}, loss {nats:.2f}\n{written(model, characters)!r}")

# %%
for start in (0, 90, 190, 390):
    mean = np.mean(losses[start : start + 10])
    print(f"steps {start + 1:3} to {start + 10}: {mean:.1f} nats a character")

# %% [markdown]
# The order in which things are learnt can be read off. First the frequencies: spaces and *e* come out about as often as
# they should, and the loss is down to that of a {term}`unigram` model. Then which letter follows which; then short
# words, lines of the right length, capitals at their start, speakers with a full stop. Each stage is a longer context
# put to use, and each costs more steps than the one before. The model is climbing the ladder of {ref}`ch-ngram`, by
# itself, on one objective.
#
# (sec-gpt-leak)=
# ## A loss too good to be true
#
# Now the promised accident. `Leaky` is the network without the mask, on rows of 16 characters; same loop, same data. We
# ask for two numbers: its training loss, and its loss when the future is really not there, that is, when it reads
# eight characters and has to say the ninth.


# %%
@torch.no_grad()
def blind(model, stream, prefix=8):
    rows = torch.cat([stream(1000 + step).inputs[0] for step in range(16)])
    return loss(model(rows[:, :prefix])[:, -1], rows[:, prefix]).item()


torch.manual_seed(0)
leaky, short = Leaky(replace(small, context=16)), sample(letters, context=16, batch_size=64)
leaky_losses = list(fit(leaky, short, 250, lr=1e-2))
untrained = GPT(small)
print(f"no mask: training loss {np.mean(leaky_losses[-20:]):.1f} nats a character")
print(
    f"with it, next character: {blind(model, short):.1f}; untrained: {blind(untrained, short):.1f}"
)
print("no mask, next character, worse than untrained:", blind(leaky, short) > 1.5 * math.log(84))

# %% [markdown]
# Within a few hundred steps the loss without the mask is down to next to nothing. The answer stands one place to the
# right, and copying it is the first thing that gradient descent finds. (Next to nothing is what the last position of
# each row still pays, the only one whose answer lies outside.) Nothing else is learnt. Without the future, the model
# is *worse* than one that has never been trained: it copies from a place where there is nothing. No error, no warning,
# the best curve of the chapter. This is why the mask is not a detail that an explanation of GPT may leave out
# ({ref}`err-mask`).
#
# (sec-gpt-real)=
# ## Two networks, one text
#
# Now in earnest. The text is the Shakespeare corpus of {ref}`ch-ngram`, with the same plays held out, in
# {term}`byte-level BPE` tokens. Two models read it. One is the LSTM of {ref}`ch-rnn`. The other is a GPT: three blocks
# as {ref}`ch-transformer` built them, for tokens, positions and an output layer. Since we have minutes and not weeks,
# five details are chosen for speed, and {ref}`sec-tr-ablation` measures what they are worth, with a surprise:
#
# - positions are rotary ({ref}`sec-at-positions`), not learned;
# - the MLP bends by the squared ReLU, $\max(0, a)^2$ {cite}`so2021`;
# - there are no biases, and the output layer has a table of its own;
# - each embedding is mixed with those of the three tokens before it, $x_t = e_t + \sum_{k=1}^{3} c_k \odot e_{t-k}$,
#   with learnt vectors $c_k$ that start at zero: a *short convolution*, after {cite}`so2021`;
# - the matrices inside the blocks are trained by Muon {cite}`jordan2024`, not AdamW.
#
# Without the short convolution, attention has to learn first what an n-gram model is given, namely which token stood
# just before. {numref}`fig-gpt-position` will show that this is where most of the information lies. The recipes are
# presets of the package, so that other chapters get the same models, and the command line can follow them on your own
# text.
#
# `presets.trained` trains at the first call, with a progress bar and a curve that grows below the cell, and keeps the
# result; the second call takes a moment. Interrupt it, and the next call goes on where it was. On two cores the two
# trainings take most of this chapter's minutes.

# %% tags=["nbval-ignore-output", "remove-output"]
gpt, units, gpt_log = presets.trained("gpt", watch=plots.live())

# %% tags=["nbval-ignore-output", "remove-output"]
lstm, _, lstm_log = presets.trained("lstm", watch=plots.live())

# %%
splits = {name: shakespeare.text(name) for name in ("train", "validation", "test")}
ids = {name: torch.tensor(units.encode(text)) for name, text in splits.items()}
counts = count(ids["train"], order=6, vocab_size=units.vocab_size)
counting = ngram.ModifiedKneserNey(counts)
unigram = ngram.ModifiedKneserNey(replace(counts, tables=counts.tables[:1]))

# %% mystnb={"figure": {"name": "tab-gpt-models", "caption": "What is compared. Tokens read counts repetitions; the last column says how often that is the training text. A table of counts has no parameters in the usual sense; its row gives the stored n-grams."}}
table = [
    (
        "counting, order 6",
        f"{sum(len(t.keys) for t in counts.tables):,}",
        f"{len(ids['train']):,}",
        "1.0",
    )
]
for name, net, log in (("LSTM", lstm, lstm_log), ("GPT", gpt, gpt_log)):
    read = log[-1]["tokens"]
    size = sum(p.numel() for p in net.parameters())
    table.append((name, f"{size:,}", f"{read:,}", f"{read / len(ids['train']):.1f}"))
heads = ["model", "parameters", "tokens read", "times the text"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% tags=["nbval-ignore-output"]
for name, log in (("GPT", gpt_log), ("LSTM", lstm_log)):
    print(f"{name}: {log[-1]['seconds']:.0f} s of training on the machine that stored this page")

# %% [markdown]
# {numref}`tab-gpt-models` has the sizes. The networks do not see the text even twice, on two cores, in minutes. So
# document 1's answer to "can I train on my own computer?", which asks for graphics cards or a cloud, is right about
# *large* models only ({ref}`faq-laptop`).
#
# ### Reading the curves
#
# {numref}`fig-gpt-curves` shows the loss on the text being read and on the validation plays, in nats per token, over
# the tokens read. The training loss is measured on each batch *before* the model learns from it, and on a text that
# is read about once such a batch is as new as the validation plays are. So learning by heart opens no wide gap. What
# gap there is at the end, about a quarter of a nat for the GPT, is mostly that between plays: the training plays
# resemble each other, the held-out ones are others.

# %%
bill = {"counting": evaluate.nll(counting, ids["validation"])}
bar = bill["counting"].mean().item()

# %% mystnb={"figure": {"name": "fig-gpt-curves", "caption": "Loss over tokens read, for the GPT and the LSTM: on the batches (train) and on the whole validation text (val). The horizontal line is counting, which has read the whole text."}, "image": {"alt": "Line chart, loss in nats per token over millions of tokens read. Both networks fall steeply and then ever more slowly; the validation line of the GPT lies below that of the LSTM, and the training lines start above the validation lines and end below them, by about 0.2 nats."}}
ax = plots.axes("tokens read, millions", "nats per token")
for name, log in (("GPT", gpt_log), ("LSTM", lstm_log)):
    read = [record["tokens"] / 1e6 for record in log]
    curves = {f"{name}, {part}": [r[f"{part}_loss"] for r in log] for part in ("train", "val")}
    plots.lines(read, curves, "tokens read, millions", "nats per token", ax=ax)
ax.axhline(bar, color="0.4", linestyle=":", label="counting, order 6")
ax.legend()
ends = {"GPT": gpt_log[-1]["val_loss"], "LSTM": lstm_log[-1]["val_loss"], "counting": bar}
print("validation:", {name: round(nats, 1) for name, nats in ends.items()})

# %% [markdown]
# (sec-gpt-ruler)=
# ## On the ruler
#
# Every model pays for the same text, and {term}`bits per byte` say how much. `evaluate.nll` gives the price of each
# single token, which we keep, since the question "where?" comes next. Long texts are read in windows of the model's
# context; a class of four lines lets `evaluate.score` turn stored prices into a score with its interval.


# %%
class Paid:
    """A model known by what it paid, in nats, for each token of one text."""

    vocab_size, context = units.vocab_size, None

    def __init__(self, nats):
        self.nats = nats

    def score(self, ids):
        return -self.nats[None]


def score(nats, split="validation"):
    return evaluate.score(Paid(nats), units, splits[split])


with threads():
    bill["GPT"] = evaluate.nll(gpt, ids["validation"])
    bill["LSTM"] = evaluate.nll(lstm, ids["validation"], context=gpt.context)
bill["unigram"] = evaluate.nll(unigram, ids["validation"])
assert abs(score(bill["GPT"]).bits_per_byte - gpt_log[-1]["bits_per_byte"]) < 1e-3

# %% [markdown]
# One more contestant costs nothing. Counting and a GPT make different mistakes, so let them vote: with a weight
# $\lambda$ chosen on validation,
#
# $$
# P(w \mid h) = \lambda\, P_{\mathrm{GPT}}(w \mid h) + (1 - \lambda)\, P_{\mathrm{count}}(w \mid h).
# $$ (eq-gpt-mixture)
#
# A mixture of two distributions is a distribution, and it costs at most $\log \frac{1}{\lambda}$ more than the GPT on
# any token. This {term}`interpolation` was the usual way to use neural models when they were young
# {cite}`bengio2003,mikolov2010`, and it has come back with retrieval and with n-grams over trillions of tokens
# {cite}`liu2024infinigram`.


# %%
def mix(a, b, share):
    """What the mixture pays where its members pay a and b: -log(share e^-a + (1 - share) e^-b)."""
    a, b = a.double(), b.double()
    return -torch.logaddexp(math.log(share) - a, math.log(1 - share) - b)


shares = [0.1, 0.3, 0.5, 0.7, 0.9]
mixed = [score(mix(bill["GPT"], bill["counting"], s)).bits_per_byte for s in shares]
best_share = shares[int(np.argmin(mixed))]
bill["GPT + counting"] = mix(bill["GPT"], bill["counting"], best_share)
print("by the share of the GPT:", {s: round(b, 1) for s, b in zip(shares, mixed, strict=True)})

# %% [markdown]
# The valley is flat: to one decimal the five shares cost the same. The lowest cost lies near the even vote, and its
# share is the one we take; at the ends a few hundredths of a bit are lost. All choices are made. Now the {term}`test
# set`, once.

# %%
test = {
    "unigram": evaluate.nll(unigram, ids["test"]),
    "counting": evaluate.nll(counting, ids["test"]),
}
with threads():
    test["LSTM"] = evaluate.nll(lstm, ids["test"], context=gpt.context)
    test["GPT"] = evaluate.nll(gpt, ids["test"])
test["GPT + counting"] = mix(test["GPT"], test["counting"], best_share)
finals = {name: score(nats, "test") for name, nats in test.items()}

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-gpt-ruler", "caption": "Bits per byte on Shakespeare: validation plays, test plays with a 95 % interval over passages, and the paired difference to counting on the test plays (negative: better than counting). One training run each of the networks."}}
table = [("uniform over 256 bytes", "8.00", "8.00", "")]
for name, final in finals.items():
    low, high = final.interval
    gap, gap_low, gap_high = final.minus(finals["counting"])
    versus = "" if name == "counting" else f"{gap:+.2f} [{gap_low:+.2f}, {gap_high:+.2f}]"
    held = f"{final.bits_per_byte:.2f} [{low:.2f}, {high:.2f}]"
    table.append((name, f"{score(bill[name]).bits_per_byte:.2f}", held, versus))
heads = ["model", "validation", "test", "minus counting"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %%
print({name: round(final.bits_per_byte, 1) for name, final in finals.items()})
print("the mixture beats counting:", finals["GPT + counting"].minus(finals["counting"])[2] < 0)
print("the LSTM does not:", finals["LSTM"].minus(finals["counting"])[1] > 0)

# %% [markdown]
# {numref}`tab-gpt-ruler` deserves a slow reading.
#
# *The GPT has caught up with counting, and passed it by a little.* In minutes, with a fifth of the numbers, and after
# reading the text about once. The difference on the test plays is small, and the interval of the last column, which
# compares the two on the same passages, leaves zero out. The seed is another matter: another run of the same recipe
# would land within a hundredth or two of this one, so "level, or slightly ahead" is what the table supports.
#
# *The LSTM has not.* It has the same tokens, the same text and the same objective. It must pass all that it remembers
# through one vector, step by step ({ref}`ch-rnn`), and it cannot read the tokens of a row at once, so it got through
# fewer of them. Whatever distance the table shows belongs to these two recipes and not to the two ideas; an LSTM of
# more width and patience does better {cite}`jozefowicz2016`.
#
# *The mixture beats them all*, and its lead over the GPT and over counting is several times the difference between
# those two. So the GPT knows something that four and a half million stored n-grams do not contain, and the n-grams
# hold something that it has not learnt.
#
# Counting takes every line down at the first sight of it, exactly, and is then finished: {numref}`fig-ng-methods`
# showed that longer contexts give it nothing more. Gradient descent spends six operations per parameter on every token
# and moves each weight by a hair; what it learns from a line it also learns about all lines like it. The curves of
# {numref}`fig-gpt-curves` end while they are still falling.
#
# ### With more patience
#
# A chapter has minutes. The same recipe with five times the steps was recorded once, with the command below;
# {numref}`fig-gpt-long` sets its curve beside the line of counting.

# %% mystnb={"figure": {"name": "fig-gpt-long", "caption": "A recorded run of the chapter's recipe with five times the steps: bits per byte on the validation plays by passes over the training text. The horizontal line is counting, which has read the whole text once."}, "image": {"alt": "Line chart over passes through the text, from 0 to 5. The curve of the GPT falls steeply at first, halts in the second half of the first pass, and then falls steadily; early in the fifth pass it crosses the horizontal line of counting, and it ends well below."}}
record = presets.recorded("gpt")
passes = [row["tokens"] / len(ids["train"]) for row in record["rows"]]
bits = [row["bits_per_byte"] for row in record["rows"]]
bar_bits = score(bill["counting"]).bits_per_byte
series = {"GPT, recorded": bits, "counting, order 6": [bar_bits] * len(bits)}
plots.lines(passes, series, "passes over the training text", "bits per byte (validation)")
crossed = next(row for row in record["rows"] if row["bits_per_byte"] < bar_bits)
print(record["command"], record["machine"], record["date"], sep="\n")
print(f"{min(bits):.2f} bits per byte at best; counting {bar_bits:.2f}")
print(
    f"below counting after {crossed['seconds'] / 60:.0f} of {record['rows'][-1]['seconds'] / 60:.0f} minutes"
)

# %% [markdown]
# Five passes over the same text still help. The curve halts in the second half of the first pass. That is not a limit
# of the model: there the steps are still long. The schedule makes them shorter all the time ({ref}`ch-training`), and
# the last pass brings more than any since the first. Long steps are also why the long run, at equal numbers of tokens,
# is *behind* the short one for most of its way.
#
# The intervals of {numref}`tab-gpt-ruler` say how the numbers would vary with the *passages*. How they vary with the
# seed of the training is another matter; further below three seeds of a small GPT show by how much.
#
# (sec-gpt-where)=
# ## Where they differ
#
# An average hides what a model is good at. We have the price of every token under every model, so we can sort the
# tokens and compare within each kind.
#
# ### How much there is to read
#
# The GPT reads windows. The first token of a window is predicted from one token, the last from all others. Counting
# always has its five. {numref}`fig-gpt-position` averages the price over the windows, by position.

# %% mystnb={"figure": {"name": "fig-gpt-position", "caption": "Nats per token by the number of tokens that the GPT has to go by. All three models pay for the same tokens; positions are pooled so that each mark averages thousands of tokens."}, "image": {"alt": "Line chart with a logarithmic horizontal axis from 1 to 128 tokens of context. The line of counting is nearly flat. The lines of the GPT and the LSTM fall steeply over the first few tokens and slowly afterwards."}}
place = torch.arange(len(bill["GPT"])) % gpt.context + 1
edges = [1, 2, 3, 5, 9, 17, 33, 65, gpt.context + 1]
pools = [(place >= a) & (place < b) for a, b in pairwise(edges)]
middle = [(a + b - 1) / 2 for a, b in pairwise(edges)]
names = ("GPT", "LSTM", "counting")
curves = {name: [bill[name][pool].mean().item() for pool in pools] for name in names}
ax = plots.lines(middle, curves, "tokens of context in the window", "nats per token", log="x")
plots.plain_ticks(ax, "x")
for name in ("GPT", "counting"):
    print(f"{name:8}", [round(value, 1) for value in curves[name]])

# %% tags=["nbval-ignore-output"]
late = place > gpt.context // 2
for what, chosen in (("all tokens", place > 0), ("second half of the window", late)):
    gap = (bill["GPT"] - bill["counting"])[chosen].mean().item() / math.log(2)
    print(f"{what}: GPT minus counting {gap:+.2f} bits per token")

# %% [markdown]
# Counting's line in {numref}`fig-gpt-position` is flat: it sees its five tokens anywhere. The GPT's line falls, and
# nearly all of the fall is over the first dozen tokens. At the very start of a window it has next to nothing to go by,
# an artefact of how we cut the text, which is counted against it in every table above. Beyond a dozen tokens it gains
# hardly anything yet. That is a statement about training and not about reach: attention could look at all 128, and a
# model that had learnt to use them would go on falling. Most of what helps to predict a token stands right before it,
# so gradient descent serves that first. It is also why the short convolution pays.
#
# ### Which tokens
#
# Three properties of the token that came: how often it occurs in the training text, whether it starts a word, goes on
# with one, or is punctuation, and whether it has occurred a short while ago.

# %%
frequency = torch.bincount(ids["train"], minlength=units.vocab_size)[ids["validation"][1:]]
pieces = [units.token_bytes(i).decode(errors="replace") for i in range(units.vocab_size)]
begins = torch.tensor([piece.lstrip(" \n")[:1].isalpha() for piece in pieces])
spaced = torch.tensor([piece[:1].isspace() for piece in pieces])
ended = torch.tensor([piece[-1:].isalpha() or piece[-1:] == "'" for piece in pieces])
now, last = ids["validation"][1:], ids["validation"][:-1]
inside = begins[now] & ~spaced[now] & ended[last]
starts = begins[now] & ~inside


# %%
def since(stream):
    """How many tokens ago each token of stream[1:] last occurred; huge where it has not."""
    seen, ago = {}, []
    for place, token in enumerate(stream.tolist()):
        ago.append(place - seen.get(token, -(10**6)))
        seen[token] = place
    return torch.tensor(ago[1:])


ago = since(ids["validation"])
rare = frequency < 1000
kinds = {
    "word starts": starts,
    "inside words": inside,
    "punctuation, line ends": ~starts & ~inside,
    "frequent (over 10,000 times)": frequency > 10_000,
    "rare (under 1,000 times)": rare,
    "rare, last seen 7 to 60 tokens ago": rare & late & (ago > 6) & (ago <= 60),
    "rare, not within 500 tokens": rare & late & (ago > 500),
}

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-gpt-kinds", "caption": "Bits per token by kind of token, on the validation plays. Last column: the GPT minus counting, with twice its standard error."}}
table = []
for kind, chosen in kinds.items():
    bits = {name: bill[name][chosen].double() / math.log(2) for name in ("counting", "LSTM", "GPT")}
    gap = bits["GPT"] - bits["counting"]
    error = 2 * gap.std().item() / len(gap) ** 0.5
    means = [f"{value.mean():.1f}" for value in bits.values()]
    share = f"{chosen.double().mean():.2f}"
    table.append((kind, share, *means, f"{gap.mean():+z.1f} ± {error:.1f}"))
heads = ["token", "share", "counting", "LSTM", "GPT", "GPT minus counting"]
Markdown(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# {numref}`tab-gpt-kinds` shows where bits are spent at all: at the start of a word, where the future is open, far more
# than inside it, where spelling settles most. Both models agree about that, as Shannon's reader did in
# {ref}`ch-concepts`. And it shows that equal means hide opposite talents. At line ends and punctuation, where the form
# of a sentence and of a verse decides, the GPT is well ahead of a table of four and a half million entries. *Inside*
# words it pays more. How "cou-n-ten-ance" goes on is a fact to be stored, and the table stored it at the first
# sighting.
#
# Rarity tells the same story. Frequent tokens the GPT predicts better than the table. For a rare one, the table has its
# few sightings filed under their exact contexts, and the network has had a few small pushes at one embedding among a
# thousand.
#
# The last two lines hold rarity fixed and vary the distance of the last occurrence. A table of order 6 cannot know
# whether a token occurred ten or a thousand tokens ago. The GPT's deficit is smaller where the token has just been
# mentioned, which looks as if it had begun to use the page it is reading.
#
# ### Does it copy from its context?
#
# Looks as if. The last lines of {numref}`tab-gpt-kinds` do not prove that the GPT uses what was said dozens of tokens
# ago, because a token that has just occurred may be likely for other reasons. Proof takes an intervention: change
# the context, and nothing else. We invent two speakers who occur in no play. They take turns; each says a line from
# the validation plays. Then it is the second speaker's turn again. What does the name cost? In the control a third name
# stands in the second speaker's place, so the price is for a name that has not been mentioned.

# %%
NAMES = "MARDONIUS BELFORT TRASIMEN OSWALDINE CORVELLO HELDRIC FABRINO LUSANDER".split()
assert not any(name in shakespeare.text() for name in NAMES)
lines = [s.split(".\n", 1)[-1] for s in splits["validation"].split("\n\n") if s[:3].isupper()]
lines = [line for line in lines if 20 < len(line) < 60 and "\n" not in line]


def scene(first, second, said):
    return "\n\n".join(
        f"{who}.\n{line}" for who, line in zip((first, second, first), said, strict=True)
    )


def price(model, context, name):
    """Bits for a speaker's name and full stop after the context and an empty line."""
    tokens = units.encode(f"{context}\n\n{name}.")
    sizes = np.cumsum([len(units.token_bytes(i)) for i in tokens])
    paid = evaluate.nll(model, torch.tensor(tokens))
    return paid[torch.from_numpy(sizes[1:] > len(context) + 2)].sum().item() / math.log(2)


# %%
rng = np.random.default_rng(0)
readers = {"counting": counting, "LSTM": lstm, "GPT": gpt}
paid = {name: [] for name in readers}
for _ in range(40):
    first, second, third = rng.choice(NAMES, 3, replace=False)
    said = rng.choice(lines, 3, replace=False)
    for name, model in readers.items():
        with_name, without = (
            price(model, scene(first, who, said), second) for who in (second, third)
        )
        paid[name].append((with_name, without))

# %% tags=["nbval-ignore-output"] mystnb={"figure": {"name": "tab-gpt-copy", "caption": "Bits for an invented speaker's name when the context contains it and when another name stands in its place; means of 40 scenes. The saving, with twice its standard error, is caused by the context alone."}}
table = []
for name, pairs in paid.items():
    seen, unseen = np.array(pairs).T
    saved = unseen - seen
    error = 2 * saved.std(ddof=1) / len(saved) ** 0.5
    table.append(
        (name, f"{seen.mean():.0f}", f"{unseen.mean():.0f}", f"{saved.mean():z.0f} ± {error:.0f}")
    )
Markdown(
    tabulate(
        table,
        ["model", "mentioned", "not mentioned", "saved"],
        tablefmt="pipe",
        disable_numparse=True,
    )
)

# %% [markdown]
# Counting saves exactly nothing in {numref}`tab-gpt-copy`, as it must: between the two mentions lies a whole speech.
# The networks save next to nothing. A reader would save nearly all: after the first speaker's second speech it is the
# second speaker's turn. So the suspicion raised by {numref}`tab-gpt-kinds` was too kind, and the intervention has done
# its duty. A rare word that returns mostly returns for reasons that a model can guess without looking back: same scene,
# same subject, same style. Copying what one has just read takes two layers of attention that work together.
# {ref}`sec-at-induction` found them in a model that was trained on nothing else; in general text there are easier gains
# to be made first.
#
# ### Are its probabilities frequencies?
#
# If training balanced the pushes of {eq}`eq-gpt-gradient`, a token's probability, averaged over the text, would equal
# its frequency. How near does the GPT come? On the *validation* plays this is a prediction, and a fixed list of
# frequencies, learnt from other plays, is the baseline. The distance between two distributions is the share of mass
# that one would have to move, half the sum of the differences.


# %% tags=["nbval-ignore-output"]
@torch.no_grad()
def expected_frequencies(model, stream, context):
    rows = stream[: len(stream) // context * context].view(-1, context)
    return torch.stack([model(part).softmax(-1).mean((0, 1)) for part in rows[:96].split(32)]).mean(
        0
    )


def distance(p, q):
    return (p - q).abs().sum().item() / 2


def frequencies(stream):
    return torch.bincount(stream, minlength=units.vocab_size).double() / len(stream)


with threads():
    expected_by_gpt = expected_frequencies(gpt, ids["validation"], gpt.context)
actual = frequencies(ids["validation"][1 : 96 * gpt.context + 1])
print(
    f"mass out of place: GPT {distance(expected_by_gpt, actual):.2f}, "
    f"training frequencies {distance(frequencies(ids['train']), actual):.2f}"
)

# %% [markdown]
# Zero would mean that the model expects each token exactly as often as it comes. The list of frequencies describes the
# average of the training plays; the GPT reads before it speaks and could adapt to the page. By this measure it hardly
# does yet. What matters more: nobody asked for averages, and they came out a little nearer than the list.
#
# ## What it writes
#
# Numbers first, text second, because fluent text persuades. Here is what the GPT makes of an empty line, and of the
# beginning of a scene that Shakespeare did not write. Each continuation is the first that came; none was chosen.

# %% tags=["nbval-ignore-output"]
print(written(gpt, units, length=160).strip())
print("\n-----\n")
print("ROMEO.\nOnce upon a time" + written(gpt, units, 100, prompt="ROMEO.\nOnce upon a time"))

# %% [markdown]
# Lines have the length of verse, speeches have speakers, sentences agree for a few words. No speech has a subject,
# and nothing adds up. That is what a loss of this size buys. {ref}`ch-generation` shows, on a model of about this
# size, how much depends on choosing carefully among what a model offers, and document 1's "creative" stories
# ({ref}`err-quality-claims`) need a larger model, or more training, than we have here.
#
# (sec-gpt-overfitting)=
# ## Overfitting, on purpose
#
# Document 4's code trains for a hundred {term}`epochs <epoch>`, without validation data, and nobody watches
# ({ref}`err-epochs`). What happens then depends on how much text there is. Our GPT has read its text about once and
# could not have learnt it by heart. So let us take the text away: one part in 256 of it, sixteen thousand characters,
# read some twenty times by a small GPT. {numref}`fig-gpt-overfit` shows three runs that differ in one thing each: the
# small text; the small text with *dropout*, which switches off a random third of each block's output at every step
# {cite}`srivastava2014`; and sixteen times as much text for the same number of steps.

# %% tags=["nbval-ignore-output"]
scrap = ids["train"][: len(ids["train"]) // 256]
more = ids["train"][: len(ids["train"]) // 16]
held = splits["validation"][:15_000]
tiny = Config(vocab_size=units.vocab_size, context=64, d_model=96, n_layers=2, n_heads=4)
plan = TrainConfig(steps=320, batch_size=8, learning_rate=5e-3, warmup=20, final=1.0, eval_every=32)


def overfit(stream_ids, dropout=0.0, seed=0, plan=plan):
    torch.manual_seed(seed)
    net = GPT(replace(tiny, dropout=dropout))
    batches = sample(stream_ids, tiny.context, plan.batch_size, seed)
    validate = validation(held, units, tiny.context)
    return net, train(net, batches, replace(plan, seed=seed), validate, progress=False)


runs = {
    "1/256 of the text": overfit(scrap),
    "with dropout": overfit(scrap, 0.35),
    "1/16 of the text": overfit(more),
}

# %% mystnb={"figure": {"name": "fig-gpt-overfit", "caption": "Overfitting and two remedies. Left: loss on the batches; right: loss on held-out plays. The run on little text learns its text by heart and gets worse on all others; dropout slows both; more text removes the problem."}, "image": {"alt": "Two line charts over 320 steps. Left: the training loss on the small text falls furthest, with dropout less, with more text least. Right: the held-out loss on the small text falls to 5.8 by step 64 and climbs to 7.4; with dropout it falls to 6.0 and barely rises; with more text it falls throughout, to 5.3."}}
left, right = plots.panels(2, size=(8.4, 3.4))
steps = [record["step"] for record in runs["with dropout"][1]]
for ax, part, label in ((left, "train_loss", "training"), (right, "val_loss", "held out")):
    curves = {name: [record[part] for record in log] for name, (_, log) in runs.items()}
    plots.lines(steps, curves, "step", "nats per token", ax=ax).set_title(label)
for name, (_, log) in runs.items():
    held_out = [record["val_loss"] for record in log]
    best = int(np.argmin(held_out))
    end, low, last = log[-1]["train_loss"], held_out[best], held_out[-1]
    print(f"{name}: training ends at {end:.1f}; held out, best {low:.1f}, last {last:.1f}")

# %% [markdown]
# The two panels of {numref}`fig-gpt-overfit` must be read together. On the left, the run on the scrap of text looks
# like the best of the three by far. On the right, the same run improves for sixty steps, turns around, and climbs past
# $\log V \approx 6.9$: in the end it predicts fresh Shakespeare *worse than an untrained model*. It has stopped
# learning Shakespeare and begun to learn these pages. In the language of {prf:ref}`thm-gpt-kl`, it approaches the
# distribution of the sample, which is not the distribution of the source, and it pays for every false certainty.
#
# Three remedies, in the order of their strength:
#
# - *More text.* With sixteen times as much, nothing turns around, although model, steps and rate are the same. It is
#   the best remedy, and the one that cannot always be had.
# - *Stopping in time.* The curve on the right says when: at its lowest point. That is what validation data are for, and
#   it costs nothing but looking. {ref}`ex-gpt-stop` makes a rule of it. Since the moment is *chosen* on the held-out
#   text, its loss there is a little flattered, and the test text has to be another ({ref}`err-validation`).
# - *Dropout.* It makes learning by heart harder, and the turn comes later and much milder. It also slows down what is
#   worth learning: its lowest point is *above* that of the run without, so here stopping in time was the better remedy.
#   A model that reads its text once, as ours did, needs neither.
#
# And the seed? Initial weights, the order of the data and dropout are all drawn from it. Here is the run on more text
# after 96 steps, with three seeds:

# %%
short_plan = replace(plan, steps=96, eval_every=96)
again = [overfit(more, seed=seed, plan=short_plan)[1][-1] for seed in (1, 2)]
ends = [record["bits_per_byte"] for record in (runs["1/16 of the text"][1][2], *again)]
print("bits per byte:", [round(end, 1) for end in ends])

# %% [markdown]
# They differ in the first decimal at most, but they do differ. {ref}`ch-training` repeats its comparisons over seeds
# for this reason.
#
# ## Memorised or new?
#
# In {ref}`ch-ngram` the unsmoothed table of order 6 recited for 147 characters at a stretch, and the smoothed one
# copied 27, where a real play quotes 17. The same question to the GPT, and to the small one that has just been trained
# until it knew its scrap of text: what is the longest stretch of 400 written characters that stands, letter by letter,
# in the text that the model was trained on?


# %%
def longest_copy(text, source):
    """Length of the longest stretch of text that occurs in source."""
    length = 0
    for start in range(len(text)):
        while start + length < len(text) and text[start : start + length + 1] in source:
            length += 1
    return length


scrap_text = units.decode(scrap.tolist())
memoriser = runs["1/256 of the text"][0].eval()


# %% tags=["nbval-ignore-output"]
def copies(net, source, **how):
    texts_written = [written(net, units, 200, seed=seed, **how)[:400] for seed in range(3)]
    return [longest_copy(text, source) for text in texts_written]


def quotes(source):
    places = range(0, 500_000, 100_000)
    return [longest_copy(splits["validation"][i : i + 400], source) for i in places]


for name, net, source in (("GPT", gpt, train_text), ("memoriser", memoriser, scrap_text)):
    greedy = written(net, units, 200, prompt="LAFEU.\n", temperature=0.0)[:400]
    print(
        f"{name}: drawn {copies(net, source)}, greedy {longest_copy(greedy, source)}, "
        f"held-out plays {sorted(quotes(source))}"
    )

# %% [markdown]
# The last list of each line is the yardstick: what plays of the same author share with that source by chance and by
# idiom. The GPT stays within it. What it writes is, by this measure, its own. The memoriser's source is 256 times
# shorter, so there is much less to hit by chance, and real plays share less with it; the memoriser's best quotation is
# longer than any of theirs. It has no other words. The difference between the two models is neither the
# architecture nor the objective. It is how often each has read each line, and large models, too, recite what they have
# read often {cite}`carlini2021,carlini2023,lee2022dedup`. The longest copy is a blunt instrument, of course: a
# paraphrase or a changed name escapes it.
#
# (sec-gpt-out)=
# ## Out of the house
#
# The weights are ours. Does our code compute what the world calls a GPT? The test is to hand weights to code that we
# did not write. The `transformers` library {cite}`wolf2020` has a GPT-2, which knows nothing of our five details. But
# the small models of the last section were built with the plain fields of {ref}`ch-transformer`, and those are
# GPT-2's {cite}`radford2019`: learned positions, GELU, biases, one table for both ends. So it is the one trained on a
# sixteenth of the text that goes out. `save_gpt2` writes a folder in the library's format; the library opens it and
# must give the same logits. From here on the network stays closed: whatever works, works offline.

# %%
from transformers import GPT2LMHeadModel, GPT2Tokenizer
from transformers.utils import logging

logging.disable_progress_bar()

small_gpt2, folder = runs["1/16 of the text"][0].eval(), tempfile.mkdtemp()
save_gpt2(small_gpt2, units, folder)
theirs = GPT2LMHeadModel.from_pretrained(folder).double().eval()
some = ids["validation"][: small_gpt2.context][None]
with torch.no_grad():
    ours = copy.deepcopy(small_gpt2).double()(some)
    torch.testing.assert_close(ours, theirs(some).logits, atol=1e-9, rtol=0)
print("same logits as transformers, to 1e-9:", tuple(ours.shape))

# %% [markdown]
# And so the code of documents 0 and 1 runs, on a model that we trained from nothing. Document 0, section 5, word for
# word but for the two names (with a network, uncomment the originals and get OpenAI's model of 124 million parameters
# instead):

# %% tags=["nbval-ignore-output"]
tokenizer = GPT2Tokenizer.from_pretrained(folder)  # GPT2Tokenizer.from_pretrained('gpt2')
model = GPT2LMHeadModel.from_pretrained(folder)  # GPT2LMHeadModel.from_pretrained('gpt2')

input_text = "Once upon a time"
input_ids = tokenizer.encode(input_text, return_tensors="pt")

output = model.generate(input_ids, max_length=50, num_return_sequences=1)
decoded_text = tokenizer.decode(output[0], skip_special_tokens=True)

print(decoded_text)

# %% [markdown]
# Document 1, section 5, likewise. Its 200 tokens are more than this model's context of 64, so the length is the one
# change ({ref}`err-length`); {ref}`ch-generation` has a larger one that takes them all.

# %% tags=["nbval-ignore-output"]
inputs = tokenizer.encode("Once upon a time", return_tensors="pt")
outputs = model.generate(inputs, max_length=60, temperature=0.7)  # max_length=200 with 'gpt2'

print(tokenizer.decode(outputs[0]))

# %% [markdown]
# Both samples run, and show what they are. Neither builds or trains a model, whatever their texts say
# ({ref}`err-build`); that was the rest of this chapter. `max_length` counts the prompt ({ref}`err-max-length`). Without
# sampling there is one answer, always the same, and the temperature of document 1 is ignored, with a message by the
# library ({ref}`err-temperature`); so the text soon runs in circles. `encode` gives no mask
# ({ref}`err-attention-mask`), harmless here, and the second sample would print special tokens if there were any
# ({ref}`err-special-tokens`). {ref}`ch-generation` repairs all of this. What matters here is the path: a model from
# scratch, through an objective of one line and a loop of ten, into a folder that the most widely used library opens as
# one of its own.
#
# The same door opens inwards. `minilm.gpt2_files.load_gpt2` reads such a folder, so OpenAI's GPT-2 can be examined with
# the tools of this book by anyone who has downloaded it.
#
# What we have made is the first half of what document 1 describes in its section 3: {term}`pretraining`, whose goal it
# states correctly as the likelihood of the text. The second half, {term}`fine-tuning` to a task, starts from such a
# model and is the subject of {ref}`ch-finetuning`. Document 4 divides language models into generative and
# discriminative ones; ours is generative, and it can discriminate as well, by Bayes' rule ({ref}`err-generative`). And
# of the models that documents 1 and 3 put side by side, GPT is the one trained this way; BERT and T5 are trained to
# fill gaps ({ref}`err-predict-next`).
#
# ## The answer
#
# *What do one objective, minutes of computing and a Transformer add up to?* To a model that has gone from a little
# over 4 bits per byte, the price of guessing evenly among 1,024 tokens, to the figure in {numref}`tab-gpt-ruler`, by
# nothing but probability minus truth at the logits. It spells, keeps the form of a play, and pays a little less for
# new plays than a table that has stored the whole text; it errs in other places than the table does, and the two
# together are better than either. With more steps it leaves the table behind
# ({numref}`fig-gpt-long`). Which steps, and how to take them, is the subject of {ref}`ch-training`.
#
# ## What we learnt
#
# - Maximum likelihood, the cross-entropy loss and the least KL divergence from the source are one objective.
# - At the logits its gradient is probability minus truth. Everything else is the chain rule.
# - The first loss is $\log V$, and one batch must be learnt down to its floor. Test both before any long run.
# - A loss that is too good is a leak until proved otherwise.
# - The smallest training loop has ten lines. One row of $T$ tokens asks $T$ questions at once.
# - Means hide where models differ: compare token by token, and change the context to see what it causes.
# - A GPT of minutes is level with counting and one of half an hour is ahead. They err differently; a mixture beats
#   both.
# - Overfitting shows in two curves, never in one. More text cures it; stopping in time and dropout soften it.
# - A line that was read often is recited far more easily than one that was read once.
# - The same weights give the same logits in `transformers`, and run everything that is written for GPT-2.
#
# ## Exercises
#
# ```{exercise} The gradient at another temperature
# :label: ex-gpt-gradient
#
# Divide the logits by a temperature $\tau$ before the softmax: $\ell = -\log \operatorname{softmax}(z / \tau)_w$.
# Derive the gradient, and write `gradient(z, w, tau)` for one position, without automatic differentiation.
# ```


# %% tags=["exercise"]
def gradient(z, w, tau=1.0):
    """The gradient of -log softmax(z / tau)[w] with respect to z, a tensor of V logits."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def gradient(z, w, tau=1.0):
    """The gradient of -log softmax(z / tau)[w] with respect to z, a tensor of V logits."""
    p = (z / tau).softmax(-1)
    p[w] -= 1
    return p / tau


# %% tags=["check"]
for tau, w in ((1.0, 0), (0.5, 3), (2.0, 4)):
    z = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(w))
    leaf = z.clone().requires_grad_()
    (-(leaf / tau).log_softmax(-1)[w]).backward()
    with torch.inference_mode():  # no automatic differentiation in here
        torch.testing.assert_close(gradient(z.clone(), w, tau), leaf.grad)
print("right at three temperatures")

# %% [markdown]
# ```{exercise} One honest step
# :label: ex-gpt-step
#
# Write `step(model, optimizer, rows)`: one step of maximum likelihood on a tensor of ids `(B, T)`, returning the loss
# before the step as a number. The check compares the weights after two steps with those of a loop that is right, so a
# forgotten shift, a forgotten `zero_grad` and a sum in place of a mean all show. Try them.
# ```


# %% tags=["exercise"]
def step(model, optimizer, rows):
    """One training step on rows (B, T) of ids: every token is predicted from those before it."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def step(model, optimizer, rows):
    """One training step on rows (B, T) of ids: every token is predicted from those before it."""
    batch = next_token(rows)
    nats = loss(model(*batch.inputs), batch.targets)
    optimizer.zero_grad()
    nats.backward()
    optimizer.step()
    return nats.item()


# %% tags=["check"]
def after_two_steps(take):
    net = loud(GPT(toy))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    return [take(net, sgd, part) for part in rows.split(27)[:2]], net.embedding.weight.detach()


def reference(net, optimizer, part):
    log_probs = net(part[:, :-1]).log_softmax(-1)
    nats = -sum(log_probs[:, t, :].gather(1, part[:, t + 1, None]).mean() for t in range(4)) / 4
    gradients = torch.autograd.grad(nats, list(net.parameters()))
    for p, g in zip(net.parameters(), gradients, strict=True):
        p.data -= 0.1 * g
    return nats.item()


(mine, weights), (right, wanted) = after_two_steps(step), after_two_steps(reference)
assert np.allclose(mine, right), "the losses before each step"
torch.testing.assert_close(weights, wanted)
print("two steps, the same weights")

# %% [markdown]
# ```{exercise} Stop in time
# :label: ex-gpt-stop
#
# Early stopping ends a training once the held-out loss has not improved for `patience` evaluations in a row, and goes
# back to the best model. Write `stop(curve, patience)`: the pair (index of the best evaluation so far, index at which
# training stops); where it never has to stop, the second is the last index.
# ```


# %% tags=["exercise"]
def stop(curve, patience):
    """Where a list of held-out losses is best before training stops, and where it stops."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def stop(curve, patience):
    """Where a list of held-out losses is best before training stops, and where it stops."""
    best = 0
    for now, value in enumerate(curve):
        if value < curve[best]:
            best = now
        elif now - best >= patience:
            return best, now
    return best, len(curve) - 1


# %% tags=["check"]
assert tuple(stop([3, 2, 2.5, 2.6, 1.0], patience=2)) == (1, 3), "what comes later is never seen"
for curve, patience, expected, why in (
    ([3, 2, 2.5, 1.9, 2.0, 1.8], 2, (5, 5), "patience starts again after an improvement"),
    ([3, 1, 2, 1.5, 1.4], 2, (1, 3), "better than the last is not better than the best"),
    ([3, 3, 3], 2, (0, 2), "no improvement is no improvement"),
    ([3, 2, 1], 1, (2, 2), "it never has to stop"),
    ([5], 3, (0, 0), "one evaluation"),
    ([2, 3, 1], 1, (0, 1), "patience 1"),
):
    assert tuple(stop(curve, patience)) == expected, why
best, end = stop([record["val_loss"] for record in runs["1/256 of the text"][1]], patience=2)
print("the run on the scrap of text would have been stopped before its end:", end < 9)

# %% [markdown]
# ```{exercise} A vote with a learnt weight
# :label: ex-gpt-mixture
#
# In {eq}`eq-gpt-mixture` the weight was picked from five values. Expectation maximisation finds the best one: start at
# $\lambda = \frac12$ and replace $\lambda$ by the mean over all tokens of $\lambda P_a / (\lambda P_a + (1 - \lambda)
# P_b)$, the share of the credit that model $a$ deserves. Write `best_weight(a, b)` for two tensors of prices in nats;
# 100 rounds are enough here.
# ```


# %% tags=["exercise"]
def best_weight(a, b):
    """The share of the first model in the best mixture, from the nats both pay per token."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def best_weight(a, b):
    """The share of the first model in the best mixture, from the nats both pay per token."""
    share = 0.5
    for _ in range(100):
        share = torch.sigmoid(math.log(share / (1 - share)) + b.double() - a.double()).mean().item()
    return share


# %% tags=["check"]
a, b = bill["GPT"], bill["counting"]
weight = best_weight(a, b)
paid_by = {
    share: mix(a, b, share).mean().item() for share in (weight - 0.02, weight, weight + 0.02)
}
assert min(paid_by, key=paid_by.get) == weight, "a little more or less is worse"
assert abs(best_weight(b, a) - (1 - weight)) < 1e-6, "exchange the models, exchange the shares"
heads_or_tails = (
    torch.tensor([0.9, 0.1], dtype=torch.float64),
    torch.tensor([0.2, 0.8], dtype=torch.float64),
)
sixty = torch.tensor([0, 0, 0, 1, 1])  # heads in 3 of 5: the mixture 4/7 * 0.9 + 3/7 * 0.2 says so
assert abs(best_weight(*(-coin.log()[sixty] for coin in heads_or_tails)) - 4 / 7) < 1e-3
print(f"weight of the GPT: {weight:.1f}")

# %% [markdown]
# ## Further reading
#
# - Radford and colleagues {cite}`radford2018,radford2019`: the two papers behind the name; the second says what a
#   model of this kind can do with no further training.
# - Bengio and colleagues {cite}`bengio2003` trained the first neural language model by the same objective, and mixed
#   it with n-grams.
# - Goodfellow, Bengio and Courville {cite}`goodfellow2016`, chapters 5 to 8: maximum likelihood, overfitting, and
#   optimisation, from the ground up.
# - Karpathy's nanoGPT {cite}`karpathy2022nanogpt` is the well-known small program for training a GPT.
# - Carlini and colleagues {cite}`carlini2021,carlini2023` find training text in what large models write, and measure
#   how it grows with the size of the model.
# - Holtzman and colleagues {cite}`holtzman2020` explain why the most probable text is bad text, the subject of
#   {ref}`ch-generation`.
