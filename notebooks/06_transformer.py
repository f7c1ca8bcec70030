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
# (ch-transformer)=
# # The Transformer: one block, repeated
#
# **What has to stand around attention before it can be stacked a hundred layers deep, and what does the stack cost?**
#
# *About two minutes on two cores. You need {ref}`ch-attention` for attention, masks, heads and positions, and
# {ref}`ch-concepts` for cross-entropy.*
#
# {term}`Attention` moves information between positions. By itself it makes a poor model: it can only average, and it
# cannot be stacked. The {term}`Transformer` {cite}`vaswani2017` surrounds it with four plain things: a stream to add
# to, a norm, a small network at every position, and numbers to start from. Each answers a failure that can be
# measured, and this chapter measures it.
#
# The plan:
#
# 1. run the layer equation of one of our source essays as printed, see what goes wrong, and write it down correctly;
# 2. take the parts one by one: the residual stream, the norm, the MLP;
# 3. put them together, and check the block against PyTorch and the model against GPT-2;
# 4. send gradients through stacks of up to 32 layers, with and without each part;
# 5. derive the first weights;
# 6. build encoder, decoder and encoder-decoder from the same block;
# 7. count parameters, operations and bytes before anything is built, and be right to the last digit.

# %%
import os
import tempfile
import time
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from IPython.display import Markdown
from myst_nb import glue
from tabulate import tabulate
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers is our reference here; it needs no network
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
from transformers.utils import logging

from minilm import data, layers, plots
from minilm.attention import Attention, attention, attention_weights, causal_mask
from minilm.contract import loss, next_token
from minilm.gpt import GPT
from minilm.gpt2_files import from_gpt2, load_gpt2, save_gpt2, to_gpt2, to_gpt2_config
from minilm.tokenizer import BPE
from minilm.transformer import Block, Config, Stack, flops, parameters

plots.use_style()
logging.set_verbosity_error()
logging.disable_progress_bar()

# %% [markdown]
# ## An equation that does too little
#
# Document 1 describes a Transformer layer in one line:
#
# $$
# h_i = \text{Attention}(h_{i-1}, h_{i-1}, h_{i-1}) + h_{i-1} \qquad \text{(as printed)}
# $$ (eq-tf-printed)
#
# A few lines above it, $i$ numbered the words of a text. In {eq}`eq-tf-printed` it numbers layers, so that $h_i$ does
# not say *whose* hidden state it is ({ref}`err-layer-index`). Let us give each index its own letter: $\ell$ for the
# layer, $t$ for the position, and one matrix for all positions,
#
# $$
# H^{(\ell)} \in \mathbb{R}^{T \times d}, \qquad \text{row } t: \ h^{(\ell)}_t, \qquad \ell = 0, \dots, L.
# $$
#
# Now the printed equation can be read in one way only: $H^{(\ell)} = \operatorname{Attention}(H, H, H) + H$ with $H =
# H^{(\ell-1)}$. And it can be run. We take sixteen random vectors as the embeddings of
# sixteen words, once with entries of size 1 and once with entries of size 0.1, and apply it twelve times. Three
# numbers are watched: how long the vectors are, how similar the positions are to one another (the mean cosine), and
# how much attention a position pays to itself.


# %% mystnb={"figure": {"name": "tab-tf-printed", "caption": "The layer equation of document 1 as printed, applied twelve times to sixteen random vectors of width 64."}}
def cosine(h):
    unit = h / h.norm(dim=-1, keepdim=True)
    return ((unit @ unit.T).sum() - len(h)) / (len(h) * (len(h) - 1))


rows = []
for size in (1.0, 0.1):
    torch.manual_seed(0)
    h = size * torch.randn(16, 64, dtype=torch.float64)
    for layer in range(13):
        if layer in (0, 1, 2, 4, 8, 12):
            own = attention_weights(h, h).diagonal().mean()
            rows.append((size, layer, h.norm(dim=-1).mean(), cosine(h), own))
        h = attention(h, h, h) + h
heads = ["entries", "layers", "mean length", "mean cosine", "attention to itself"]
Markdown(tabulate(rows, heads, tablefmt="pipe", floatfmt=("g", "g", ".1f", ".3f", ".3f")))

# %% [markdown]
# {numref}`tab-tf-printed` shows two ways to fail. With entries of size 1, every position attends to itself and to
# nobody else: without projections a query *is* its own key, and nothing is as similar to a vector as that vector.
# Each layer then doubles its input. Twelve layers are a slow way to multiply by $2^{12} = 4096$, and no information
# has moved. With entries of size 0.1 all scores are nearly zero, attention is nearly the plain average, and the
# positions are drawn together until they all say the same. The mean is doubled in each layer and the differences stay
# as they are. A relative of this failure, in attention without residual connections, has been studied under the name
# *rank collapse* {cite}`dong2021`.
#
# The equation leaves out most of the layer ({ref}`err-block`): the projections to queries, keys and values, the heads
# and the output projection ({ref}`ch-attention` has those), and then the norm, the MLP and its own residual
# connection. And what attention averages is not the states of "the other words": it is *values*, projections of the
# states, the position's own among them ({ref}`err-values`). What most decoders compute today is
#
# $$
# \begin{aligned}
# A^{(\ell)} &= H^{(\ell-1)} + \operatorname{MultiHead}\bigl(\operatorname{Norm}(H^{(\ell-1)})\bigr), \\
# H^{(\ell)} &= A^{(\ell)} + \operatorname{MLP}\bigl(\operatorname{Norm}(A^{(\ell)})\bigr).
# \end{aligned}
# $$ (eq-tf-block)
#
# The two lines are called *sublayers*. Only the first mixes positions. Here is {eq}`eq-tf-block` by hand, on the
# weights of a `Block`, with attention as the pure function of the last chapter.

# %%
config = Config(vocab_size=100, context=32, d_model=64, n_layers=1, n_heads=4)
torch.manual_seed(0)
block = Block(config).double()
w = dict(block.named_parameters())


def linear(x, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x, name):
    return layers.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])


def by_hand(x):
    q, k, v = linear(norm(x, "norm1"), "attention.qkv").chunk(3, -1)
    q, k, v = (part.unflatten(-1, (4, 16)).transpose(-3, -2) for part in (q, k, v))  # (H, T, d)
    mixed = attention(q, k, v, causal_mask(len(x), len(x))).transpose(-3, -2).flatten(-2)
    x = x + linear(mixed, "attention.out")
    return x + linear(layers.gelu(linear(norm(x, "norm2"), "mlp.inner")), "mlp.outer")


x = torch.randn(10, 64, dtype=torch.float64)
torch.testing.assert_close(by_hand(x), block(x[None], causal=True)[0])
print("one block by hand = minilm.transformer.Block")

# %% [markdown]
# Does it mend the two failures? We stack twelve such blocks, with the first weights of GPT-2 (derived
# {ref}`below <sec-tf-init>`), without a mask, as in document 1.


# %%
torch.manual_seed(0)
twelve = GPT(replace(config, n_layers=12)).double().stack.blocks
for size in (1.0, 0.1):
    h = size * torch.randn(16, 64, dtype=torch.float64)
    start, first = cosine(h), h.norm(dim=-1).mean()
    for module in twelve:
        h = module(h[None])[0]
    grown = h.norm(dim=-1).mean() / first
    print(f"entries {size}: {grown:.2f} times as long; cosine {start:.2f}, then {cosine(h):.2f}")

# %% [markdown]
# The vectors keep their length and stay apart. Twelve untrained blocks do very little, and that is a virtue: whatever
# the embeddings say arrives at the top, and training decides what to add. The sections that follow find out which part
# is responsible for what.
#
# (sec-tf-stream)=
# ## The residual stream
#
# A {term}`residual connection` adds the input of a sublayer to its output. Written for one sublayer it looks like a
# detail. Written for the whole stack it changes the picture. Let $f_1, f_2, \dots, f_{2L}$ be the sublayers, each
# including its norm, and $x_0 = H^{(0)}$. Unrolling $x_j = x_{j-1} + f_j(x_{j-1})$ gives
#
# $$
# x_{2L} = x_0 + \sum_{j=1}^{2L} f_j(x_{j-1}).
# $$ (eq-tf-stream)
#
# So there is one vector per position that runs from the embedding to the output. Sublayers read from it and add to
# it; nothing is ever replaced. This view is called the {term}`residual stream` {cite}`elhage2021`. Whoever looks
# inside a trained model (chapter 18, planned) lives on {eq}`eq-tf-stream`, since a sum can be taken apart. We take it
# apart:

# %%
torch.manual_seed(0)
stack = Stack(replace(config, n_layers=6)).double()
added = []
for module in stack.blocks:
    for part in (module.attention, module.mlp):
        part.register_forward_hook(lambda module, args, output: added.append(output))
x = torch.randn(1, 16, 64, dtype=torch.float64)
out = stack(x, causal=True)
torch.testing.assert_close(out, stack.norm(x + sum(added)))
print(f"{len(added)} additions, and their sum with the input is the output")

# %% [markdown]
# The last norm stands outside the sum: since each sublayer normalises what it reads, nobody has normalised the stream
# itself when it reaches the end, so `Stack` does.
#
# What are residual connections for? Document 2 says: to solve the {term}`vanishing gradient`. The paper that
# introduced them says otherwise ({ref}`err-residual`). He and colleagues saw that very deep plain networks had a
# higher *training* error than shallow ones, although a deep network could copy the shallow one and let the remaining
# layers do nothing {cite}`he2016`. Gradients were not the reason, in their judgement: normalisation kept those
# healthy. "Doing nothing" is what was hard to learn. A residual block does nothing when its sublayer outputs zero, and
# small first weights put it near there.
#
# Both effects exist, and below they are measured apart.
#
# (sec-tf-norm)=
# ## The norm
#
# {term}`Layer normalization` {cite}`ba2016` looks at one vector $x \in \mathbb{R}^d$, the state of one position, and
# gives every such vector mean 0 and variance 1:
#
# $$
# \hat{x} = \frac{x - \mu \mathbf{1}}{\sigma}, \qquad \mu = \frac1d \sum_i x_i, \qquad
# \sigma^2 = \frac1d \sum_i (x_i - \mu)^2, \qquad \operatorname{Norm}(x) = g \odot \hat{x} + b.
# $$ (eq-tf-norm)
#
# $g$ and $b$ are {term}`parameters <parameter>`; a tiny $\varepsilon$ is added to $\sigma^2$ so that a constant vector
# does not divide by zero. By hand, for four numbers whose mean is 3 and whose variance is 4:

# %%
x = torch.tensor([1.0, 1.0, 5.0, 5.0])
print((x - 3) / 2)
ours = layers.layer_norm(x[None], torch.ones(4), torch.zeros(4))[0]
torch.testing.assert_close(ours, (x - 3) / 2, rtol=0, atol=1e-5)
torch.testing.assert_close(ours, F.layer_norm(x, (4,)))

# %% [markdown]
# As geometry: subtracting the mean drops the part of $x$ along $\mathbf{1}$, and dividing by $\sigma$ moves what is
# left to the sphere of radius $\sqrt d$. *Direction* survives, length does not. So the norm does not care how loud the
# stream is, $\operatorname{Norm}(cx) = \operatorname{Norm}(x)$ for every $c > 0$, and a sublayer that reads through a
# norm gets inputs of the same size in layer 1 and in layer 100.
#
# RMSNorm {cite}`zhangsennrich2019` leaves the mean alone: $\operatorname{RMSNorm}(x) = g \odot x \big/ \sqrt{\tfrac1d
# \sum_i x_i^2}$. It is the same sphere without the projection. Most models since 2023 use it; it costs a little less
# and in their hands loses nothing.

# %%
x = torch.randn(5, 64, dtype=torch.float64)
one, zero = torch.ones(64).double(), torch.zeros(64).double()
torch.testing.assert_close(
    layers.layer_norm(7 * x, one, zero), layers.layer_norm(x, one, zero), rtol=1e-4, atol=0
)
torch.testing.assert_close(layers.rms_norm(x, one), F.rms_norm(x, (64,), eps=1e-5))
centred = x - x.mean(-1, keepdim=True)
torch.testing.assert_close(layers.rms_norm(centred, one), layers.layer_norm(x, one, zero))
print("layer norm = RMSNorm after the mean is taken off")

# %% [markdown]
# What the norm does to gradients is the key to the depth experiments, so we derive it.
#
# ```{prf:theorem} The gradient through a norm
# :label: thm-tf-norm
# Let $\hat x$ be as in {eq}`eq-tf-norm` and let $\bar g = \partial \mathcal{L} / \partial \hat x$. Then
#
# $$
# \frac{\partial \mathcal L}{\partial x} = \frac1\sigma \Bigl( \bar g - \tfrac1d (\mathbf 1^\top \bar g)\, \mathbf 1
# - \tfrac1d (\hat x^\top \bar g)\, \hat x \Bigr).
# $$
# ```
#
# ```{prf:proof}
# Write $c = x - \mu \mathbf 1$, so that $\hat x = c / \sigma$ and $\sigma^2 = c^\top c / d$. A small change $\mathrm
# dx$ gives $\mathrm dc = \mathrm dx - \tfrac1d (\mathbf 1^\top \mathrm dx) \mathbf 1$ and $\mathrm d\sigma = c^\top
# \mathrm dc / (d \sigma) = \hat x^\top \mathrm dc / d$. Hence $\mathrm d \hat x = \mathrm dc / \sigma - c\, \mathrm
# d\sigma / \sigma^2 = \tfrac1\sigma ( \mathrm dc - \tfrac1d \hat x \hat x^\top \mathrm dc )$. Because $\hat x^\top
# \mathbf 1 = 0$, the matrix that maps $\mathrm dx$ to $\mathrm d\hat x$ is $\tfrac1\sigma (I - \tfrac1d \mathbf 1
# \mathbf 1^\top - \tfrac1d \hat x \hat x^\top)$. It is symmetric, so its transpose, which maps $\bar g$ to the
# gradient, is the same.
# ```
#
# Two things to read off. The gradient loses its components along $\mathbf 1$ and along $\hat x$: no step can be gained
# by changing what the norm removes. And it is divided by $\sigma$: *the louder the stream, the smaller the gradient
# that a norm lets through*. Autograd and finite differences agree with the theorem:

# %%
x = 3 * torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
g = torch.randn(4, 8, dtype=torch.float64)
unit = layers.layer_norm(x, torch.ones(8).double(), eps=0.0)
(auto,) = torch.autograd.grad(unit, x, g)
sigma = x.std(-1, correction=0, keepdim=True)
paper = (g - g.mean(-1, keepdim=True) - unit * (unit * g).mean(-1, keepdim=True)) / sigma
torch.testing.assert_close(paper, auto)

step = torch.randn_like(x) * 1e-6
change = layers.layer_norm(x + step, torch.ones(8).double(), eps=0.0)
change = change - layers.layer_norm(x - step, torch.ones(8).double(), eps=0.0)
torch.testing.assert_close((change * g).sum() / 2, (paper * step).sum(), rtol=1e-6, atol=0)
print("paper = autograd = finite differences")

# %% [markdown]
# (sec-tf-mlp)=
# ## The MLP, and why attention alone is not enough
#
# The second sublayer is a small network that sees one position at a time, a *multilayer perceptron*, MLP (many papers
# say *feed-forward network*):
#
# $$
# \operatorname{MLP}(x) = W_2\, \phi(W_1 x + b_1) + b_2, \qquad W_1 \in \mathbb R^{F \times d}, \quad W_2 \in \mathbb
# R^{d \times F},
# $$ (eq-tf-mlp)
#
# with $F = 4d$ by custom and an activation $\phi$. Why is it there? Attention looks non-linear enough. But its
# softmax only decides *where* to look. *What* is fetched passes through $W^V$ and $W^O$ and is averaged, and all of
# that is linear: with the weights of attention held fixed, the output is a linear function of the input. The sharpest
# case is a text of one token, in which there is nothing to choose.
#
# ```{prf:theorem} Attention on one position is a matrix
# :label: thm-tf-linear
# For $T = 1$, multi-head self-attention without biases computes $x \mapsto W^O W^V x$, whatever $W^Q$ and $W^K$ are.
# In particular it cannot compute the product of two of its inputs, and neither can any stack of attention layers with
# residual connections.
# ```
#
# ```{prf:proof}
# A softmax over one score is 1, so every head returns its value, and the joined heads are $W^V x$. A residual
# connection adds the identity, and products and sums of matrices are matrices. A linear function satisfies $f(-x) =
# -f(x)$; the product $x_1 x_2$ satisfies $f(-x) = f(x)$. Only zero does both.
# ```
#
# The product of two signs is the exclusive or, the oldest counterexample to linear models. We give attention its best
# chance: the linear map that least squares finds. And we give the MLP two hidden units, chosen by hand.

# %%
torch.manual_seed(0)
layer, x = Attention(8, 2, bias=False), torch.randn(1, 1, 8)
values, mix = layer.qkv.weight[16:], layer.out.weight
torch.testing.assert_close(layer(x)[0, 0], mix @ values @ x[0, 0])

signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
product = signs[:, :1] * signs[:, 1:]
best = torch.linalg.lstsq(signs, product).solution
error = (signs @ best - product).square().mean()
print(f"attention at its best: mean squared error {error:.2f}; always answering 0: 1.00")

# %%
mlp = layers.MLP(2, 2, "relu", bias=True)
with torch.no_grad():
    mlp.inner.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    mlp.outer.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    mlp.inner.bias.zero_()
    mlp.outer.bias.copy_(torch.tensor([-1.0, 0.0]))
print("the MLP:", mlp(signs)[:, 0].tolist())
assert torch.equal(mlp(signs)[:, :1], product)

# %% [markdown]
# Two units suffice because $|x_1 + x_2| - 1 = x_1 x_2$ for signs. (A real stack also has norms, and a norm is not
# linear; but a division by the length is a poor substitute for a network. In the mixture of words, only the MLP can
# make a decision.)
#
# A useful way to read {eq}`eq-tf-mlp` is as attention to a memory that does not change {cite}`geva2021`. Row $j$ of
# $W_1$ is a key $k_j$, column $j$ of $W_2$ is a value $v_j$, and
#
# $$
# \operatorname{MLP}(x) = b_2 + \sum_{j=1}^{F} \phi(k_j \cdot x + b_{1j})\, v_j .
# $$ (eq-tf-memory)
#
# A key asks "does this position look like that?", and if so its value is written into the stream. The differences from
# attention: keys and values are parameters, not other positions, and there is no softmax, so several can fire at once.

# %%
mlp = layers.MLP(64, 256, "gelu", bias=True).double()
x = torch.randn(64, dtype=torch.float64)
keys, stored = mlp.inner.weight, mlp.outer.weight.T
fired = layers.gelu(keys @ x + mlp.inner.bias)
total = mlp.outer.bias + sum(
    strength * value for strength, value in zip(fired, stored, strict=True)
)
torch.testing.assert_close(total, mlp(x))
print(
    f"{len(keys)} memories; the ten strongest hold {fired.sort().values[-10:].sum() / fired.relu().sum():.2f} of it"
)

# %% [markdown]
# {numref}`fig-tf-activations` shows three activations. The Transformer of 2017 used the ReLU, $\max(x, 0)$. GPT-2
# uses the GELU {cite}`hendrycks2016`, $x\,\Phi(x)$ with the normal distribution function $\Phi$: an input is let
# through as far as it is unusually large. It is smooth, and its slope is nowhere exactly zero for long. The squared
# ReLU came out of a search for cheaper training {cite}`so2021`, and {ref}`ch-training` measures what it is worth here.

# %% mystnb={"figure": {"name": "fig-tf-activations", "caption": "Three activations of the MLP."}, "image": {"alt": "Three curves from minus 3 to 2. ReLU is zero up to 0 and then rises straight to 2. GELU follows it closely but dips to minus 0.17 near minus 0.75. The squared ReLU is zero up to 0 and then rises as a parabola to 4."}}
x = torch.linspace(-3, 2, 101)
curves = {name: layers.ACTIVATIONS[name](x).numpy() for name in ("relu", "gelu", "relu2")}
plots.lines(x.numpy(), curves, "input", "output")
print(f"GELU is least, {curves['gelu'].min():.2f}, at {x[curves['gelu'].argmin()]:.2f}")

# %% [markdown]
# (sec-tf-block)=
# ## The block, in two orders
#
# There are two places for the norm. The paper of 2017 put it after the addition, *post-norm*; GPT-2 moved it before
# the sublayer, *pre-norm*, and nearly everybody followed:
#
# $$
# \begin{aligned}
# \text{post-norm:}\quad x &\leftarrow \operatorname{Norm}\bigl(x + f(x)\bigr) \\
# \text{pre-norm:}\quad x &\leftarrow x + f\bigl(\operatorname{Norm}(x)\bigr)
# \end{aligned}
# $$ (eq-tf-orders)
#
# ```{figure} ../book/figures/block.svg
# :name: fig-tf-block
# :alt: Two diagrams of a block, drawn upwards. Left, pre-norm: a straight vertical line, the residual stream, from which a branch goes through norm and attention and is added back, then a second branch through norm and MLP. Right, post-norm: the branches go through attention and MLP only, and the norm stands on the line itself, after each addition.
# :width: 560px
#
# The block in the order of GPT-2 (left) and of the first Transformer (right). On the left an uninterrupted line leads
# from the bottom to the top; on the right each sum passes through a norm.
# ```
#
# In `minilm` the difference is one line of `Block.add`, and the field `norm_first` of the `Config` chooses. PyTorch has
# both orders too, as `nn.TransformerEncoderLayer`. With the same weights, the outputs must be the same numbers.

# %%
NAMES = {
    "self_attn.in_proj_": "attention.qkv.",
    "self_attn.out_proj": "attention.out",
    "linear1": "mlp.inner",
    "linear2": "mlp.outer",
}


def renamed(state, names):
    for theirs, ours in names.items():
        state = {key.replace(theirs, ours): tensor for key, tensor in state.items()}
    return state


x = torch.randn(2, 10, 64, dtype=torch.float64)
for norm_first in (True, False):
    peer = nn.TransformerEncoderLayer(
        64, 4, 256, 0.0, batch_first=True, norm_first=norm_first
    ).double()
    ours = Block(replace(config, activation="relu", norm_first=norm_first)).double()
    ours.load_state_dict(renamed(peer.state_dict(), NAMES))
    torch.testing.assert_close(ours(x), peer(x), rtol=0, atol=1e-12)
    print(f"norm_first={norm_first}: Block = nn.TransformerEncoderLayer to 1e-12")

# %% [markdown]
# Everything else in which Transformers of different years differ is a field of `Config` as well
# ({numref}`tab-tf-years`). {ref}`ch-training` measures what some of these changes are worth.
#
# ```{list-table} Three generations as configurations. The last column is the habit of open models such as Llama.
# :name: tab-tf-years
# :header-rows: 1
# :widths: 25 23 26 26
#
# * - Field
#   - 2017 {cite}`vaswani2017`
#   - GPT-2, 2019 {cite}`radford2019`
#   - since 2023 {cite}`touvron2023llama`
# * - `norm_first`
#   - no
#   - yes
#   - yes
# * - `norm`
#   - layer
#   - layer
#   - rms
# * - `activation`
#   - relu
#   - gelu
#   - a gated one {cite}`shazeer2020`
# * - `positions`
#   - sinusoid
#   - learned
#   - rotary {cite}`su2024`
# * - `n_kv_heads`
#   - as many as heads
#   - as many as heads
#   - as many at first, then fewer {cite}`ainslie2023`
# * - `bias`
#   - yes
#   - yes
#   - no
# * - `tied`
#   - yes
#   - yes
#   - in small models
# ```
#
# One part is missing from the table because it is used only while training: {term}`dropout` sets a random share of
# what each sublayer adds to zero {cite}`srivastava2014`, which helps where a model can learn its text by heart
# ({ref}`ch-gpt`).
#
# (sec-tf-depth)=
# ## Gradients through many layers
#
# Now the experiment this chapter is built around: what does each part do to a gradient that has to travel through
# many layers? A `Block` asks one method, `add`, how a sublayer is joined to the stream. So each variant is a subclass
# with one line.


# %%
class Plain(Block):
    """No residual connection, no norm: x = f(x)."""

    def add(self, x, norm, part):
        return part(x)


class Residual(Block):
    """A residual connection and no norm: x = x + f(x)."""

    def add(self, x, norm, part):
        return x + part(x)


VARIANTS = {  # class, and the order of the norm
    "plain": (Plain, True),
    "residual": (Residual, True),
    "post-norm": (Block, False),
    "pre-norm": (Block, True),
}

# %% [markdown]
# All variants start from the same weights, drawn so that a matrix keeps the size of its input on average (Glorot and
# Bengio's rule {cite}`glorot2010`). We send random vectors up, put a norm and a random linear loss on top, and record
# the gradient with respect to the stream after every layer. Double precision, so that what vanishes really vanishes.


# %%
def build(variant, depth, seed=0, width=64):
    torch.manual_seed(seed)
    kind, norm_first = VARIANTS[variant]
    shape = replace(config, d_model=width, activation="relu", norm_first=norm_first)
    blocks = nn.ModuleList(kind(shape) for _ in range(depth)).double()
    for weight in blocks.parameters():
        if weight.dim() == 2:
            nn.init.xavier_normal_(weight)
    return blocks


def journey(blocks):
    """The stream after every layer, each with its gradient."""
    stream = [torch.randn(8, 16, 64, dtype=torch.float64, requires_grad=True)]
    for block in blocks:
        stream.append(block(stream[-1], causal=True))
        stream[-1].retain_grad()
    top = F.layer_norm(stream[-1], (64,))
    (top * torch.randn_like(top)).sum().backward()
    return stream


# %% mystnb={"figure": {"name": "fig-tf-gradients", "caption": "Length of the gradient with respect to the stream, by layer, in stacks of 32 layers at the start of training; the output is at the right. One line a variant."}, "image": {"alt": "Four curves over 32 layers on a logarithmic axis, all near 1 at the right. Going left, plain falls in a straight line to about 1e-13, residual without norm rises in uneven steps to about 4e8, and post-norm and pre-norm stay flat between 0.5 and 5."}}
DEPTH = 32
streams = {name: journey(build(name, DEPTH)) for name in VARIANTS}
slopes = {name: [h.grad.norm().item() for h in stream] for name, stream in streams.items()}
relative = {name: [g / line[-1] for g in line] for name, line in slopes.items()}
plots.lines(range(DEPTH + 1), relative, "layer", "gradient, relative to the output", log="y")
for name, line in relative.items():
    print(f"{name:10} at the input: {line[0]:.0e} of the gradient at the output")

# %% tags=["hide-input"]
glue("tf_pre", relative["pre-norm"][0], display=False)
glue("tf_post", relative["post-norm"][0], display=False)
grown = streams["pre-norm"][-1].norm() / streams["pre-norm"][0].norm()
glue("tf_grown", grown.item(), display=False)

# %% [markdown]
# {numref}`fig-tf-gradients` separates the parts.
#
# - **Plain.** Each layer shrinks the gradient by a constant factor, so it vanishes exponentially: after 32 layers one
#   ten-trillionth is left. This is the failure that {ref}`ch-rnn` saw over time, now over depth.
# - **Residual alone.** The gradient no longer vanishes. It explodes, for the same reason with the opposite sign:
#   every layer multiplies by something larger than one.
# - **With norm**, in either order, the gradient arrives at the bottom with about the size it had at the top.
#
# So document 2 is right that residual connections keep gradients from vanishing, and wrong that they solve the problem:
# alone they exchange it for another. Why is pre-norm so tame? A small calculation predicts it.
#
# ```{prf:theorem} In a pre-norm stack the gradient grows as the stream does
# :label: thm-tf-telescope
# Let sublayer $j$ add an independent random vector of variance $s^2$ per entry, so that the stream has variance
# $\sigma_j^2 = \sigma_{j-1}^2 + s^2$. Suppose the Jacobian of the sublayer, seen from its normed input, multiplies the
# squared length of gradients by $s^2$ on average, and that what it passes down is uncorrelated with what passes by.
# Then $\mathbb E \lVert g_0 \rVert^2 / \mathbb E \lVert g_n \rVert^2 = \sigma_n^2 / \sigma_0^2$.
# ```
#
# ```{prf:proof}
# By {prf:ref}`thm-tf-norm` the norm divides the gradient by $\sigma_{j-1}$. So
#
# $$
# \mathbb E\lVert g_{j-1} \rVert^2 = \mathbb E\lVert g_j \rVert^2 \Bigl(1 + \frac{s^2}{\sigma_{j-1}^2}\Bigr) = \mathbb
# E\lVert g_j \rVert^2 \, \frac{\sigma_j^2}{\sigma_{j-1}^2} .
# $$
#
# Multiply over all $j$: the product telescopes.
# ```
#
# The variance grows by addition, $\sigma_n^2 = \sigma_0^2 + n s^2$, so the gradient grows like $\sqrt n$ and not
# exponentially. As the stream gets louder, each further layer matters less, in both directions. The assumptions are
# crude (attention averages, so it does not pass $s^2$ both ways), and still the prediction is close: in the figure the
# stream grows by a factor of {glue:text}`tf_grown:.1f` and the gradient by {glue:text}`tf_pre:.1f`.
#
# Then what was wrong with post-norm, whose gradient shrank only to {glue:text}`tf_post:.1f`? Look at the gradients of
# the *weights* in the last layer, which decide how large the first steps of plain gradient descent are. Xiong and
# colleagues proved bounds for them. Under post-norm the bound does not depend on the depth, under pre-norm it falls
# like $1/\sqrt L$ {cite}`xiong2020`: the top of a pre-norm stack adds one term to a sum of $2L$.

# %% mystnb={"figure": {"name": "fig-tf-last", "caption": "Length of the gradient with respect to the MLP weights of the last layer, at the start of training, by depth of the stack. Means of three draws of the weights."}, "image": {"alt": "Two curves over 2, 8 and 32 layers. Post-norm is flat near 800. Pre-norm falls, steeply at first, from about 700 to about 200."}}
DEPTHS = (2, 8, 32)


def last_layer(variant, depth, seed):
    blocks = build(variant, depth, seed)
    journey(blocks)
    return sum(p.grad.square().sum() for p in blocks[-1].mlp.parameters()).sqrt().item()


last = {
    name: [sum(last_layer(name, depth, seed) for seed in range(3)) / 3 for depth in DEPTHS]
    for name in ("post-norm", "pre-norm")
}
plots.lines(DEPTHS, last, "layers", "gradient of the last MLP").set_ylim(bottom=0)
for name, line in last.items():
    print(f"{name}: with 32 layers {line[2] / line[0]:.2f} of the gradient with 2")
print(f"1/sqrt(L) predicts {(2 / 32) ** 0.5:.2f}")

# %% [markdown]
# {numref}`fig-tf-last` agrees. In a deep post-norm stack plain gradient descent moves the last layers as far as if they
# were alone, before the layers below have anything to tell them. Xiong and colleagues see in this the reason why the
# first Transformers needed a long warm-up of the learning rate. (They were trained with Adam, for which the argument is
# incomplete: Adam divides by the size of the gradient, {ref}`ch-training`.)
#
# ### Does it train?
#
# A healthy gradient is a means. The end is a lower loss. We train each variant for eighty steps to predict the next
# character of Shakespeare, with two layers and with eight. Learning rate, data and first weights are the same for all,
# and nobody gets a warm-up. The baseline is the {term}`unigram` model, which knows how often each character occurs
# and reads nothing: a network that does not let its input through can learn that much and no more.

# %%
text = data.load("shakespeare").text()[:200_000]
alphabet = sorted(set(text))
ids = torch.tensor([alphabet.index(character) for character in text])
share = ids.bincount() / len(ids)
unigram = -(share * share.log()).sum().item()
print(f"{len(alphabet)} characters; unigram: {unigram:.2f} nats per character")


# %%
def train(variant, depth, seed, steps=80):
    blocks = build(variant, depth, seed, width=32).float()
    model = GPT(Config(len(alphabet), 32, 32, 0, 4, norm_first=VARIANTS[variant][1]))
    model.stack.blocks = blocks
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, fused=True)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(ids) - 33, (8,))
        batch = next_token(ids[starts[:, None] + torch.arange(33)])
        nats = loss(model(*batch.inputs), batch.targets)
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
        losses.append(nats.item())
    return sum(losses[-20:]) / 20


final = {
    (name, depth): [train(name, depth, seed) for seed in range(3)]
    for depth in (2, 8)
    for name in VARIANTS
}

# %% mystnb={"figure": {"name": "fig-tf-trained", "caption": "Training loss after eighty steps, in nats per character (mean of the last twenty steps): mean of three seeds, and the range from the least to the largest. Left of the unigram baseline, something has been learnt from the input."}, "image": {"alt": "A dot chart of four variants at two depths. With two layers, plain stands at the unigram loss, and the three others clearly below it. With eight layers only pre-norm stands clearly below the unigram loss; plain, residual and post-norm stand just above it."}}
rows = [(f"{name}, {depth} layers", values) for (name, depth), values in final.items()]
labels = ["unigram", *(label for label, _ in rows)]
means = [unigram, *(sum(values) / 3 for _, values in rows)]
ranges = [(unigram, unigram), *((min(values), max(values)) for _, values in rows)]
plots.dots(labels, means, "nats per character", ranges)
for label, mean, (low, high) in zip(labels, means, ranges, strict=True):
    print(f"{label:20} {mean:.1f} [{low:.1f}, {high:.1f}]")

# %% [markdown]
# {numref}`fig-tf-trained` is He's finding in miniature: in these eighty steps the *deeper* network has the higher
# *training* loss in every variant that learns anything, the pre-norm stack included. At two layers a residual
# connection is enough for that. At eight, only the pre-norm stack has learnt more than the frequencies of the
# characters. (Patience and a careful learning rate rescue post-norm; that is what the original paper had. The point is
# how much care each design asks for.)
#
# (sec-tf-init)=
# ## The first weights
#
# Weights must start somewhere. GPT-2's recipe has two rules. Every matrix but the table of positions is drawn from a
# normal distribution with standard deviation 0.02, as in the first GPT {cite}`radford2018`, and the matrices that write
# into the stream, the last of each sublayer, are scaled down once more, by $1/\sqrt{2L}$ {cite}`radford2019`. The
# second rule can be derived, and the first can be justified.
#
# **Why scale what is added.** The $2L$ sublayers of {eq}`eq-tf-stream` add nearly independent vectors at the start, and
# variances of independent terms add up. Unscaled, the variance of the stream grows in proportion to the depth; scaled
# by $1/\sqrt{2L}$, each contributes $1/2L$ of a variance, and the total is the same at every depth
# ({numref}`fig-tf-init`).


# %% mystnb={"figure": {"name": "fig-tf-init", "caption": "Variance of the final stream of an untrained GPT, in multiples of the variance of the embeddings, by depth: with and without the scaling of what is added."}, "image": {"alt": "Two curves over 1 to 64 layers on logarithmic axes. Without scaling the variance rises steadily with the depth, to well over a hundred times that of the embeddings. With scaling it stays near a small constant."}}
def growth(depth, scaled):
    torch.manual_seed(0)
    model = GPT(Config(1000, 64, 128, depth, 4))
    if not scaled:
        for name, weight in model.named_parameters():
            if name.endswith(("out.weight", "outer.weight")):
                weight.data *= (2 * depth) ** 0.5
    model.stack.norm = nn.Identity()  # look at the stream before the last norm
    x = model.embed(torch.randint(1000, (8, 64)), torch.arange(64)[None])
    with torch.no_grad():
        return (model.stack(x, causal=True).var() / x.var()).item()


DEPTHS = (1, 4, 16, 64)
variances = {
    "not scaled": [growth(depth, False) for depth in DEPTHS],
    "scaled": [growth(depth, True) for depth in DEPTHS],
}
ax = plots.lines(DEPTHS, variances, "layers", "variance of the stream", log="xy")
plots.plain_ticks(ax, "xy")
for name, line in variances.items():
    print(f"{name:10}", [f"{value:.1f}" for value in line])

# %% [markdown]
# **Why so small.** If an untrained model is to be fair, its {term}`logits` must be nearly equal. After the last norm,
# a state has entries of variance 1, and a logit is its product with a row of $d$ numbers of variance $0.02^2$: so the
# logits have variance $\sigma^2 = 0.0004\, d$. For normal logits, $\mathbb E\, e^z = e^{\sigma^2/2}$, and the
# {term}`cross-entropy` on tokens that know nothing of the model is
#
# $$
# \mathcal L_{\text{start}} \approx \log \sum_{v} e^{z_v} - \mathbb E\, z \approx \log V + \frac{\sigma^2}{2}.
# $$ (eq-tf-start)
#
# The first term is the price of knowing nothing. The second is the price of an opinion without evidence, and a large
# $\sigma$ would pay for it in the first hundred steps. The first check of any training run is that its first loss
# agrees with {eq}`eq-tf-start`.

# %%
torch.manual_seed(0)
model = GPT(Config(vocab_size=2000, context=64, d_model=256, n_layers=4, n_heads=4))
batch = next_token(torch.randint(2000, (64, 65)))
with torch.no_grad():
    start = loss(model(*batch.inputs), batch.targets).item()
predicted = torch.tensor(2000.0).log().item() + 0.0004 * 256 / 2
print(f"predicted {predicted:.2f}, measured {start:.2f}, log V {predicted - 0.0512:.2f}")
assert abs(start - predicted) < 0.02

# %% [markdown]
# (sec-tf-family)=
# ## Encoder, decoder, and both, from one block
#
# Document 3 lists "the Transformer" and "variants of the Transformer" and names no variant ({ref}`err-architectures`).
# Document 4 sorts models into generative and discriminative ones, which says what they are used for and not how they
# are built ({ref}`err-generative`). Architectures differ in *who may see whom*, and three arrangements cover nearly
# everything ({numref}`tab-tf-family`; there is a fourth in the exercises).
#
# ```{list-table} Three arrangements of one block.
# :name: tab-tf-family
# :header-rows: 1
# :widths: 17 24 25 17 17
#
# * - Arrangement
#   - Who sees whom
#   - In `minilm`
#   - Trained to
#   - Models
# * - {term}`encoder`
#   - everyone sees everyone
#   - `stack(x)`
#   - restore hidden tokens ({ref}`ch-bert`)
#   - BERT {cite}`devlin2019`
# * - {term}`decoder`
#   - everyone sees itself and what came before
#   - `stack(x, causal=True)`
#   - predict the next token ({ref}`ch-gpt`)
#   - GPT {cite}`radford2018`
# * - encoder-decoder
#   - the encoder sees all of its text; the decoder what it has written, and all of the encoder's output
#   - `stack(x, memory, causal=True)` with `cross=True`
#   - turn one text into another ({ref}`ch-t5`)
#   - the first Transformer {cite}`vaswani2017`, T5 {cite}`raffel2020`, BART {cite}`lewis2020bart`
# ```
#
# The encoder-decoder needs one more sublayer, *cross-attention*, whose queries come from the decoder and whose keys and
# values come from the encoder's output, the *memory*:
#
# $$
# x \leftarrow x + \operatorname{MultiHead}\bigl(\text{queries from } \operatorname{Norm}(x),
# \ \text{keys and values from } M\bigr).
# $$ (eq-tf-cross)
#
# A reader can claim anything about who sees whom. A derivative can test it: if the gradient of position $t$ of the
# output with respect to position $s$ of the input is not zero, the one depends on the other; if it is exactly zero at
# random weights and inputs, no path leads from $s$ to $t$. {numref}`fig-tf-reach` draws it for the three.


# %%
def reach(function, x):
    """The size of the derivative of each output position with respect to each input position."""
    probe = torch.randn(64, dtype=x.dtype)  # not all ones: the last norm makes every sum zero
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x)[0] @ probe, x)
    return jacobian[:, 0].norm(dim=-1)  # (T, S)


torch.manual_seed(0)
shape = replace(config, n_layers=2)
encoder, decoder, crossed = Stack(shape), Stack(shape), Stack(shape, cross=True)
source, target = torch.randn(1, 6, 64), torch.randn(1, 4, 64)
reaches = {
    "encoder": reach(encoder, source),
    "decoder": reach(lambda x: decoder(x, causal=True), source),
    "decoder to memory": reach(lambda m: crossed(target, memory=m, causal=True), encoder(source)),
}

# %% mystnb={"figure": {"name": "fig-tf-reach", "caption": "Who sees whom: filled where the output at a position (row) depends on the input at a position (column). Encoder, decoder, and a decoder of four positions looking at a memory of six."}, "image": {"alt": "Three grids. Encoder: all 36 cells filled. Decoder: the lower triangle with the diagonal filled, 21 cells. Decoder to memory: all 24 cells filled."}}
for ax, (name, values) in zip(
    plots.panels(3, size=(8.4, 2.8), share_y=False), reaches.items(), strict=True
):
    seen = values > 0
    rows, columns = ([str(i) for i in range(1, n + 1)] for n in seen.shape)
    plots.heatmap(seen.float(), rows, columns, "input", "output", fmt=None, ax=ax)
    ax.images[0].set_clim(0, 1)  # else a grid that is all dark would be drawn white
    ax.set_title(name)
    print(f"{name}: {int(seen.sum())} of {seen.numel()} pairs")

# %% [markdown]
# The decoder block with cross-attention is the `nn.TransformerDecoderLayer` of PyTorch, in both orders, with a mask
# over the padding of a shorter source text.

# %%
x, memory = torch.randn(2, 5, 64).double(), torch.randn(2, 7, 64).double()
real = torch.arange(7) < torch.tensor([[7], [4]])  # the second source text has 4 tokens
cross_names = {"norm2": "norm_cross", "norm3": "norm2", "multihead_attn.in_proj_": "cross.qkv."}
cross_names |= {"multihead_attn.out_proj": "cross.out", **NAMES}
for norm_first in (True, False):
    peer = nn.TransformerDecoderLayer(
        64, 4, 256, 0.0, batch_first=True, norm_first=norm_first
    ).double()
    ours = Block(replace(config, activation="relu", norm_first=norm_first), cross=True).double()
    ours.load_state_dict(renamed(peer.state_dict(), cross_names))
    theirs = peer(x, memory, tgt_mask=~causal_mask(5, 5), memory_key_padding_mask=~real)
    y = ours(x, memory, memory_mask=real[:, None, None], causal=True)
    torch.testing.assert_close(y, theirs, rtol=0, atol=1e-12)
    print(f"norm_first={norm_first}: Block with cross = nn.TransformerDecoderLayer to 1e-12")

# %% [markdown]
# So an encoder-decoder is two stacks and one line, `crossed(target, memory=encoder(source), causal=True)`.
#
# One more property separates the arrangements from one another. An encoder without positions does not know the order
# of its text: exchange two words and their outputs are exchanged, nothing else. Document 2 says that position encodings
# are combined with the *output* of attention. By then the order is already lost ({ref}`err-multihead`); they have to go
# in at the bottom, or into the scores ({ref}`ch-attention`).

# %%
order = torch.randperm(6)
torch.testing.assert_close(
    encoder(source[:, order]), encoder(source)[:, order], rtol=1e-4, atol=1e-5
)
print("shuffled in, shuffled out:", order.tolist())

# %% [markdown]
# (sec-tf-gpt)=
# ## A GPT, and GPT-2
#
# {term}`GPT` is the decoder arrangement with a table of embeddings below and scores for the next token above. With $E
# \in \mathbb R^{V \times d}$ for the token vectors and $P \in \mathbb R^{T \times d}$ for the position vectors ($P_t$
# is a row of this table, $P(\,\cdot \mid \cdot\,)$ a probability as before),
#
# $$
# h^{(0)}_t = E_{w_t} + P_t, \qquad z_t = E \cdot \operatorname{Norm}\bigl(h^{(L)}_t\bigr), \qquad P(\,\cdot \mid w_{\le
# t}) = \operatorname{softmax}(z_t).
# $$ (eq-tf-gpt)
#
# The same table $E$ serves at both ends. Such *tied* embeddings {cite}`presswolf2017` save a large matrix, and they
# make sense: a token that should be predicted in some state should look like that state. By hand:

# %%
torch.manual_seed(0)
model = GPT(Config(vocab_size=50, context=16, d_model=32, n_layers=2, n_heads=4)).double()
text_ids = torch.randint(50, (2, 12))
start = model.embedding.weight[text_ids] + model.position.weight[:12]
logits = model.stack(start, causal=True) @ model.embedding.weight.T
torch.testing.assert_close(logits, model(text_ids))
print("embedding + stack + the same table again = GPT")

# %% [markdown]
# Is this GPT-2? The proof is to take a model of the `transformers` library, random weights and all, put its weights
# into ours, and compare logits. The two differ in the names of the parts, and in that GPT-2's code stores the
# matrices of its blocks transposed. `minilm.gpt2_files` translates; the tolerance is $10^{-9}$ in double precision,
# far below what any mistake in an equation would leave.

# %%
theirs = GPT2LMHeadModel(GPT2Config(**to_gpt2_config(model.config))).double().eval()
for weight in theirs.parameters():
    nn.init.normal_(weight, std=0.3)  # nothing stays 0 or 1, where an exchange would not show
ours = from_gpt2(theirs.state_dict(), model.config).eval()
torch.testing.assert_close(ours(text_ids), theirs(text_ids).logits, rtol=0, atol=1e-9)

theirs.load_state_dict(to_gpt2(model))  # and the way back
torch.testing.assert_close(theirs(text_ids).logits, model.eval()(text_ids), rtol=0, atol=1e-9)
print("logits agree to 1e-9 in both directions")

# %% [markdown]
# Weights in memory are one thing, a folder that others can open is another. `save_gpt2` writes one (safetensors and
# JSON, no pickles), and the generation sample of document 0 runs on it. Our model is untrained, so its text is noise;
# {ref}`ch-gpt` trains one.

# %% tags=["nbval-ignore-output"]
words = BPE.train(text[:20_000], 400)
folder = tempfile.mkdtemp()
save_gpt2(GPT(Config(400, 64, 32, 2, 4)), words, folder)

tokenizer = GPT2Tokenizer.from_pretrained(folder)  # with a network: "gpt2", the real one
peer = GPT2LMHeadModel.from_pretrained(folder)
input_ids = tokenizer.encode("Once upon a time", return_tensors="pt")
output = peer.generate(input_ids, max_length=30, num_return_sequences=1)
print(repr(tokenizer.decode(output[0], skip_special_tokens=True)))

# %% [markdown]
# And the way back, with {term}`padding` on the right, which must not change what stands before it, since nobody looks
# to the right:

# %%
ours, words = load_gpt2(folder)
ids_of = [words.encode(line) for line in ("Once upon a time", "To be")]
padded = torch.tensor([row + [0] * (len(ids_of[0]) - len(row)) for row in ids_of])
alone = ours(torch.tensor([ids_of[1]]))[0]
torch.testing.assert_close(ours(padded)[1, : len(ids_of[1])], alone)
torch.testing.assert_close(ours(padded), peer(padded).logits, rtol=0, atol=1e-5)
print("padding on the right changes nothing")

# %% [markdown]
# (sec-tf-parameters)=
# ## Counting parameters
#
# The size of a Transformer follows from its `Config` by multiplication. A matrix from $a$ to $b$ numbers has $ab$
# parameters and $b$ biases. Per block, with $F = 4d$ and as many key-value heads as heads:
#
# $$
# \underbrace{3d^2 + 3d}_{\text{queries, keys, values}} + \underbrace{d^2 + d}_{W^O} + \underbrace{4d^2 + 4d + 4d^2 +
# d}_{\text{MLP}} + \underbrace{4d}_{\text{two norms}} = 12 d^2 + 13 d .
# $$ (eq-tf-block-size)
#
# Of the $12d^2$, attention has 4 and the MLP 8: *two thirds of a block are MLP*. Who calls the Transformer "a
# self-attention mechanism", as document 1 does, names the smaller part ({ref}`err-transformer-mechanism`). To the $L$
# blocks come the two tables and the last norm:
#
# $$
# N = \underbrace{V d}_{\text{tokens}} + \underbrace{T d}_{\text{positions}} + L\,(12 d^2 + 13 d) + 2d .
# $$ (eq-tf-size)
#
# By hand for GPT-2 small, $d = 768$, $L = 12$, $V = 50257$, $T = 1024$:

# %%
d = 768
by_hand = 50257 * d + 1024 * d + 12 * (12 * d**2 + 13 * d) + 2 * d
gpt2 = Config(vocab_size=50257, context=1024, d_model=768, n_layers=12, n_heads=12)
assert by_hand == sum(parameters(gpt2).values())
print(f"{by_hand:,}")

# %% [markdown]
# `parameters(config)` is {eq}`eq-tf-size` by part, for every `Config`. To compare with what is really there we count
# tensors, in our model and in that of `transformers`. Both are built on PyTorch's *meta* device, where tensors have
# shapes and no contents, so the largest GPT-2 takes no memory. {numref}`tab-tf-gpt2` does it for all four sizes.

# %%
SIZES = {
    "small": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "XL": (48, 25, 1600),
}
family = {
    name: replace(gpt2, n_layers=depth, n_heads=heads, d_model=width)
    for name, (depth, heads, width) in SIZES.items()
}


def counted(model):
    return sum(weight.numel() for weight in model.parameters())


# %% mystnb={"figure": {"name": "tab-tf-gpt2", "caption": "The four GPT-2 models: parameters predicted from the configuration, by part, in millions, and in all. The prediction equals the count of the tensors, in minilm and in transformers."}}
rows = []
for name, shape in family.items():
    with torch.device("meta"):
        ours, theirs = GPT(shape), GPT2LMHeadModel(GPT2Config(**to_gpt2_config(shape)))
    parts = parameters(shape)
    assert sum(parts.values()) == counted(ours) == counted(theirs)
    tables = parts["embedding"] + parts["positions"]
    shares = [f"{n / 1e6:.1f}" for n in (tables, parts["attention"], parts["mlp"], parts["norms"])]
    rows.append((name, shape.n_layers, shape.d_model, *shares, f"{sum(parts.values()):,}"))
heads = ["GPT-2", "layers", "width", "tables", "attention", "MLP", "norms", "parameters"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# The paper gives other numbers, 117, 345, 762 and 1542 million {cite}`radford2019`. Its authors corrected them later,
# in the repository of the code: the model first released as "117M" has 124 million parameters. A formula that is
# checked against the tensors is worth the trouble.
#
# Small models look different from large ones. In GPT-2 small nearly a third of the parameters are tables; in XL it is
# five in a hundred. Comparisons by "number of parameters" between models with different vocabularies should say
# whether tables are counted.
#
# (sec-tf-flops)=
# ## Counting operations
#
# Time is spent in matrix products. Multiplying a vector by an $a \times b$ matrix takes $ab$ multiplications and as
# many additions: $2ab$ *floating-point operations*, {term}`FLOPs <FLOP>`. So each weight of a matrix costs 2 FLOPs
# for each token that passes. Attention adds two products without weights, scores and averages: $2d$ FLOPs each per
# token *and key*. For a forward pass over $T$ tokens,
#
# $$
# C_{\text{forward}} = T \Bigl( L \bigl( \underbrace{8 d^2}_{\text{projections}} + \underbrace{16 d^2}_{\text{MLP}} +
# \underbrace{4 T d}_{\text{scores}} \bigr) + \underbrace{2 d V}_{\text{head}} \Bigr).
# $$ (eq-tf-flops)
#
# The backward pass needs two products for each one: the gradient with respect to the weights and the one with respect
# to the input. So a training step costs $3 C_{\text{forward}}$. Norms, activations and additions are of order $d$ per
# token and are left out. PyTorch can count as it runs, which gives a reference.


# %%
def measured(run):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


shapes = {
    "GPT-2's design": Config(97, 32, 48, 3, 4),
    "narrow MLP": Config(97, 32, 48, 3, 4, d_ff=100),
    "grouped keys": Config(97, 32, 48, 3, 4, n_kv_heads=2, positions="rotary"),
}
for name, shape in shapes.items():
    run = partial(GPT(shape), torch.zeros(5, 32, dtype=torch.long))
    forward = 5 * sum(flops(shape, tokens=32).values())
    assert measured(run) == forward
    assert measured(lambda run=run: run().sum().backward()) == 3 * forward
    print(f"{name}: {forward:,} forward, three times that with backward, as counted")

# %% [markdown]
# One line in `measured` is a warning about references. Without `SDPBackend.MATH`, PyTorch runs attention in one fused
# kernel on the processor, and its counter does not know that kernel: it silently counts zero for the scores. A counter
# that disagrees with a derivation is not always right.

# %%
shape = shapes["GPT-2's design"]
with FlopCounterMode(display=False) as counter:
    GPT(shape)(torch.zeros(5, 32, dtype=torch.long))
missing = 5 * sum(flops(shape, tokens=32).values()) - counter.get_total_flops()
assert missing == 5 * flops(shape, tokens=32)["scores"]
print(f"not counted in the fused kernel: {missing:,} FLOPs, exactly the scores")

# %% [markdown]
# From {eq}`eq-tf-flops` comes a rule that everybody in the field knows by heart. If the scores are small and the tables
# do not matter, each parameter costs 2 FLOPs forward and 4 backward, so that training on $n$ tokens costs
#
# $$
# C \approx 6 N n
# $$ (eq-tf-six)
#
# {cite}`kaplan2020`. How good is it? The ratio of the scores to the rest of a block is $4Td / 24d^2 = T / 6d$: at a
# context of six times the width, attention over the text costs as much as all matrices of the block.
# {numref}`fig-tf-context` shows where the FLOPs of GPT-2 small go as the context grows.

# %% mystnb={"figure": {"name": "fig-tf-context", "caption": "Forward FLOPs per token of GPT-2 small by part, against the number of tokens read at once."}, "image": {"alt": "Four curves over 128 to 32,768 tokens, in millions of FLOPs per token, both axes logarithmic. Projections at 57, head at 77 and MLP at 113 are flat. Scores rise in proportion to the context, from 5 to 1208, and cross the MLP near 3,072 tokens."}}
CONTEXTS = [128 * 2**k for k in range(9)]
costs = [flops(gpt2, tokens) for tokens in CONTEXTS]
per_token = {
    part: [cost[part] / tokens / 1e6 for cost, tokens in zip(costs, CONTEXTS, strict=True)]
    for part in costs[0]
}
ax = plots.lines(CONTEXTS, per_token, "tokens read at once", "million FLOPs per token", log="xy")
plots.plain_ticks(ax, "xy")
N = sum(parameters(gpt2).values())
for tokens in (128, 1024, 32768):
    exact = 3 * sum(flops(gpt2, tokens).values()) / tokens
    print(f"{tokens:6} tokens: 6N is {6 * N / exact:.2f} of the exact count")

# %% [markdown]
# At 128 tokens the rule of six is right to one per cent, partly by luck: it counts the table of positions, which costs
# nothing, and forgets the scores. At the context GPT-2 was trained with, 1,024, it is short by an eighth, and at 32,768
# it misses five sixths of the bill ({numref}`fig-tf-context`).
#
# Does the count predict *time*? We time forward passes of models that differ in width, depth, context and batch, and
# divide. If counting FLOPs were the whole truth, the last column would be constant.

# %% tags=["nbval-ignore-output"]
trials = {
    "narrow": (Config(1000, 256, 64, 4, 4), 8, 64),
    "wide": (Config(1000, 256, 512, 4, 8), 8, 64),
    "deep": (Config(1000, 256, 128, 16, 4), 8, 64),
    "long": (Config(1000, 1024, 128, 4, 4), 2, 1024),
    "one token at a time": (Config(1000, 256, 512, 4, 8), 1, 1),
}
rows = []
for name, (shape, batch, length) in trials.items():
    model, ids_in = GPT(shape).eval(), torch.zeros(batch, length, dtype=torch.long)
    seconds = []
    with torch.no_grad():
        for _ in range(7):
            begin = time.perf_counter()
            model(ids_in)
            seconds.append(time.perf_counter() - begin)
    cost, best = batch * sum(flops(shape, length).values()), min(seconds)
    rows.append((name, f"{cost / 1e9:.2f}", f"{1000 * best:.1f}", f"{cost / best / 1e9:.0f}"))
print(tabulate(rows, ["model", "GFLOPs", "milliseconds", "GFLOPs per second"]))

# %% [markdown]
# (The numbers above are from the machine that made this page.) The wide model gets the most operations a second out
# of the processor. Narrow and deep ones spend their time between the products: starting operations, norms,
# activations, moving memory. One token at a time is the worst case, since every weight is fetched from memory to be
# used twice. So FLOPs give a lower bound of the time, which is closest for wide models and large batches;
# {ref}`ch-training` measures how the gap closes.
#
# (sec-tf-memory)=
# ## Counting bytes
#
# Memory is the other bill. In training, each parameter is stored with its gradient and the two averages that the
# optimizer Adam keeps ({ref}`ch-training`): 16 bytes in single precision, before a single activation. In generation,
# the {term}`KV cache` holds a key and a value per layer, key-value head and token.

# %%
shape = Config(1000, 128, 64, 3, 4, n_kv_heads=2)
model = GPT(shape)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
optimizer.step()
tensors = [*model.parameters(), *(weight.grad for weight in model.parameters())]
tensors += [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
assert sum(tensor.nbytes for tensor in tensors) == 16 * sum(parameters(shape).values())

cache = model.new_cache(batch=1)
predicted = 4 * 2 * shape.n_layers * shape.kv_heads * shape.d_head * shape.context
assert cache.k.nbytes + cache.v.nbytes == predicted
print(f"cache: {predicted:,} bytes for {shape.context} tokens, as predicted")

# %% [markdown]
# {numref}`tab-tf-cost` puts the bills together for the GPT-2 family. The model with 12 times the parameters costs 12
# times as much a token: size is the price, whatever the architecture does with it.


# %% mystnb={"figure": {"name": "tab-tf-cost", "caption": "What a GPT-2 costs, from its configuration alone: training FLOPs per token at a context of 1,024, the share of them spent on scores, memory for training without activations, and for generating with a full cache, both in single precision."}}
def bill(shape):
    N, C = sum(parameters(shape).values()), flops(shape, shape.context)
    cache = 4 * 2 * shape.n_layers * shape.kv_heads * shape.d_head * shape.context
    return (
        f"{N / 1e6:.0f} million",
        f"{3 * sum(C.values()) / shape.context / 1e9:.2f} billion",
        f"{100 * C['scores'] / sum(C.values()):.0f} %",
        f"{16 * N / 1e9:.1f} GB",
        f"{(4 * N + cache) / 1e9:.1f} GB",
    )


heads = ["GPT-2", "parameters", "FLOPs a token", "of them scores", "training", "generating"]
rows = [(name, *bill(shape)) for name, shape in family.items()]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# ## The answer
#
# *What has to stand around attention before it can be stacked?* A residual connection, or the gradient of a 32-layer
# stack shrinks to about $10^{-13}$ of itself; a norm, or it grows by a factor of about $4 \cdot 10^8$; the norm before
# the sublayer, if the stack is to train without special care; an MLP, because attention alone cannot even multiply two
# signs; and first weights small enough to have no opinion. *What does it cost?* $12d^2 + 13d$ parameters a block
# and 2 FLOPs per weight and token, three times that in training, plus $4Td$ per token and layer for looking around:
# counts that agree with the tensors and the counter to the last digit.
#
# ## What we learnt
#
# - The printed layer equation, run as it stands, either doubles its input or averages everything away. A layer index
#   and a position index are two things.
# - The residual stream is a sum: the output is the embedding plus what every sublayer added.
# - A norm keeps direction and discards length. Backward, it divides the gradient by the length of the stream.
# - Attention decides where to look and then acts linearly; the MLP decides what to make of it, and holds two thirds of
#   a block.
# - Without residuals and norms the gradient vanishes, with residuals alone it explodes, with both it keeps about its
#   size; under pre-norm it grows like the square root of the depth.
# - $1/\sqrt{2L}$ keeps the stream's variance independent of the depth; 0.02 keeps the first loss near $\log V$.
# - Encoder, decoder and encoder-decoder are one block with three answers to the question who may see whom.
# - Parameters, FLOPs and bytes follow from the configuration exactly. $6Nn$ is a good rule at short context.
# - A PyTorch layer, GPT-2 and our block compute the same numbers.
#
# ## Exercises
#
# ```{exercise} The size of a GPT
# :label: ex-tf-size
#
# Write `size(V, T, d, L)`: the number of parameters of a GPT in GPT-2's design {eq}`eq-tf-size`, and `depth_for(N, V,
# T, d)`: the greatest depth whose model has at most $N$ parameters.
# ```


# %% tags=["exercise"]
def size(V, T, d, L):
    """Parameters of a GPT with tied embeddings, learned positions, biases and an MLP of width 4d."""
    raise NotImplementedError("your turn")


def depth_for(N, V, T, d):
    """The greatest number of layers with at most N parameters."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def size(V, T, d, L):
    """Parameters of a GPT with tied embeddings, learned positions, biases and an MLP of width 4d."""
    return V * d + T * d + L * (12 * d**2 + 13 * d) + 2 * d


def depth_for(N, V, T, d):
    """The greatest number of layers with at most N parameters."""
    return (N - size(V, T, d, 0)) // (12 * d**2 + 13 * d)


# %% tags=["check"]
for shape in (*family.values(), Config(11, 7, 12, 5, 2)):
    V, T, d, L = shape.vocab_size, shape.context, shape.d_model, shape.n_layers
    exact = counted(GPT(shape)) if L == 5 else sum(parameters(shape).values())
    assert size(V, T, d, L) == exact
    assert depth_for(exact, V, T, d) == L and depth_for(exact - 1, V, T, d) == L - 1
print("GPT-2 small:", size(50257, 1024, 768, 12))

# %% [markdown]
# ```{exercise} The gradient through RMSNorm
# :label: ex-tf-rms
#
# Derive the counterpart of {prf:ref}`thm-tf-norm` for RMSNorm without $\varepsilon$ and with weight $g$, and write it
# as `rms_backward(x, weight, grad)`: the gradients with respect to `x` and to `weight`, given the gradient with respect
# to the output.
# ```


# %% tags=["exercise"]
def rms_backward(x, weight, grad):
    """Gradients of sum(grad * rms_norm(x, weight)) with respect to x (B, D) and weight (D,)."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def rms_backward(x, weight, grad):
    """Gradients of sum(grad * rms_norm(x, weight)) with respect to x (B, D) and weight (D,)."""
    rms = x.square().mean(-1, keepdim=True).sqrt()
    unit, inner = x / rms, grad * weight
    return (inner - unit * (unit * inner).mean(-1, keepdim=True)) / rms, (grad * unit).sum(0)


# %% tags=["check"]
torch.manual_seed(1)
x = (2 * torch.randn(3, 6, dtype=torch.float64)).requires_grad_()
weight = torch.rand(6, dtype=torch.float64).requires_grad_()
grad = torch.randn(3, 6, dtype=torch.float64)
expected = torch.autograd.grad(layers.rms_norm(x, weight, eps=0.0), (x, weight), grad)
answer = rms_backward(x.detach(), weight.detach(), grad)
torch.testing.assert_close(answer, expected)
assert (answer[0] * x).sum(-1).abs().max() < 1e-12, "no gradient along x"

# %% [markdown]
# ```{exercise} The prefix language model
# :label: ex-tf-prefix
#
# The fourth arrangement {cite}`raffel2020`: one stack reads a question and writes an answer. The first `prefix` tokens
# are seen by everyone; the rest is causal. Write the mask.
# ```


# %% tags=["exercise"]
def prefix_mask(T, prefix):
    """A (T, T) mask, True where row t may look at column s."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def prefix_mask(T, prefix):
    """A (T, T) mask, True where row t may look at column s."""
    return causal_mask(T, T) | (torch.arange(T) < prefix)


# %% tags=["check"]
mask = prefix_mask(6, 3)
assert mask.dtype == torch.bool and mask.shape == (6, 6)
assert torch.equal(prefix_mask(6, 0), causal_mask(6, 6)), "no prefix: a decoder"
assert prefix_mask(6, 6).all(), "nothing but prefix: an encoder"
assert mask.sum(1).tolist() == [3, 3, 3, 4, 5, 6] and mask[0, 2] and not mask[0, 3]
assert torch.equal(reach(lambda x: encoder(x, mask=mask), source) > 0, mask), "measured"

# %% [markdown]
# ```{exercise} A parallel block
# :label: ex-tf-parallel
#
# GPT-J computes both sublayers from the same input {cite}`wang2021gptj`:
#
# $$
# x \leftarrow x + \operatorname{MultiHead}(\operatorname{Norm}(x)) + \operatorname{MLP}(\operatorname{Norm}(x)),
# $$
#
# with one norm for both, so that the two can run at the same time. Write it as a subclass of `Block` that uses `norm1`
# only. (The masks that `forward` is given go to the attention.)
# ```


# %% tags=["exercise"]
class Parallel(Block):
    """x + attention(norm1(x)) + mlp(norm1(x))."""

    def forward(self, x, **how):
        raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
class Parallel(Block):
    """x + attention(norm1(x)) + mlp(norm1(x))."""

    def forward(self, x, **how):
        y = self.norm1(x)
        return x + self.attention(y, **how) + self.mlp(y)


# %% tags=["check"]
torch.manual_seed(0)
parallel, x = Parallel(config).double(), torch.randn(2, 6, 64, dtype=torch.float64)
for weight in parallel.parameters():
    nn.init.normal_(weight, std=0.2)
y = parallel.norm1(x)
expected = x + parallel.attention(y, causal=True) + parallel.mlp(y)
torch.testing.assert_close(parallel(x, causal=True), expected)
assert not torch.allclose(parallel(x), expected), "the mask must reach the attention"
nn.init.zeros_(parallel.norm2.weight)
torch.testing.assert_close(parallel(x, causal=True), expected)
mask = (torch.arange(6) < 4).expand(6, 6)  # a mask of its own, not the causal one
expected = x + parallel.attention(y, mask=mask) + parallel.mlp(y)
torch.testing.assert_close(parallel(x, mask=mask), expected)

# %% [markdown]
# ```{exercise} Where attention overtakes the rest
# :label: ex-tf-crossover
#
# Write `crossover(config)`: the least number of tokens, read at once, at which the scores cost at least as many FLOPs
# as all the rest of the forward pass together, head included. For which GPT-2 does it come first, and why?
# ```


# %% tags=["exercise"]
def crossover(config):
    """The least T at which flops(config, T)["scores"] is at least half of the total."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def crossover(config):
    """The least T at which flops(config, T)["scores"] is at least half of the total."""
    one = flops(config, 1)
    return -(-(sum(one.values()) - one["scores"]) // one["scores"])  # rounded up


# %% tags=["check"]
for shape in (*family.values(), *shapes.values(), Config(96, 32, 48, 3, 4)):
    T = crossover(shape)
    for tokens, at_least in ((T, True), (T - 1, False)):
        cost = flops(shape, tokens)
        assert (2 * cost["scores"] >= sum(cost.values())) == at_least
print({name: crossover(shape) for name, shape in family.items()})

# %% [markdown]
# ## Further reading
#
# - Vaswani and colleagues {cite}`vaswani2017`: the paper. Read section 3 with {numref}`fig-tf-block` beside it.
# - He and colleagues {cite}`he2016` on residual networks; the introduction is the argument about degradation.
# - Xiong and colleagues {cite}`xiong2020` prove bounds for what {numref}`fig-tf-last` measures.
# - Elhage and colleagues {cite}`elhage2021` read the residual stream as a channel that layers write to and read from;
#   Geva and colleagues {cite}`geva2021` read the MLP as a memory.
# - Kaplan and colleagues {cite}`kaplan2020` count parameters and FLOPs in their table 1, and draw conclusions from
#   them; Hoffmann and colleagues {cite}`hoffmann2022` draw others, from a count that includes everything.
# - Radford and colleagues {cite}`radford2019` is GPT-2; Karpathy's nanoGPT {cite}`karpathy2022nanogpt` is the shortest
#   faithful code for it.
