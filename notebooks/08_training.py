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
# (ch-training)=
# # Training: what decides how fast a model learns
#
# **Given a model and a text, which choices decide how far a minute of computing carries us, and what does a run cost?**
#
# *About three minutes on two cores. You need the training loop of {ref}`ch-gpt`, the blocks of {ref}`ch-transformer`,
# and cross-entropy from {ref}`ch-concepts`.*
#
# The last chapter trained a GPT with settings that somebody else had found. This chapter opens the box. A training run
# has a dozen dials: the {term}`learning rate` and its schedule, the optimizer, the batch, the initial
# weights, the number format, the order of the data. Turn one of them wrong and nothing is learnt; turn all of them
# right and the same loss arrives in a fraction of the time.
#
# The plan:
#
# 1. build a laboratory, a model so small that a run takes a second or two;
# 2. turn one dial at a time: rate, schedule, optimizer, initial weights, batch, clipping, precision, data order;
# 3. make a run survive a crash, and spread over two processes;
# 4. go from a well-known recipe to ours, one change at a time, and see what each change is worth;
# 5. fit a scaling law, predict a larger run, and report the miss;
# 6. count operations, compare them with the clock, and work out what GPT-2, Llama 3 and the frontier cost.
#
# The five essays list "model training" and "model optimisation through gradient descent" as two steps, one after the
# other. They are one step ({ref}`err-optimisation`): gradient descent *is* the training. What does come in addition is
# the choice of {term}`hyperparameters <hyperparameter>`, and that is what this chapter is about.

# %%
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from IPython.display import Markdown
from myst_nb import glue
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from minilm import cost, evaluate, machine, ngram, optim, plots, presets
from minilm.batching import sample, split, windows
from minilm.contract import IGNORE, Batch, loss, next_token
from minilm.counts import count
from minilm.gpt import GPT
from minilm.recipe import Recipe
from minilm.tokenizer import Characters
from minilm.train import TrainConfig
from minilm.transformer import Config

plots.use_style()
torch.set_num_threads(1)  # the laboratory is too small to share between cores

# %% [markdown]
# ## A laboratory
#
# We take the first megabyte of the Shakespeare training text, in characters; its last tenth is the
# {term}`validation set`. The model has two blocks of width 32 and reads 32 characters.

# %%
text, held_out = presets.texts("small")
units = Characters.train(text)
ids, fresh = torch.tensor(units.encode(text)), torch.tensor(units.encode(held_out))
LAB = Config(units.vocab_size, context=32, d_model=32, n_layers=2, n_heads=2)


def new(config=LAB, seed=0):
    torch.manual_seed(seed)
    return GPT(config)


print(f"{len(ids):,} training and {len(fresh):,} validation characters, {LAB.vocab_size} different")
print(f"{sum(p.numel() for p in new().parameters()):,} parameters")

# %% [markdown]
# `fit` is the loop of {ref}`ch-gpt` with its dials exposed. A `Stream` is a function from the number of a step to a
# batch; `factor` scales the rate at each step; `weight` can spoil a step on purpose. `score` is the loss in nats per
# character on the *whole* validation text.


# %%
def fit(
    model, optimizer, steps=100, factor=None, stream=None, seed=0, clip=None, weight=lambda step: 1
):
    stream = stream or sample(ids, LAB.context, 16, seed)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak", group["lr"]) * (factor(step) if factor else 1)
        batch = stream(step)
        nats = loss(model(*batch.inputs), batch.targets) * weight(step)
        nats.backward()
        if clip:
            optim.clip_grad_norm(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(nats.item())
    return losses


def score(model):
    return evaluate.nll(model, fresh).mean().item()


# %% [markdown]
# What would be bad, and what would be noise? Counting gives the trivial baselines. Three runs that differ in nothing
# but their seed, which decides the initial weights and the order of the data, give the noise.

# %%
for order in (1, 2, 3):
    counted = ngram.WittenBell(count(ids, order, LAB.vocab_size))
    print(f"{order}-gram counts: {score(counted):.2f} nats per character")
print(f"uniform:       {math.log(LAB.vocab_size):.2f}")


def repeat(optimizer_of, steps=100, seeds=2, **how):
    """Validation losses of several seeds, and the training losses of the last."""
    scores = []
    for seed in range(seeds):
        model = new(seed=seed)
        losses = fit(model, optimizer_of(model), steps, seed=seed, **how)
        scores.append(score(model))
    return scores, losses


seeds, _ = repeat(lambda model: optim.optimizer(model, 1e-2), seeds=3)
print("three seeds:  ", [f"{value:.1f}" for value in seeds])

# %% tags=["hide-input", "nbval-ignore-output"]
noise = max(seeds) - min(seeds)
glue("tr_noise", float(noise), display=False)

# %% [markdown]
# The printed decimal hides most of it: the seeds lie {glue:text}`tr_noise:.2f` apart. A difference of that size between
# two settings means nothing unless it is repeated; much of what is told about training dials is smaller. A hundred
# steps leave the model between the counted {term}`unigram` and the {term}`bigram`: the laboratory shows the *beginning*
# of training, where most dials act.
#
# (sec-tr-rate)=
# ## The learning rate
#
# {term}`Gradient descent <gradient descent>` moves the parameters against the gradient:
#
# $$
# \theta \leftarrow \theta - \eta\, \nabla L(\theta).
# $$ (eq-tr-sgd)
#
# The gradient says which way is down *here*. How far that remains true depends on the curvature, and the simplest
# function with curvature already shows everything that can go wrong.
#
# ```{prf:theorem} The largest stable rate
# :label: thm-tr-stable
# Let $L(\theta) = \tfrac12 \theta^\top H \theta$ with a symmetric matrix $H$ whose eigenvalues are positive, the
# largest
# being $\lambda_{\max}$. Gradient descent {eq}`eq-tr-sgd` goes to the minimum from every start exactly if
# $0 < \eta < 2/\lambda_{\max}$.
# ```
#
# ```{prf:proof}
# The gradient is $H\theta$, so a step multiplies by $I - \eta H$. Along the eigenvector with eigenvalue $\lambda$ the
# coordinate is multiplied by $1 - \eta\lambda$, again and again. It goes to zero exactly if $|1 - \eta\lambda| < 1$,
# that is, $0 < \eta\lambda < 2$. The largest eigenvalue asks the most.
# ```
#
# By hand, with eigenvalues 1 and 25, the border is at $2/25 = 0.08$:


# %%
def descend(rate, steps=60):
    place, curvature = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 25.0])
    path = [place]
    for _ in range(steps):
        place = place - rate * curvature * place
        path.append(place)
    return torch.stack(path).norm(dim=1)


for rate in (0.005, 0.04, 0.079, 0.081):
    print(f"rate {rate}: distance {descend(rate)[-1]:.3g}")
assert descend(0.079)[-1] < 1 < descend(0.081)[-1]

# %% [markdown]
# Three regimes: too small wastes steps, a broad middle works, and just past the border the distance grows without
# bound. The best rate in the long run is $2/(1 + 25) \approx 0.077$, where both coordinates shrink by the same factor a
# step. It lies just below the border, and it is a narrow place: at 0.079 the steep coordinate swings to and fro and
# hardly gets smaller, so that 0.04, half of the border, does better. Even at the best rate the flat direction crawls,
# since its coordinate shrinks only by the factor $1 - \eta$ a step. With one rate for all directions, the steepest sets
# the limit and the flattest sets the time; their ratio is called the *condition number*.
#
# A network's loss is no quadratic, but near a point it resembles one, and $\lambda_{\max}$ of its Hessian can be
# measured. *Power iteration* multiplies a vector by $H$ until the largest eigenvalue dominates. A product $Hv$ needs no
# second derivatives: it is the difference of two gradients.


# %%
def gradient(model, batch):
    model.zero_grad()
    loss(model(*batch.inputs), batch.targets).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def sharpness(model, batch, steps=15, nudge=1e-4):
    where = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    v = torch.randn_like(where, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        v = v / v.norm()
        sides = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(where + sign * nudge * v, model.parameters())
            sides.append(gradient(model, batch))
        v = (sides[0] - sides[1]) / (2 * nudge)
    torch.nn.utils.vector_to_parameters(where, model.parameters())
    return v.norm().item()


largest = sharpness(new().double(), sample(ids, LAB.context, 64)(0))
print(f"largest eigenvalue about {largest:.0f}; the border of stability is at {2 / largest:.1g}")

# %% [markdown]
# For a real model nobody computes eigenvalues before choosing a rate. Two experiments replace the theory. The cheap
# one is the *range test* {cite}`smith2017`: a single run in which the rate grows from very small to far too large. The
# loss first stays, then falls, then explodes. The dear one is a *sweep*: a full run for each rate.

# %% mystnb={"figure": {"name": "fig-tr-range", "caption": "Range test of AdamW on the laboratory: one run of 120 steps whose rate grows from 0.00001 to 10. The loss is smoothed over nine steps, and drawn at 6 where it is higher."}, "image": {"alt": "A curve of training loss over the learning rate on a logarithmic axis. It falls slowly from 4.4 to a minimum of 3.2 near a rate of 0.1, rises ever more steeply, and from a rate little above 1 on is a flat line at 6, where it is cut off."}}
model = new()
growth = 10 ** torch.linspace(-5, 1, 120)
ranged = fit(model, optim.optimizer(model, 1.0), 120, lambda step: growth[step].item())
smooth = np.convolve(np.pad(ranged, 4, "edge"), np.ones(9) / 9, "valid")
plots.lines(growth, {"loss": smooth.clip(max=6)}, "learning rate", "nats per character", log="x")
print(f"start {smooth[0]:.1f}, lowest {smooth.min():.1f} nats")

# %% [markdown]
# {numref}`fig-tr-range` brackets the rate within a minute. The lowest point is *not* the rate to take, since by then
# the run is already on its way out; practice takes a value some three to ten times smaller and sweeps around it.
#
# The sweep, {numref}`fig-tr-sweep`, compares three optimizers, which the next section explains; for now look at the
# shape of each curve.


# %%
def sgd(model, rate):
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def adamw(model, rate):
    return optim.optimizer(model, rate)


def muon(model, rate):
    return optim.optimizer(model, rate, kind="muon")


def cosine(steps, warmup=10):
    return lambda step: optim.warmup_cosine(step, steps, warmup)


RATES = 10 ** np.arange(-3, -0.4, 0.5)
swept = {}
for make in (sgd, adamw, muon):
    swept[make.__name__] = row = []
    for rate in RATES:
        model = new()
        fit(model, make(model, float(rate)), 100, cosine(100))
        row.append(min(np.nan_to_num(score(model), nan=9.0), 4.5))

# %% mystnb={"figure": {"name": "fig-tr-sweep", "caption": "Validation loss after 100 steps against the peak learning rate, for three optimizers."}, "image": {"alt": "Three valleys over a logarithmic axis of learning rates from 0.001 to 0.3. AdamW is lowest at 0.003, at about 3.0; Muon between 0.03 and 0.1, at about 2.6; SGD with momentum is still falling at 0.3, at about 3.2."}}
plots.lines(RATES, swept, "peak learning rate", "validation loss, nats", log="x")
for name, row in swept.items():
    print(f"{name:6} at its best {min(row):.1f}")

# %% tags=["hide-input", "nbval-ignore-output"]
for name, row in swept.items():
    glue(f"tr_best_{name}", float(min(row)), display=False)

# %% [markdown]
# Each optimizer has its valley, and each wall has a reason: on the left the run is too short for such small steps, on
# the right it is unstable. (SGD's valley lies at the edge of our range or beyond it.) Three lessons. Near its bottom
# a factor of three costs Muon little more than a tenth of a nat, but AdamW up to four tenths, twice its advantage
# over SGD; a factor of thirty costs Muon more than its whole advantage over AdamW. Rates of different optimizers are
# not comparable, so "we used the same learning rate for a fair comparison" is the opposite of fair. And a new
# optimizer that was tuned against an old one that was not has shown nothing.
#
# ## Schedules: up, then down
#
# Early and late steps want different rates. Early, the running averages of an adaptive optimizer are based on a few
# gradients and can point anywhere, so the rate rises from zero: the *warm-up*. Late, the parameters jitter around in
# the noise of the batches, and the loss that this jitter costs is about proportional to the rate, so the rate must
# fall {cite}`robbins1951`. The cosine {cite}`loshchilov2017` is the customary shape,
#
# $$
# \frac{\eta_s}{\eta_{\max}} = \begin{cases} (s+1)/w & s < w, \\
# f + (1 - f)\,\tfrac12\left(1 + \cos\pi\frac{s - w}{S - w}\right) & s \ge w, \end{cases}
# $$ (eq-tr-cosine)
#
# with $w$ warm-up steps of $S$, and a final share $f$. A schedule is a pure function of the step, which is why a
# stopped run can go on without remembering one. PyTorch's schedulers are objects with a state; ours must agree.

# %%
theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 50, eta_min=0.1)
for step in range(50):
    ours = optim.warmup_cosine(step, 50, warmup=0, final=0.1)
    assert math.isclose(theirs.param_groups[0]["lr"], ours), step
    theirs.step()
    schedule.step()
print("warmup_cosine = torch.optim.lr_scheduler.CosineAnnealingLR")

# %% mystnb={"figure": {"name": "fig-tr-schedules", "caption": "Three schedules as a share of the peak rate (left) and the training loss under them, smoothed (right)."}, "image": {"alt": "Left: a constant line, a cosine and a straight line, the last two with a warm-up and ending at zero. Right: three falling loss curves; the constant one is the lowest at the end."}}
SCHEDULES = {
    "constant": lambda step: 1.0,
    "cosine": lambda step: optim.warmup_cosine(step, 150, 10),
    "linear": lambda step: optim.warmup_linear(step, 150, 10),
}
ended, curves = {}, {}
for name, factor in SCHEDULES.items():
    ended[name], raw = repeat(lambda model: adamw(model, 2e-2), 150, factor=factor)
    curves[name] = np.convolve(np.pad(raw, 7, "edge"), np.ones(15) / 15, "valid")
left, right = plots.panels(2, size=(8.4, 3.2), share_y=False)
shares = {name: [factor(step) for step in range(150)] for name, factor in SCHEDULES.items()}
plots.lines(range(150), shares, "step", "share of the peak rate", ax=left)
plots.lines(range(150), curves, "step", "training loss, nats", ax=right)
for name, scores in ended.items():
    print(f"{name:9} {np.mean(scores):.2f} validation loss, mean of two seeds")

# %% [markdown]
# The laboratory disagrees with the custom: the constant rate is *best* here. A likely reason is the length of the run.
# After 150 steps the model is limited by how far it has moved, not by jitter, and a falling rate shortens the way. The
# decay pays where jitter is what is left, at the end of a run that is long for its model; {ref}`ex-tr-wsd` is about a
# schedule that waits until then, and every recipe of the ablation below decays. A dial whose effect changes its sign
# with the length of the run is a good reason not to tune on runs much shorter than the one you want.
#
# A decay has a price that is easy to miss: the length of the run must be known in advance. A curve of a cosine run,
# read at half time, is *not* what a run of half the length would have reached, because at half time the rate was still
# high. Comparing a finished run with an unfinished one is a frequent mistake. Hoffmann et al. name it as a reason why
# an earlier law asked for models that were too large {cite}`hoffmann2022`.
#
# (sec-tr-optimizers)=
# ## Optimizers: SGD, AdamW, Muon
#
# ### Momentum
#
# An *architecture* says which function the parameters define; a *learning algorithm* says how they are found. The
# essays list LSTM and Transformer as learning algorithms ({ref}`err-algorithms`). The learning algorithms are these.
# The first repair of {eq}`eq-tr-sgd` averages gradients over time {cite}`polyak1964`. Noise and zigzags cancel, what
# all gradients agree on adds up: $m \leftarrow \mu m + g$, then $\theta \leftarrow \theta - \eta m$. That is SGD in
# {numref}`fig-tr-sweep`.
#
# ### AdamW: a rate for every parameter
#
# Adam {cite}`kingma2015` answers the condition number. It also averages the square of each entry of the gradient and
# divides by its root:
#
# $$
# m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
# \theta \leftarrow \theta - \eta \frac{m / (1-\beta_1^s)}{\sqrt{v / (1-\beta_2^s)} + \epsilon}.
# $$ (eq-tr-adam)
#
# Both averages start at zero and are too small at first. After $s$ steps the weights of an average sum to $1 -
# \beta^s$, and dividing by that sum repairs it. At the first step the fraction is $g/|g|$: every parameter moves by
# exactly $\eta$, whatever the size of its gradient. By hand, for two very different gradients:

# %%
g, theta, rate = torch.tensor([5.0, -0.001]), torch.tensor([1.0, 1.0]), 0.1
m, v = (1 - 0.9) * g, (1 - 0.999) * g**2
step_one = theta - rate * (m / (1 - 0.9)) / ((v / (1 - 0.999)).sqrt() + 1e-8)
zero = torch.zeros(2)
ours, *_ = optim.adamw(theta, g, zero, zero, step=1, lr=rate, weight_decay=0.0)
torch.testing.assert_close(ours, step_one)
print([f"{value:.3f}" for value in ours])

# %% [markdown]
# *Weight decay* pulls every weight towards zero. Adding $\tfrac\lambda2\|\theta\|^2$ to the loss does that under plain
# gradient descent. Under Adam it does not: the pull enters the gradient and is divided by $\sqrt v$ like everything
# else, so weights with large gradients are hardly decayed. AdamW {cite}`loshchilov2019` takes it out of the fraction,
# $\theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\,(\dots)$. Two weights of 1, one with noisy gradients a thousand
# times larger than the other's, show the difference:


# %%
def decayed(kind, steps=200):
    weights = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = kind([weights], lr=0.01, weight_decay=0.1)
    noise = torch.randn(steps, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in range(steps):
        pair = noise[step // 2] * (-1) ** step  # what one step does, the next undoes
        weights.grad = pair * torch.tensor([10.0, 0.01])
        optimizer.step()
    return weights.detach().round(decimals=2).tolist()


print("decay in the gradient (Adam): ", decayed(torch.optim.Adam))
print("decay by itself (our AdamW):  ", decayed(optim.AdamW))
print("torch.optim.AdamW:            ", decayed(torch.optim.AdamW))

# %% [markdown]
# Equality with PyTorch over many steps, in float64, on a model rather than on two numbers:


# %%
def run_in_double(kind):
    model = new().double()
    fit(model, kind(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1), 5)
    return torch.nn.utils.parameters_to_vector(model.parameters())


torch.testing.assert_close(
    run_in_double(lambda params, **how: optim.AdamW(params, fused=False, **how)),
    run_in_double(torch.optim.AdamW),
    rtol=0,
    atol=1e-12,
)
print("written-out AdamW = torch.optim.AdamW")

# %% [markdown]
# `optim.optimizer` adds one custom: decay is for matrices. A gain of a norm or a bias shifted towards zero has no
# reason on its side.
#
# ### Muon: a rate for every direction
#
# Adam treats a matrix as a bag of numbers. But a weight matrix is a map, and its gradient has directions. Write it by
# its singular values, $G = U \Sigma V^\top$. A few of them are large, most are small: the update changes the map
# strongly along a few pairs of directions and hardly along the rest. Muon {cite}`jordan2024` replaces the update by
# $U V^\top$: the same directions, all at the same strength. There is a sense in which that is the right thing to do.
#
# ```{prf:theorem} The steepest step under a limit on the map
# :label: thm-tr-muon
# Let $\|X\|$ be the largest singular value of $X$, that is, the most by which $X$ can stretch a vector. Among all $X$
# with $\|X\| \le 1$, the product $\langle G, X\rangle = \operatorname{tr}(G^\top X)$ is largest for $X = UV^\top$.
# ```
#
# ```{prf:proof}
# $\operatorname{tr}(G^\top X) = \operatorname{tr}(V \Sigma U^\top X) = \sum_i \sigma_i\, u_i^\top X v_i$. Each $v_i$
# has
# length 1, so $X v_i$ has length at most 1, and its product with the unit vector $u_i$ is at most 1. The sum is at most
# $\sum_i \sigma_i$, and $X = UV^\top$ reaches it, since $u_i^\top U V^\top v_i = 1$ for every $i$.
# ```
#
# Adam, with its averages left out, is the same idea with another limit: under $|X_{ij}| \le 1$ the best $X$ is the
# sign of $G$ {cite}`bernstein2024`.

# %%
torch.manual_seed(0)
G = torch.randn(4, 6, dtype=torch.float64)
U, sigma, Vt = torch.linalg.svd(G, full_matrices=False)
rivals = torch.randn(10_000, 4, 6, dtype=torch.float64)
rivals = rivals / torch.linalg.matrix_norm(rivals, 2)[:, None, None]
assert torch.isclose((G * (U @ Vt)).sum(), sigma.sum())
best = (G * rivals).sum((1, 2)).max()
print(f"UV^T: {(G * (U @ Vt)).sum():.2f}, best of 10,000 random X: {best:.2f}")

# %% [markdown]
# A singular value decomposition at every step would be far too slow. A polynomial does the same by matrix products
# alone. Since $XX^\top X = U \Sigma^3 V^\top$, an odd polynomial of $X$ acts on every singular value by itself:
#
# $$
# X \leftarrow aX + b\,(XX^\top)X + c\,(XX^\top)^2X \qquad\text{maps}\qquad \sigma \mapsto a\sigma + b\sigma^3 +
# c\sigma^5.
# $$ (eq-tr-ns)
#
# Dividing $G$ by its Frobenius norm brings all singular values below 1. Five steps of {eq}`eq-tr-ns`, called
# Newton–Schulz, then push them towards 1. The coefficients $(3.4445, -4.7750, 2.0315)$ were tuned for a steep start:
# a value of 0.01 is multiplied by more than three at each of the first three steps. The price is that they never
# settle exactly at 1. {numref}`fig-tr-ns` shows it on a real gradient.

# %% mystnb={"figure": {"name": "fig-tr-ns", "caption": "Newton-Schulz: what one, three and five steps do to a singular value (left), and the singular values of a real gradient before and after (right); those before are divided by the largest of them."}, "image": {"alt": "Left: three curves over the singular value from 0 to 1. After one step the curve is a hump; after five it rises almost at once to between 0.7 and 1.2 and stays there. Right: before, the 32 singular values of a gradient fall by more than four orders of magnitude; after, the first half lie between 0.7 and 1.2, and the rest fall off to 0.03."}}
s = torch.linspace(0.001, 1, 300)
mapped = {}
a, b, c = optim.QUINTIC
values = s
for k in range(1, 6):
    values = a * values + b * values**3 + c * values**5
    if k in (1, 3, 5):
        mapped[f"{k} step" + "s" * (k > 1)] = values
model = new()
fit(model, adamw(model, 1e-2), 50)
gradient(model, sample(ids, LAB.context, 64)(0))
G = model.stack.blocks[0].mlp.inner.weight.grad
before, after = torch.linalg.svdvals(G), torch.linalg.svdvals(optim.orthogonalize(G))
left, right = plots.panels(2, size=(8.4, 3.2), share_y=False)
plots.lines(s, mapped, "singular value before", "after", ax=left)
sizes = {"before": before / before[0], "after": after}
plots.lines(range(1, 33), sizes, "number of the singular value", "size", log="y", ax=right)
ratio = [sizes[0] / sizes.median() for sizes in (before, after)]
print(f"largest / median: {ratio[0]:.0e} before, {ratio[1]:.1f} after")

# %% [markdown]
# The code is {eq}`eq-tr-ns` with nothing left out, so it must agree with the map on singular values, and with
# PyTorch's own Muon, up to the low precision in which that one computes. The step is scaled so that its entries have
# about the size of an Adam step {cite}`liu2025muon`; one rate then serves both. In `minilm` all matrices of one shape
# are orthogonalised together, and the polynomial is multiplied up on the small side $XX^\top$ alone, which takes
# fewer operations for matrices that are wide or tall.

# %%
X = G.double() / G.double().norm()
U, sigma, Vt = torch.linalg.svd(X, full_matrices=False)
for _ in range(5):
    sigma = a * sigma + b * sigma**3 + c * sigma**5
torch.testing.assert_close(optim.orthogonalize(X), U @ sigma.diag() @ Vt)
torch.testing.assert_close(optim.orthogonalize_stack(X[None])[0], optim.orthogonalize(X))

peer, mine = (torch.nn.Parameter(torch.zeros_like(G)) for _ in range(2))
peer.grad = mine.grad = G
torch.optim.Muon([peer], lr=1.0, adjust_lr_fn="match_rms_adamw").step()
optim.Muon([{"params": [mine], "matrices": True}], lr=1.0).step()
print(f"relative difference from torch.optim.Muon: {(peer - mine).norm() / mine.norm():.1f}")

# %% [markdown]
# The difference in the last line is bfloat16's: the smallest singular values are enlarged several hundredfold, and
# their rounding errors with them. Made to compute in float64, PyTorch's Muon agrees with ours to twelve digits (a test
# of the package says so).
#
# Two custom rules. Embeddings, the output layer, gains and biases stay with AdamW {cite}`jordan2024`: a row of the
# embedding belongs to one token, and its step should not depend on the rows of all others. And the weights of queries,
# keys and values, which share one tensor for speed, are three maps and are orthogonalised apart.
#
# In {numref}`fig-tr-sweep` the best losses are {glue:text}`tr_best_sgd:.2f` for SGD, {glue:text}`tr_best_adamw:.2f`
# for AdamW and {glue:text}`tr_best_muon:.2f` for Muon, each at its own rate, in as many steps. Steps are not seconds:
# Muon's matrix products cost time, and {ref}`the ablation <sec-tr-ablation>` below counts it.
#
# ## Initial weights
#
# Before the first step the model should know nothing, and say so: the loss of an ignorant model is $\log V$. A larger
# value means it is *confidently* wrong, and the first part of the run is spent on unlearning that.
#
# How large should a weight be? Take $y = \sum_{i=1}^{n} w_i x_i$ with independent weights of mean 0 and standard
# deviation $s$. Variances add, so $\operatorname{Var} y = n s^2\, \overline{x^2}$: with $s = 1/\sqrt n$ the output is
# as large as the input, whatever the width {cite}`glorot2010`. GPT-2's fixed $s = 0.02$ equals $1/\sqrt n$ for
# $n = 2500$, and is smaller than $1/\sqrt n$ for every narrower model. Norms forgive it: they rescale what each block
# reads. What they do not touch is the residual stream, to which every block adds. After $2L$ additions of equal
# variance its size has grown like $\sqrt{2L}$, which is why GPT-2 divides the weights that write to the stream by
# $\sqrt{2L}$ {cite}`radford2019`.

# %%
torch.manual_seed(0)
x = torch.randn(10_000, 512)
for s in (0.02, 1 / math.sqrt(512), 0.2):
    y = x @ (torch.randn(512, 512) * s)
    print(f"s = {s:.3f}: output {y.std():.2f}, predicted {math.sqrt(512) * s:.2f}")
    assert abs(y.std() / (math.sqrt(512) * s) - 1) < 0.02

# %% mystnb={"figure": {"name": "tab-tr-init", "caption": "The laboratory with all initial matrices multiplied by a factor: loss before the first step, and validation loss after 100 steps of AdamW."}} tags=["nbval-ignore-output"]
rows = []
for times in (0, 0.1, 1, 5, 25):
    model = new()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(times)
    losses = fit(model, adamw(model, 1e-2), 100, cosine(100))
    rows.append((times, losses[0], score(model)))
Markdown(
    tabulate(
        rows,
        ["factor", "loss at the start", "after 100 steps"],
        tablefmt="pipe",
        floatfmt=("g", ".1f", ".1f"),
    )
)

# %% [markdown]
# {numref}`tab-tr-init` has two failures in it. Far too large: the start is confidently wrong, and a hundred steps are
# spent on repairing it. All zero: the loss is exactly $\log V$, and it stays there. Every gradient in the model is a
# product with some weight or activation that is zero, so nothing ever moves. Initial weights have to be random to make
# the units of a layer *different*.
#
# Between the two failures the size matters as the derivation says. The best row is the factor 5: a standard deviation
# of
# 0.1, near $1/\sqrt{32} \approx 0.18$. GPT-2's 0.02 was chosen for wide models, and copying it to a narrow one costs
# more than most of the dials in this chapter.
#
# (sec-tr-batch)=
# ## Batch size
#
# A batch estimates the gradient of the whole text from a few rows. Rows are drawn independently, so the mean of $B$ of
# them has the right expectation $G$ and $1/B$ of the variance:
#
# $$
# \mathbb E\,\|g_B\|^2 = \|G\|^2 + \frac{\operatorname{tr}\Sigma}{B},
# \qquad B_{\text{noise}} = \frac{\operatorname{tr}\Sigma}{\|G\|^2},
# $$ (eq-tr-noise)
#
# where $\Sigma$ is the covariance of a single row's gradient. At $B = B_{\text{noise}}$ half of the squared length of
# a gradient is signal and half is noise {cite}`mccandlish2018`. Well below it, doubling the batch halves the noise
# and lets you double progress per step; well above, doubling the batch buys nearly nothing but a double bill. We
# measure it, from the spread of forty gradients.


# %% tags=["nbval-ignore-output"]
def noise_scale(model, rows=16, n=40):
    stream = sample(ids, LAB.context, rows, seed=7)
    g = torch.stack([gradient(model, stream(step)) for step in range(n)])
    noise = g.var(0).sum()  # tr Sigma / rows
    signal = g.mean(0).square().sum() - noise / n
    return (rows * noise / signal).item()


model, scales, done = new(), {}, 0
optimizer = adamw(model, 1e-2)
for steps in (0, 20, 200):
    fit(model, optimizer, steps - done, seed=steps)
    scales[steps], done = noise_scale(model), steps
    magnitude = 10 ** round(math.log10(scales[steps]))
    print(f"after {steps:3} steps: in the order of {magnitude} rows")

# %% [markdown]
# At the start all rows agree: learn which characters are frequent. A row or two say it as well as a hundred. Later
# the rows disagree about everything that is left, and the useful batch grows by orders of magnitude. Now the
# experiment: batches of 4, 16 and 64 rows, the *same number of characters* for all, and two rates for each.

# %% mystnb={"figure": {"name": "fig-tr-batch", "caption": "Validation loss after 76,800 characters, against the rate, for three batch sizes: 600 steps of 4 rows, 150 of 16, or 37 of 64."}, "image": {"alt": "Three lines between the learning rates 0.01 and 0.03. The batch of 4 rows is lowest and 64 rows highest at both rates, and the smaller rate is the better one for all three."}}
rates, by_batch = (1e-2, 3e-2), {}
for rows in (4, 16, 64):
    steps = 76_800 // (32 * rows)
    by_batch[f"{rows} rows"] = reached = []
    for rate in rates:
        model = new()
        stream = sample(ids, LAB.context, rows)
        fit(model, adamw(model, rate), steps, cosine(steps, steps // 10), stream)
        reached.append(score(model))
ax = plots.lines(rates, by_batch, "peak learning rate", "validation loss, nats")
ax.set_xticks(rates)
for name, reached in by_batch.items():
    print(f"{name:8}", [f"{value:.1f}" for value in reached])

# %% [markdown]
# For a given number of characters, small batches win in this regime, because they take more steps. So why does
# anybody use large ones? Because the machine decides. A matrix product of 64 rows takes far less than sixteen times
# as long as one of 4, and a thousand GPUs can share a batch of millions of tokens and cannot share a batch of four
# rows. The rule of practice: as large as the hardware likes, not much above $B_{\text{noise}}$, and the rate re-tuned
# whenever the batch changes. GPT-3 used 3.2 million tokens in a batch {cite}`brown2020`.
#
# ## Accumulation: a large batch in small memory
#
# The activations that the backward pass needs grow with the batch. If they do not fit, cut the batch into parts, run
# forward and backward for each, and let the gradients add up before the optimizer moves.
#
# ```{prf:theorem} Parts of equal weight
# :label: thm-tr-accumulate
# Let a batch have $n$ scored targets, cut into parts with $n_1 + \dots + n_k = n$. If $L_j$ is the mean loss of part
# $j$, then $L = \sum_j \frac{n_j}{n} L_j$, and the same holds for the gradients.
# ```
#
# ```{prf:proof}
# $\sum_j \frac{n_j}{n} L_j = \sum_j \frac{n_j}{n} \frac{1}{n_j} \sum_{i \in j} \ell_i = \frac1n \sum_i \ell_i = L$. The
# gradient of a sum is the sum of the gradients.
# ```
#
# The theorem has a trap in it. The weight is $n_j/n$, the share of *targets*, and not $1/k$, the share of parts. With
# padding, or with prompts that are not scored, these differ. A widely used library averaged over parts for years before
# it was mended {cite}`unsloth2024`.


# %%
def accumulated(model, parts, weights):
    model.zero_grad()
    for part, w in zip(parts, weights, strict=True):
        (loss(model(*part.inputs), part.targets) * w).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


batch = sample(ids, LAB.context, 16)(0)
targets = batch.targets.clone()
targets[:8, 4:] = IGNORE  # the first half of the rows is mostly padding
batch = Batch(batch.inputs, targets)
parts = split(batch, 4)
scored = [int((part.targets != IGNORE).sum()) for part in parts]
shares = [n / sum(scored) for n in scored]

model = new().double()
whole = gradient(model, batch)
torch.testing.assert_close(accumulated(model, parts, shares), whole, rtol=0, atol=1e-12)
wrong = accumulated(model, parts, [1 / 4] * 4)
print(f"by targets: equal. By parts: {(wrong - whole).norm() / whole.norm():.2f} of its length off")

# %% [markdown]
# ## Clipping
#
# One bad batch can undo an hour. *Clipping* {cite}`pascanu2013` limits the length of the gradient, all parameters taken
# together: where $\|g\| > c$, it is multiplied by $c / \|g\|$. The direction stays.

# %%
lengths = {}
for clip in (optim.clip_grad_norm, torch.nn.utils.clip_grad_norm_):
    model = new().double()
    gradient(model, batch)
    before = clip(model.parameters(), 0.1)
    after = torch.cat([p.grad.flatten() for p in model.parameters()])
    lengths[clip.__name__] = torch.stack([before, after.norm(), after.sum()])
torch.testing.assert_close(*lengths.values())
print([f"{value:.2f}" for value in lengths["clip_grad_norm"][:2].tolist()])

# %% [markdown]
# What does it protect from? We make step 40 bad: its loss counts a thousandfold, as a corrupt document or an overflow
# might make it. AdamW is often said to need no clipping because its steps do not depend on the size of the gradient.
# {numref}`fig-tr-clip` shows what is forgotten there.

# %% mystnb={"figure": {"name": "fig-tr-clip", "caption": "Training loss of AdamW (second-moment memory 0.99) when the gradient of step 40 is a thousand times too large, with and without clipping at length 1."}, "image": {"alt": "Two loss curves that coincide until step 40. The clipped one goes on falling to 3.0; the other rises by about a quarter of a nat and comes down slowly to 3.3."}}
hurt = {}
for name, limit in {"clipped at 1": 1.0, "not clipped": None}.items():
    model = new()
    slow = optim.optimizer(model, 1e-2, betas=(0.9, 0.99))
    raw = fit(model, slow, 120, clip=limit, weight=lambda step: 1000 if step == 40 else 1)
    raw[40] /= 1000
    hurt[name] = np.convolve(np.pad(raw, 4, "edge"), np.ones(9) / 9, "valid")
plots.lines(range(120), hurt, "step", "training loss, nats")
for name, curve in hurt.items():
    print(f"{name:13} {curve[38]:.1f} before, {curve[-1]:.1f} at the end")

# %% [markdown]
# The bad step itself moves little, as promised. But both averages of {eq}`eq-tr-adam` remember it. $m$ goes on pushing
# in its direction for a dozen steps, and the loss rises. Its square sits in $v$, a million times too large, and fades
# only by the factor $\beta_2$ a step; until it has faded, everything is divided by it, and the run recovers slowly.
#
# ## Precision
#
# A float32 number has 24 significant bits, a bfloat16 number 8. Both have the same range, since they spend 8 bits on
# the exponent; float16 has 11 significant bits and a narrow range, so that small gradients vanish in it unless the loss
# is scaled up {cite}`micikevicius2018`. Halving the bits halves the memory and the traffic, and hardware with the right
# instructions multiplies bfloat16 several times faster.

# %% mystnb={"figure": {"name": "tab-tr-formats", "caption": "Number formats: the gap between 1 and the next number, the smallest normal and the largest number."}}
rows = []
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    info = torch.finfo(dtype)
    rows.append([str(dtype)[6:], f"{info.eps:.1e}", f"{info.tiny:.0e}", f"{info.max:.0e}"])
heads = ["format", "gap at 1", "smallest normal", "largest"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# The gap of 0.0078 in {numref}`tab-tr-formats` is a trap. A step of training changes a weight by a small share of
# itself; if the change is less than half the gap, rounding takes it back.

# %%
one = torch.tensor(1.0, dtype=torch.bfloat16)
print("1 + 0.003 =", (one + 0.003).item(), "   1 summed 1,000 times =", end=" ")
total = torch.tensor(0.0, dtype=torch.bfloat16)
for _ in range(1000):
    total += 1
print(total.item())

model = new()
fit(model, adamw(model, 1e-2), 50)
old = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
fit(model, adamw(model, 1e-4), 1)
step = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - old
lost = (old.bfloat16() + step.bfloat16() == old.bfloat16()).double().mean()
print(f"share of the weights that a step at rate 0.0001 leaves where they were: {lost:.1f}")

# %% [markdown]
# Hence *mixed precision*: products in bfloat16, the weights themselves, the optimizer's averages and the loss in
# float32. PyTorch's `autocast` chooses the dtype of each operation. The matrix products then have an error of about
# three thousandths, which averages out; the loss of the laboratory hardly notices.


# %%
def short(dtype):
    model = new()
    optimizer, stream = adamw(model, 1e-2), sample(ids, LAB.context, 16)
    for step in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            nats = loss(model(*stream(step).inputs), stream(step).targets)
        nats.backward()
        optimizer.step()
        optimizer.zero_grad()
    return score(model)


x, w = torch.randn(256, 256), torch.randn(256, 256)
error = ((x.bfloat16() @ w.bfloat16()).float() - x @ w).norm() / (x @ w).norm()
difference = abs(short(torch.float32) - short(torch.bfloat16))
print(f"error of a product: {error:.3f}; difference of the losses below 0.05: {difference < 0.05}")

# %% [markdown]
# Whether it is *faster* is a question to the processor. Without instructions of its own for bfloat16 (AMX or
# AVX512-BF16 on Intel and AMD, BF16 on Arm) a processor imitates them by converting to float32 and back.
# `machine.has_bfloat16` asks, and `dtype="auto"` in `TrainConfig` follows the answer.

# %% tags=["nbval-ignore-output"]
x = torch.randn(1024, 1024)
for dtype in (torch.float32, torch.bfloat16):
    matrix, started = x.to(dtype), time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    seconds = (time.perf_counter() - started) / 5
    print(f"{str(dtype)[6:]:9} {2 * 1024**3 / seconds / 1e9:6.1f} billion operations per second")
print("instructions for bfloat16 here:", machine.has_bfloat16(torch.device("cpu")))

# %% [markdown]
# ## Compiling the model
#
# PyTorch runs a model operation by operation; each one reads its input from memory and writes its output back.
# `torch.compile` translates the model into fused kernels first, which saves that traffic and the overhead of
# Python {cite}`ansel2024`. The translation takes seconds to minutes and needs a C++ compiler, so `minilm` leaves it off
# unless asked (`compile=True`). The command that recorded the following is in the file it reads.


# %%
def recorded(name):
    run = presets.recorded(name)
    print(f"{run['command']}\n{run['machine']}, {run['date']}")
    return run["rows"]


# %% mystnb={"figure": {"name": "tab-tr-compile", "caption": "Seconds of the first step and milliseconds of a later one, with and without torch.compile, for two recipes of this book (recorded)."}}
rows = [
    (r["name"], "compiled" if r["compile"] else "as it is", r["first"], 1000 * r["step"])
    for r in recorded("compile")
]
heads = ["recipe", "model", "first step, s", "a step, ms"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=("", "", ".1f", ".0f")))

# %% [markdown]
# On this processor it buys nothing that could be told from noise ({numref}`tab-tr-compile`): most of a step is matrix
# products, which stay as they are, and the first step costs 13 and 25 seconds. On a graphics card, where products are
# fast and memory traffic is what one waits for, it pays as soon as a run is long enough to earn back the first step.
#
# ## The order of the data
#
# Our streams draw windows at random, independently at each step. Two alternatives: walk through the text in order, or
# shuffle it once per pass. The second is nearly the same as ours. The first is not, since neighbouring batches come
# from the same scene, so their gradients agree with each other and not with the rest of the text. A run ends well
# informed about the last scene.

# %%
rows = windows(ids, LAB.context)
ORDERS = {
    "drawn at random": None,
    "shuffled once": lambda step: next_token(shuffled[16 * step : 16 * step + 16]),
    "in order": lambda step: next_token(rows[16 * step : 16 * step + 16]),
}
shuffled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
for name, stream in ORDERS.items():
    scores, _ = repeat(lambda model: adamw(model, 1e-2), stream=stream)
    print(f"{name:16} {np.mean(scores):.1f}")

# %% [markdown]
# Drawing and shuffling once are as good as each other. Reading in order costs about two tenths of a nat, more than the
# noise between seeds, after a mere hundred steps. It costs more when the text has larger parts that differ, such as
# code after prose; then the end of the run decides what the model remembers. People use that on purpose, by saving the
# best data for the end {cite}`grattafiori2024`.
#
# How often may a text be read? Up to about four passes are worth nearly as much as new text; then each is worth less,
# and after some forty there is hardly anything left to gain {cite}`muennighoff2023`. The Keras sample of the essays
# asks for a hundred passes over a handful of sentences and watches no validation loss ({ref}`err-epochs`).
#
# Everything random in a run of `minilm` is decided by the seed and the number of the step: initial weights, windows,
# dropout. The same seed gives the same bits.


# %%
def final_weights(seed):
    model = new(seed=seed)
    fit(model, muon(model, 1e-2), 10, seed=seed)
    return torch.nn.utils.parameters_to_vector(model.parameters())


assert torch.equal(final_weights(1), final_weights(1))
assert not torch.equal(final_weights(1), final_weights(2))
print("same seed, same bits; another seed, another model")

# %% [markdown]
# (sec-tr-resume)=
# ## Checkpoints: stopping and going on
#
# Long runs are interrupted: Llama 3's saw 419 unexpected interruptions in 54 days {cite}`grattafiori2024`. A
# *checkpoint* must hold everything that the next step depends on: weights, the optimizer's averages, and the number of
# the step. Schedule, data and dropout are functions of that number, so they need no state of their own. And it must be
# *atomic*: written to another name and renamed, so that a crash in the middle of writing leaves the old one in place.
#
# The claim is strong: killed at any moment, the run goes on and ends with the *same bits* as a run that was never
# disturbed. We test it the hard way, with a process that gets `kill -9`, which no program can catch.

# %%
folder = Path(tempfile.mkdtemp())
(folder / "tiny.txt").write_text(text[:60_000])
COMMAND = "-m minilm train --preset reference --text tiny.txt --steps 40 --warmup 4 --batch-size 4"


def start(out, launcher=(sys.executable,)):
    words = [*launcher, *COMMAND.split(), "--eval-every", "10", "--out", out]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def log(out):
    path = folder / out / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


undisturbed, killed = start("undisturbed"), start("killed")
while not log("killed"):
    time.sleep(0.02)
killed.kill()
killed.wait()
assert undisturbed.wait() == 0, undisturbed.stderr.read().decode()
print(f"killed after {'some' if len(log('killed')) < 4 else 'all'} evaluations of 4")

# %%
resumed = start("killed")
assert resumed.wait() == 0, resumed.stderr.read().decode()
a, b = ((folder / out / "model.safetensors").read_bytes() for out in ("undisturbed", "killed"))
print(
    "same bits:",
    a == b,
    "  same losses:",
    [
        x["val_loss"] == y["val_loss"]
        for x, y in zip(log("undisturbed"), log("killed"), strict=True)
    ],
)

# %% [markdown]
# A damaged checkpoint must not pass for a good one, and must not be written over. We cut one in half and try again.

# %%
checkpoint = folder / "killed" / "checkpoint.safetensors"
checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
damaged = checkpoint.read_bytes()
refused = start("killed")
message = refused.stderr.read().decode().strip().splitlines()[-1]
print("refused:", refused.wait() != 0, "  untouched:", checkpoint.read_bytes() == damaged)
print(message.replace(str(folder), "")[:300])

# %% [markdown]
# ## Two processes
#
# When one machine is too slow, several share each batch. In *data parallelism* {cite}`li2020` every process holds a
# copy of the model and takes its own rows; after the backward pass the gradients are averaged, and all make the same
# step. By {prf:ref}`thm-tr-accumulate` that is accumulation, with the parts worked through side by side, so the
# losses must be those of one process up to the order of the sums. `torchrun` starts the processes; the command is
# otherwise the same.

# %%
torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
pair = start("pair", torchrun)
assert pair.wait() == 0, pair.stderr.read().decode()
one, two = (np.array([line["val_loss"] for line in log(out)]) for out in ("undisturbed", "pair"))
assert np.allclose(one, two, atol=1e-4)
print(f"largest difference of the losses below 0.0001: {abs(one - two).max() < 1e-4}")

# %% [markdown]
# For a model that does not fit on one device, the copies are the problem: weights, gradients and two averages in
# float32 are 16 bytes a parameter before the first activation. *Sharding* {cite}`rajbhandari2020` gives each process
# a piece of each and collects a block's weights only while it computes (`--shard`, PyTorch's FSDP). Both ways spread
# the same work over more machines and add communication. The essays call distributed training and pruning solutions
# for the shortage of computing; distributing shortens the wait and lengthens the bill, and pruning comes after
# training
# ({ref}`err-pruning`).
#
# (sec-tr-ablation)=
# ## From a known recipe to ours, one change at a time
#
# How much is each dial worth on a model that learns something? The *reference* is the small recipe that comes with
# nanoGPT {cite}`karpathy2022nanogpt`: 4 blocks of width 128, context 64, 12 rows, 2,000 steps of AdamW at 0.001. Our
# preset *fast* has three quarters of its parameters. An *ablation* walks from one to the other. The first row is the
# reference in full. The second has only as many steps as *fast*; every later row adds one change to the row above it.
# Three seeds each, on one core, recorded by the command below. {ref}`sec-gpt-real` introduced the details of the
# model; the optimizer comes first here, since it decides at which rate all others are tried.

# %% mystnb={"figure": {"name": "fig-tr-ablation", "caption": "The ablation: validation loss of three seeds (dot: mean, whisker: lowest to highest) as changes are added one by one, from the top down; the last row takes one back. The first row has the reference's full number of steps, all others that of the fast preset."}, "image": {"alt": "A dot chart with one row per change. The reference cut to few steps is far to the right, and the rows below it move left, except that of the squared ReLU and, by a hair, that of the three blocks; the longest move is that of the optimizer, and the last three rows lie left of the full reference."}}
runs = recorded("ablation")
names = list(dict.fromkeys(run["name"] for run in runs))
losses = {n: [run["val_loss"] for run in runs if run["name"] == n] for n in names}
seconds = {n: np.median([run["seconds"] for run in runs if run["name"] == n]) for n in names}
means = [np.mean(losses[n]) for n in names]
spans = [(min(losses[n]), max(losses[n])) for n in names]
plots.dots(names, means, "validation loss, nats per character", spans)
for name, mean, (low, high) in zip(names, means, spans, strict=True):
    print(f"{name:28} {mean:.3f} [{low:.3f}, {high:.3f}] {seconds[name] / seconds[names[0]]:5.2f}")

# %% tags=["hide-input", "nbval-ignore-output"]
steps = {name: means[i - 1] - means[i] for i, name in enumerate(names) if name[0] == "+"}
ours = names.index(list(steps)[-1])
glue("tr_largest", max(steps, key=steps.get).removeprefix("+ "), display=False)
glue("tr_largest_gain", float(max(steps.values())), display=False)
glue("tr_gelu", float(means[ours] - means[-1]), display=False)
glue("tr_full", float(means[0]), display=False)
glue("tr_fast", float(means[ours]), display=False)
glue("tr_share", float(seconds[names[ours]] / seconds[names[0]]), display=False)

# %% [markdown]
# The last column is training time as a share of the full reference. *fast* ends at {glue:text}`tr_fast:.3f` nats
# where the full reference ends at {glue:text}`tr_full:.3f`, in {glue:text}`tr_share:.2f` of its time. The largest
# single step is "{glue:text}`tr_largest`", worth {glue:text}`tr_largest_gain:.3f` nats. Taking a block away costs
# hardly any loss and saves almost a quarter of the time. Rows whose whiskers overlap with the row above are not
# distinguishable with three seeds, however plausible their story.
#
# One row clearly goes the wrong way. The squared ReLU, which won a large search for cheaper training {cite}`so2021`,
# makes things *worse* where it is put in. Had we stopped reading at the paper, we would not have known. Has it earned
# its place in the finished recipe? The last row takes it back: GELU is better there too, by {glue:text}`tr_gelu:.3f`
# nats, for every seed, in the same time. So the next edition of *fast* should drop it. This edition keeps it, because
# the models of other chapters were trained with it before we asked; the next section takes GELU.
#
# Read such a table with two cautions. The order matters: a change can be worth something only after another has been
# made. And it holds at this size and length; a change that helps in the first minute may be a burden in the second
# week. The essays' advice, "adjust the parameters, the structure, the algorithm", leaves out what makes this a
# method: one change at a time, repeated seeds, and a validation set that is not the test set
# ({ref}`err-optimisation`, {ref}`err-order`).
#
# (sec-tr-long)=
# ### The same means for longer
#
# The preset *long* spends the same means, with GELU, on a larger model and a wider context. The README of nanoGPT
# gives a mark to compare with: 1.4697 nats per character on Shakespeare, with 10.7 million parameters, after minutes
# on an A100 {cite}`karpathy2022nanogpt`. The comparison is not exact. Our megabyte has other plays in its validation
# part, and the reference recipe, which is said to end at 1.88 on theirs, ends at {glue:text}`tr_full:.2f` on ours. We
# wanted to be below the mark in a quarter of an hour on two cores, and then as low as half an hour allows.


# %% mystnb={"figure": {"name": "fig-tr-long", "caption": "Two runs recorded on two cores: loss on the validation text and on the batches over minutes of training. Left: the preset long. Right: twice the parameters, with dropout, in just under half an hour. The horizontal line is nanoGPT's mark."}, "image": {"alt": "Two line charts over minutes. Left: validation and training loss fall together steeply, then slowly; the training loss ends far below. A horizontal line marks 1.47 nats, and the validation curve ends a little below it. Right: the two curves stay nearer to each other for almost half an hour and still fall at its end, the validation curve to 1.39."}}
def draw(name, ax):
    """The curves of a recorded run, and when it passed the mark."""
    rows = recorded(name)
    minutes = [row["seconds"] / 60 for row in rows]
    curves = {
        part: [row[f"{key}_loss"] for row in rows]
        for part, key in (("validation", "val"), ("batches", "train"))
    }
    curves["nanoGPT"] = [1.4697] * len(rows)
    plots.lines(minutes, curves, "minutes of training", "nats per character", ax=ax)
    lowest = min(row["val_loss"] for row in rows)
    under = [row["seconds"] / 60 for row in rows if row["val_loss"] <= 1.4697]
    when = f"after {under[0]:.1f} minutes" if under else "not at all"
    print(f"{name}: below 1.4697 {when}, lowest {lowest:.4f}, end after {minutes[-1]:.1f}")


for name, ax in zip(("long", "half-hour"), plots.panels(2, size=(8.4, 3.4)), strict=True):
    draw(name, ax)

# %% [markdown]
# On the left the mark is passed within the quarter of an hour, with a fifth of the parameters. It took three tries, and
# what they differed in is worth more than the mark. The first had windows of 192 characters and 1,500 steps. It ended a
# thousandth above the mark, and its last hundred steps brought nothing any more: every line had been read almost five
# times, and {numref}`fig-tr-long` shows, here too, how the two curves part when a model begins to know its text by
# heart
# ({ref}`sec-gpt-overfitting`). The second, with a threefold weight decay, learnt more slowly and was given up half-way.
# The third is the one on the left: as many characters a step, but in windows of 256, and 1,200 steps. A longer window is
# easier to predict on average, because only its first characters come without a context. And 1,200 steps stop before
# the reading by heart costs more than it brings. Dropout, the usual remedy, was measured as well: its random numbers
# took a fifth more time a step on this processor, which the quarter of an hour does not have.
#
# Half an hour has it. The run on the right is the same recipe at twice the size: six blocks of width 256, one unit in
# five dropped, three times the steps. Every character was read eleven times, and still the curve falls to the very end.
# With units dropped at random, the loss on the batches is that of a crippled model; nothing can be learnt by heart that
# hangs on few of them. So the two curves stay nearer to each other, and the validation loss ends 0.06 lower. One more
# thing differs: the machine. This one has a unit that multiplies in `bfloat16`, and with `dtype="auto"` the recipe uses
# it where there is one. A step then takes two thirds of the time that it takes in 32 bits.
#
# (sec-tr-bench)=
# ### Beside other code
#
# Losses per step are half of the matter; the other half is seconds per step. The following is what `make bench` printed
# on a machine with two cores. Everything runs beside a reference library in the same process and in turns, so that the
# last column, a ratio, means something even where the clock does not. What was promised stands in the first lines of
# each script, in `tests/benchmarks`.

# %%
for row in recorded("bench"):
    print(f"\n{row['name']}\n{row['output']}")

# %% [markdown]
# Where do we stand? The reference shape trains at 1.4 times the speed of `transformers`, as was promised; of a wider
# model less, since there the matrix products, which are the same in both, take a larger share. Generation with a
# cache was promised at twice their speed. The reference shape and the GPT of {ref}`ch-gpt` are there for one prompt.
# Larger ones and whole batches are not: what our loop saves is Python between the products, and the more there is to
# multiply, the less of the time that is. At GPT-2's own size a tenth is left. SmolLM2 in 32-bit floats was promised at
# one and a half times. Token by token it stays far below, since both libraries wait for the same half a gigabyte a
# token ({ref}`sec-llm-speed`). With guesses that are checked along, looked up in the text or else made by a copy in
# four bits ({ref}`sec-llm-guess`), the same text comes one and a half times as fast, on the mean of the eight requests;
# nearly twice as fast where it repeats itself, and less where it does not. With eight bits a weight the model is almost
# twice as fast as `transformers`, with four bits two and a half times, and both are far from what memory allows:
# there the waiting is for the code again. Counting and tokenizers are ahead of the libraries that they teach,
# except for tiktoken, which encodes several times as fast as we do. And *fast* is at 1.88 in well under a quarter of
# the reference's time.

# %% [markdown]
# (sec-tr-scaling)=
# ## A small scaling law
#
# More parameters, more data and more steps lower the loss, and they do so with surprising regularity: over many
# orders of magnitude the loss falls as a power of the size {cite}`kaplan2020`: a {term}`scaling law`. With a constant
# for the part that cannot be learnt, as in {cite}`hoffmann2022`, this is
#
# $$
# L(N) \approx E + A\, N^{-\alpha},
# $$ (eq-tr-scaling)
#
# where $E$ is what no model could predict. Such a law is useful because it can be fitted on cheap runs and
# *extrapolated* to a dear one. Nobody can try a hundred settings at full size. It is also easy to fool oneself with,
# so we do it as a
# prediction: fit on the small runs, write the prediction down, then look.
#
# The runs have four blocks and widths from 16; each reads ten characters per inner parameter, so data grow with the
# model, as they must
# ({ref}`err-more-data`). Two seeds each. $N$ counts the matrices inside the blocks.

# %%
runs = recorded("scaling")
N = np.array(sorted({run["inner"] for run in runs}))
L = np.array([np.mean([run["val_loss"] for run in runs if run["inner"] == n]) for n in N])


def power_law(sizes, losses):
    """E, A and alpha with the least squared error of log(L - E)."""

    def line(E):
        slope, height = np.polyfit(np.log(sizes), np.log(losses - E), 1)
        return slope, height, np.square(np.log(losses - E) - height - slope * np.log(sizes)).sum()

    E = min(np.arange(0, losses.min() - 0.01, 0.01), key=lambda E: line(E)[2])
    slope, height, _ = line(E)
    return lambda n: E + np.exp(height) * n**slope, (E, np.exp(height), -slope)


law, (E, A, alpha) = power_law(N[:-1], L[:-1])
print(f"fitted on {len(N) - 1} sizes: E = {E:.1f}, alpha = {alpha:.1f}")
predicted, measured = law(N[-1]), L[-1]
print(f"N = {N[-1]:,}: predicted {predicted:.3f}, measured {measured:.3f}")
print(f"miss {predicted - measured:+.2f}")

# %% mystnb={"figure": {"name": "fig-tr-scaling", "caption": "Validation loss against the number of inner parameters. The law was fitted on all runs but the largest; the largest run was predicted."}, "image": {"alt": "Points that fall along a bent curve over a logarithmic axis of sizes. The curve is drawn through the small runs and continued to the largest, which lies close to it."}}
grid = np.geomspace(N[0], N[-1], 60)
ax = plots.lines(grid, {"law": law(grid)}, "inner parameters", "", log="x")
ax.plot(N[:-1], L[:-1], "o", label="runs it was fitted on")
ax.plot(N[-1:], L[-1:], "s", label="the run predicted")
ax.minorticks_off()
ax.set_xticks(N, [f"{n:,}" for n in N], rotation=30)
ax.set_ylabel("validation loss, nats")
ax.legend()
print([f"{value:.2f}" for value in L])

# %% tags=["hide-input", "nbval-ignore-output"]
glue("tr_predicted", float(predicted), display=False)
glue("tr_measured", float(measured), display=False)
glue("tr_miss", float(abs(predicted - measured)), display=False)
without_one = [
    power_law(np.delete(N[:-1], i), np.delete(L[:-1], i))[0](N[-1]) for i in range(len(N) - 1)
]
glue("tr_low", float(min(without_one)), display=False)
glue("tr_high", float(max(without_one)), display=False)

# %% [markdown]
# Predicted {glue:text}`tr_predicted:.3f`, measured {glue:text}`tr_measured:.3f`: a miss of {glue:text}`tr_miss:.2f`
# nats, for a step of little more than a factor two in size. Leaving out one of the small runs moves the prediction
# between {glue:text}`tr_low:.2f` and {glue:text}`tr_high:.2f`, which says how much a fit of three numbers to a
# handful of points is worth. $E$ and $\alpha$ are hardly determined by themselves; only their combination is.
#
# What is the best size for a given amount of computing? Training costs about $C = 6ND$ operations (we check that
# below), so a larger $N$ leaves fewer tokens $D$. Hoffmann et al. fitted $L(N, D) = E + A N^{-\alpha} + B D^{-\beta}$
# to over 400 runs and found that both should grow alike, at about twenty tokens a parameter; several famous models
# had been far too large for their data {cite}`hoffmann2022`. That is the answer to "build larger, stronger models" in
# the essays
# ({ref}`err-bigger`). Models that will be *used* a lot are trained far past that point on purpose, since a small model
# that was dear to train is cheap to run: Llama 3 8B saw almost two thousand tokens a parameter {cite}`grattafiori2024`.
#
# (sec-tr-cost)=
# ## Cost: counting operations, and the clock
#
# A weight takes part in one multiplication and one addition for each token: $2N$ operations a token forwards. The
# backward pass does it twice more, once for the gradient of the input and once for that of the weight. Attention adds
# its scores and averages, $4TD_{\text{model}}$ a layer and token:
#
# $$
# C \approx D\,(6N + 12\, L\, T\, D_{\text{model}}) \approx 6ND.
# $$ (eq-tr-cost)
#
# PyTorch can count too. It lists the products it really executes; our formula must give the same number for the
# products with weights.

# %%
SHAPE = {"vocab_size": 64, "context": 64, "d_model": 64, "n_layers": 2, "n_heads": 2}
model, rows = GPT(Config(**SHAPE)), torch.zeros(8, 64, dtype=torch.long)
with FlopCounterMode(display=False) as counter:
    loss(model(rows), rows).backward()
products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "position" not in name]
six = 6 * sum(p.numel() for p in matrices) * rows.numel()
print(f"6 N D = {six:,}; PyTorch's products with weights: {products:,}")
assert products == six

# %% [markdown]
# Now the clock. We time a forward and a backward pass while one of context, width, depth and batch doubles and the
# rest stays, and set the count beside it, scaled to agree at the first point.


# %% tags=["nbval-ignore-output"]
def timed(config, rows):
    model = GPT(config)
    batch = sample(ids % config.vocab_size, config.context, rows)(0)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        gradient(model, batch)
        times.append(time.perf_counter() - started)
    return min(times)


# %% tags=["nbval-ignore-output"]
DIALS = {
    "context": ("context", (32, 64, 128, 256, 512)),
    "width": ("d_model", (32, 64, 128, 256)),
    "depth": ("n_layers", (1, 2, 4, 8)),
    "batch": ("rows", (2, 4, 8, 16, 32)),
}
clock, counted = {}, {}
for dial, (field, values) in DIALS.items():
    for value in values:
        how = {"rows": 8, **SHAPE, field: value}
        rows, config = how.pop("rows"), Config(**how)
        tokens = rows * config.context
        clock.setdefault(dial, []).append(timed(config, rows))
        flops = 3 * tokens * cost.forward_flops(Recipe("", config, TrainConfig(1, 1)), 64)
        counted.setdefault(dial, []).append(flops)

# %% mystnb={"figure": {"name": "fig-tr-cost", "caption": "Milliseconds of a forward and a backward pass on one core as one dimension of the model grows, and the operations that the formula counts, scaled in each panel to the first point."}, "image": {"alt": "Four panels with rising lines on logarithmic axes: context, width, depth and batch. The count rises by a straight line for depth and batch and more steeply for width; the clock rises too, for width far less than the count and elsewhere about as much."}} tags=["nbval-ignore-output"]
for ax, (dial, (_, values)) in zip(plots.panels(4, size=(9.6, 2.9)), DIALS.items(), strict=True):
    ms, flops = 1000 * np.array(clock[dial]), np.array(counted[dial], dtype=float)
    pair = {"clock": ms, "count": flops * ms[0] / flops[0]}
    plots.lines(values, pair, dial, "ms" if dial == "context" else "", log="xy", ax=ax)
    ax.minorticks_off()
    ax.set_xticks(values, values)
    ax.legend().set_visible(dial == "context")
    print(f"{dial:8} time x{ms[-1] / ms[0]:.1f}, operations x{flops[-1] / flops[0]:.1f}")
rate_here = counted["width"][-1] / clock["width"][-1]
print(f"at width 256: {rate_here / 1e9:.0f} billion operations per second on one core")

# %% [markdown]
# The count in {numref}`fig-tr-cost` is exact and the clock does not follow it everywhere. Small products leave the
# processor waiting for memory and for Python, so a model of twice the width takes less than four times as long until
# the products are large enough. The two lines are made to agree at the smallest size, which uses the processor worst;
# that is why the count can run above the clock further to the right. (More blocks make no product larger, so depth need
# not show it.) Divided by the peak rate of the machine, a count of operations is a *lower bound* on time, useful for
# comparing large models, and misleading for small ones. The share of a machine's peak rate that a run reaches is its
# *utilisation*; 0.3 to 0.5 is good on thousands of GPUs.
#
# `python -m minilm train` prints an estimate before it starts. It counts the operations, those of attention included,
# measures how fast the machine does one matrix product of the recipe's size, and says *twice* the time that follows,
# since a step is more than its products:

# %% tags=["nbval-ignore-output"]
for name, vocab_size in (("reference", 65), ("fast", 65), ("long", 65), ("gpt2", 50_257)):
    print(cost.estimate(presets.PRESETS[name], vocab_size))

# %% [markdown]
# Twice is on the careful side: on the machine that stored this page, the first three estimates lie above the times on
# two cores that this chapter has recorded for these presets.
#
# ## What this costs in the world
#
# {eq}`eq-tr-cost` turns published sizes into operations, and operations into hours and money:
#
# $$
# \text{GPU hours} = \frac{6ND}{\text{peak rate} \times \text{utilisation} \times 3600}.
# $$ (eq-tr-hours)
#
# {numref}`tab-tr-world` does it for four models whose sizes are published. The peak of an H100 is $989 \cdot 10^{12}$
# operations a second in bfloat16, that of an A100 $312 \cdot 10^{12}$. We assume a utilisation of 0.4 and two dollars a
# GPU hour; both are uncertain by a factor of two either way, and a price is a price of some year.


# %%
def gpu_hours(parameters, tokens, peak=989e12, utilisation=0.4):
    return 6 * parameters * tokens / (peak * utilisation * 3600)


# %% mystnb={"figure": {"name": "tab-tr-world", "caption": "What one final training run takes by the formula, at 40 % utilisation of an H100 and 2 dollars an hour. Parameters of DeepSeek-V3 are those active for a token."}}
WORLD = {  # parameters, tokens
    "GPT-2 124M, as nanoGPT repeats it": (124e6, 295e9),
    "GPT-3 175B": (175e9, 300e9),
    "DeepSeek-V3": (37e9, 14.8e12),
    "Llama 3.1 405B": (405e9, 15.6e12),
}
rows = []
for name, (parameters, tokens) in WORLD.items():
    hours = gpu_hours(parameters, tokens)
    rows.append((name, f"{6 * parameters * tokens:.1e}", f"{hours:,.0f}", f"{2 * hours:,.0f}"))
heads = ["model", "operations", "GPU hours", "dollars"]
Markdown(
    tabulate(
        rows,
        heads,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=("left", "right", "right", "right"),
    )
)

# %% [markdown]
# How good is that? Three of the four can be checked. The GPT-3 paper states $3.14 \cdot 10^{23}$ operations
# {cite}`brown2020`, the Llama 3 report $3.8 \cdot 10^{25}$ {cite}`grattafiori2024`; the formula agrees with both.
# Meta's model card gives 30.84 million H100 hours for the 405B model {cite}`llamacard2024`, and DeepSeek 2.664
# million H800 hours for pretraining {cite}`deepseek2024`. Turning {eq}`eq-tr-hours` round, these are the
# utilisations:

# %%
STATED = {"Llama 3.1 405B": 30.84e6, "DeepSeek-V3": 2.664e6}
for name, hours in STATED.items():
    parameters, tokens = WORLD[name]
    print(f"{name}: {gpu_hours(parameters, tokens, utilisation=1.0) / hours:.2f} of the peak")

# %% [markdown]
# The report itself says 0.38 to 0.43 while the run was healthy; the card's hours include restarts and idle time, so
# the lower number is no contradiction. DeepSeek multiplied in eight bits, at twice the peak we divide by. nanoGPT
# states four days on eight A100 for GPT-2 {cite}`karpathy2022nanogpt`.
#
# For frontier models the makers publish nothing, and all numbers are estimates by outsiders. Cottier et al. put the
# hardware and energy of GPT-4's final run at about 40 million dollars, those of Gemini Ultra at about 30 million, and
# find that such costs have grown about 2.4-fold a year since 2016
# {cite}`cottier2024`. If that continued, runs of more than a billion dollars would come by 2027. The same study finds
# that staff is between 29 and 49 % of the cost of
# *developing* such a model, and energy only 2 to 6 %. Three sums are regularly confused: the final run; all runs
# including the failed ones
# and the ablations; and the whole development. DeepSeek's 5.6 million dollars, two dollars an hour for 2.788 million
# hours, is the first, as its report says in so many words.
#
# And on our machine? The essays answer the question "can I train a large model on my own computer?" with "usually not".
# Here is the number.

# %% tags=["nbval-ignore-output"]
for name, (parameters, tokens) in WORLD.items():
    years = 6 * parameters * tokens / (2 * rate_here) / 31_557_600
    print(f"{name:34} {years:15,.0f} years on two cores")

# %% [markdown]
# For GPT-2 `cost.estimate` said about twice as many years. The run is the same, and the difference is mostly the
# doubling. The estimate takes twice the time of the bare products, and counts attention; here the operations are $6ND$,
# an eighth less, at the rate that a whole pass reached at width 256 ({numref}`fig-tr-cost`), as if two cores did twice
# the work of one. The truth is likely to lie between the two.
#
# ## The answer
#
# In order of what it can cost you to get them wrong: the learning rate, without which nothing else matters; the initial
# weights and clipping, which cost nothing when right; then the optimizer and the architecture, which in the ablation
# together brought the loss of the full reference in {glue:text}`tr_share:.2f` of its time; then schedule and batch.
# Precision, compiling and more processes change the seconds and leave the losses alone. What a run costs is
# $6ND$ operations, divided by the rate your machine really reaches.
#
# ### What we learnt
#
# - On a quadratic, gradient descent works up to the rate $2/\lambda_{\max}$, and its speed is set by the condition
#   number. Adam and Muon attack that number, entry by entry or direction by direction.
# - Sweep the rate for every optimizer before comparing optimizers. Compare finished schedules only.
# - AdamW takes the decay out of the fraction. Muon gives all directions of a matrix the same strength, by products
#   alone.
# - A batch much larger than the noise scale wastes work, one much smaller wastes hardware. Parts of a batch weigh by
#   their targets.
# - Clipping protects AdamW's memory rather than its step.
# - Weights and averages stay in float32; products may be bfloat16 where the processor has it.
# - A run that is a function of seed and step can be killed at any moment and end with the same bits; two processes
#   give the losses of one.
# - Gains are measured one change at a time over several seeds; laws are tested by predicting.
#
# ## Exercises
#
# ```{exercise} Warm-up, stable, decay
# :label: ex-tr-wsd
#
# A cosine must know its end. Write `wsd(step, steps, warmup, decay)`, a schedule that does not until late: a linear
# warm-up as in {eq}`eq-tr-cosine`, then the constant 1, and over the last `decay` steps a straight line that would
# reach 0 at `step == steps`.
# ```


# %% tags=["exercise"]
def wsd(step, steps, warmup, decay):
    """The share of the peak rate at a step: up, level, down."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def wsd(step, steps, warmup, decay):
    """The share of the peak rate at a step: up, level, down."""
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / decay)


# %% tags=["check"]
found = [wsd(step, 12, warmup=4, decay=4) for step in range(13)]
assert np.allclose(found, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]), found
for decay in (1, 5, 20):
    line = [wsd(step, 20, 0, decay) for step in range(20)]
    assert np.allclose(
        line, [optim.warmup_linear(max(0, s - 20 + decay), decay) for s in range(20)]
    )
print("ok")

# %% [markdown]
# ```{exercise} Nesterov's momentum
# :label: ex-tr-nesterov
#
# Write `nesterov(theta, g, m, rate, momentum)`, which returns the new parameter and the new average:
# $m \leftarrow \mu m + g$, then
# a step along $g + \mu m$ with the *new* $m$. It must equal `torch.optim.SGD(..., nesterov=True)`.
# ```


# %% tags=["exercise"]
def nesterov(theta, g, m, rate, momentum):
    """One step of SGD with Nesterov's momentum: (theta, m)."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def nesterov(theta, g, m, rate, momentum):
    """One step of SGD with Nesterov's momentum: (theta, m)."""
    m = momentum * m + g
    return theta - rate * (g + momentum * m), m


# %% tags=["check"]
for momentum in (0.5, 0.9):
    theta, m = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    peer = torch.nn.Parameter(theta.clone())
    reference = torch.optim.SGD([peer], lr=0.1, momentum=momentum, nesterov=True)
    for step in range(6):
        peer.grad = peer.detach().sin() * (step + 1)
        theta, m = nesterov(theta, theta.sin() * (step + 1), m, 0.1, momentum)
        reference.step()
        torch.testing.assert_close(theta, peer.detach(), rtol=0, atol=1e-12)
print("ok")

# %% [markdown]
# ```{exercise} The mean of means
# :label: ex-tr-means
#
# Write `joint_loss(losses, counts)`: the loss of a batch from the mean losses of its parts and the numbers of their
# scored targets. A part without a target has the loss `nan` and must not spoil the rest. Only such a part may be
# skipped; no target at all is a ValueError.
# ```


# %% tags=["exercise"]
def joint_loss(losses, counts):
    """The mean loss per target of a batch that was worked through in parts."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def joint_loss(losses, counts):
    """The mean loss per target of a batch that was worked through in parts."""
    if not sum(counts):
        raise ValueError("no part has a target")
    return sum(nats * n for nats, n in zip(losses, counts, strict=True) if n) / sum(counts)


# %% tags=["check"]
assert math.isclose(joint_loss([2.0, 4.0], [3, 1]), 2.5), "weigh by targets"
assert math.isclose(joint_loss([2.0, math.nan, 4.0], [1, 0, 1]), 3.0), "skip what has no target"
assert math.isnan(joint_loss([math.nan, 2.0], [3, 1])), "a loss that broke must not be hidden"
model = new()
means = [loss(model(*part.inputs), part.targets).item() for part in parts]
sizes = [int((part.targets != IGNORE).sum()) for part in parts]
assert math.isclose(
    joint_loss(means, sizes), loss(model(*batch.inputs), batch.targets).item(), rel_tol=1e-5
)
try:
    joint_loss([math.nan], [0])
except ValueError:
    print("ok")
else:
    raise AssertionError("no target at all: raise ValueError")

# %% [markdown]
# ```{exercise} The best size for a budget
# :label: ex-tr-chinchilla
#
# For $L(N, D) = E + A N^{-\alpha} + B D^{-\beta}$ and a budget $C = 6ND$, set the derivative to zero and write
# `best_size(C, A, B, alpha, beta)`, the $N$ with the least loss. The check uses the constants that Hoffmann et al.
# report in their third approach {cite}`hoffmann2022`, and a search.
# ```


# %% tags=["exercise"]
def best_size(C, A, B, alpha, beta):
    """Parameters that reach the lowest loss with C operations."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def best_size(C, A, B, alpha, beta):
    """Parameters that reach the lowest loss with C operations."""
    return (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))


# %% tags=["check"]
for constants in ((406.4, 410.7, 0.34, 0.28), (100.0, 900.0, 0.3, 0.5)):
    for C in (1e18, 5.76e23):
        A, B, alpha, beta = constants
        grid = np.geomspace(1e5, 1e14, 200_001)
        curve = A * grid**-alpha + B * (C / 6 / grid) ** -beta
        found = best_size(C, *constants)
        assert abs(found / grid[curve.argmin()] - 1) < 1e-3, (C, constants)
print(f"with Gopher's budget: {best_size(5.76e23, 406.4, 410.7, 0.34, 0.28) / 1e9:.0f} billion")

# %% [markdown]
# ## Further reading
#
# - Kingma and Ba {cite}`kingma2015` for Adam, Loshchilov and Hutter {cite}`loshchilov2019` for its decay, Jordan
#   {cite}`jordan2024` for Muon and Bernstein and Newhouse {cite}`bernstein2024` for the view that unites them.
# - McCandlish et al. {cite}`mccandlish2018` on the batch, with the derivation of the noise scale.
# - Kaplan et al. {cite}`kaplan2020` and Hoffmann et al. {cite}`hoffmann2022`, in this order, on scaling laws.
# - Micikevicius et al. {cite}`micikevicius2018` on mixed precision; Rajbhandari et al. {cite}`rajbhandari2020` on
#   sharding.
# - The report on Llama 3 {cite}`grattafiori2024` describes a large run with its failures; Cottier et al.
#   {cite}`cottier2024` estimate what such runs cost.
