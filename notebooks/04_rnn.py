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
# (ch-rnn)=
# # Neurons with a memory: recurrent networks
#
# **What can a network learn from a text that a table of counts cannot hold, and how far back does it remember?**
#
# *About four minutes on two cores. You need {ref}`ch-concepts` for cross-entropy and bits per byte, and
# {ref}`ch-ngram` for the models that this chapter has to beat.*
#
# {ref}`The last chapter <sec-ng-failure>` ended with a table that fails in three ways. It cannot look past its window.
# It cannot use what it knows about one word for a similar word. And the number of its cells grows as $V^n$. This
# chapter replaces the table by a function with shared {term}`parameters <parameter>`, and finds the parameters by
# {term}`gradient descent`. We go one small step at a time, and at each step we ask what it bought.
#
# The plan:
#
# 1. rewrite the bigram table as a network with one layer, and get the counts back by gradient descent;
# 2. give words vectors, so that what is learnt about one word serves its neighbours;
# 3. drop the window: a state that is carried along the text, the {term}`recurrent neural network`;
# 4. derive its gradient by hand, and see why it vanishes or explodes;
# 5. add gates, which gives the {term}`GRU` and the {term}`LSTM`, and look at what the gates of a trained one do;
# 6. measure all of it beside Kneser–Ney, on the same plays, in bits per byte.
#
# The five essays name these networks three times. One calls them recursive, which is another family
# ({ref}`err-recursive`). One lists "variants" and names none ({ref}`err-architectures`). Two call them algorithms
# ({ref}`err-algorithms`). None says what they compute, so we begin there. One more sentence needs a remark before the
# word "neuron" does any harm: a {term}`neural network` does not simulate the brain ({ref}`err-brain`). It is a chain
# of matrix products with a bend after each, and the bends are what lets it be more than one matrix product.

# %%
import copy
import math
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from IPython.display import Markdown
from myst_nb import glue
from tabulate import tabulate
from torch import nn

from minilm import data, evaluate, ngram, plots
from minilm.batching import sample
from minilm.contract import LanguageModel, loss, next_token
from minilm.counts import count
from minilm.generate import generate
from minilm.machine import threads
from minilm.presets import trained
from minilm.rnn import CELLS, KERNELS, RNNLM, RNNConfig, gru_cell, lstm_cell, rnn_cell, unroll
from minilm.tokenizer import BPE

plots.use_style()

# %% [markdown]
# The corpus, the split and the tokens are those of {ref}`ch-ngram`: Shakespeare by play, {term}`byte-level BPE` with
# 1,024 tokens. Its best model on these tokens was modified {term}`Kneser-Ney smoothing` of order 6. Order 5 is as good
# to three decimals, and stands beside everything in this chapter.

# %%
V = 1024
shakespeare = data.load("shakespeare")
tokenizer = BPE.train(shakespeare.text(), V)
text = {split: shakespeare.text(split) for split in ("train", "validation", "test")}
ids = {split: torch.tensor(tokenizer.encode(part)) for split, part in text.items()}
counts = count(ids["train"], 5, V)
kneser_ney = ngram.ModifiedKneserNey(counts)
bar = evaluate.score(kneser_ney, tokenizer, text["validation"])
NEWLINE = tokenizer.encode("\n")[0]
print({split: f"{len(part):,} tokens" for split, part in ids.items()})
print(f"Kneser-Ney, order 5, validation: {bar.bits_per_byte:.3f} bits per byte")

# %% [markdown]
# (sec-rnn-softmax)=
# ## A table is a network
#
# A {term}`bigram` model needs one row of $V$ probabilities for each token. Let us not store probabilities but any real
# numbers, {term}`logits`, in a matrix $W$ of size $V \times V$, and turn a row into probabilities with the
# {term}`softmax`:
#
# $$
# P_W(w \mid h) = \operatorname{softmax}(W_h)_w = \frac{e^{W_{hw}}}{\sum_v e^{W_{hv}}}.
# $$ (eq-rnn-bigram)
#
# This is the smallest {term}`neural language model`. The token $h$ selects a row, as if a vector with a single 1 were
# multiplied by $W$, and the row is scored. The parameters are not counted now but *fitted*: we want the $W$ with the
# least {term}`cross-entropy` on the training text. Written with the counts $c(h,w)$ of its $N$ pairs, that is
#
# $$
# H(W) = -\frac1N \sum_{h,w} c(h,w) \log P_W(w \mid h).
# $$ (eq-rnn-loss)
#
# To walk downhill we need the slope. The derivative of $\log \operatorname{softmax}(z)_w$ by $z_v$ is $[v = w] -
# \operatorname{softmax}(z)_v$, where the bracket is 1 if the statement in it holds and else 0. Summing over all pairs
# leaves a formula that the rest of this book meets again and again:
#
# $$
# \frac{\partial H}{\partial W_{hw}} = \frac{c(h\,\bullet)}{N} \bigl( P_W(w \mid h) - P_{\mathrm{ML}}(w \mid h) \bigr).
# $$ (eq-rnn-softmax-gradient)
#
# *What the model says, minus what the text says*, weighted by how often the context occurs. The gradient is zero
# exactly where the network agrees with the {term}`relative frequencies <maximum likelihood>`.
#
# ```{prf:theorem} The softmax bigram network learns to count
# :label: thm-rnn-count
# $H(W)$ is convex, and its infimum is the cross-entropy of the count table {eq}`eq-ng-mle`. A $W$ that reaches it gives
# $P_W = P_{\mathrm{ML}}$ in each row that occurs. Where some pair of a row was never seen, no finite $W$ reaches it.
# ```
#
# ```{prf:proof}
# Each term $-\log P_W(w \mid h) = \log \sum_v e^{W_{hv}} - W_{hw}$ is a log-sum-exp minus a linear function, hence
# convex, and sums of convex functions with weights $c \ge 0$ are convex. So a point of zero gradient is a minimum, and
# by {eq}`eq-rnn-softmax-gradient` zero gradient means equality with the counts. A softmax is never exactly zero, so
# where $c(h,w) = 0$ equality is out of reach. But $W_{hw} \to -\infty$ comes as close as one likes.
# ```
#
# First by hand, on one word. We count the letter pairs of "abracadabra", compute {eq}`eq-rnn-softmax-gradient`, and let
# PyTorch differentiate {eq}`eq-rnn-loss` by itself.

# %%
word = "abracadabra"
letters = sorted(set(word))
C = torch.zeros(5, 5, dtype=torch.float64)
for a, b in pairwise(word):
    C[letters.index(a), letters.index(b)] += 1
table = C / C.sum(1, keepdim=True)

W = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W.requires_grad_()
H = -(C * W.log_softmax(1)).sum() / C.sum()
by_hand = C.sum(1, keepdim=True) / C.sum() * (W.softmax(1) - table)
torch.testing.assert_close(torch.autograd.grad(H, W)[0], by_hand)
print("counts after a:", dict(zip(letters, C[0].int().tolist(), strict=True)))

# %% [markdown]
# Then we walk: subtract a multiple of the gradient, again and again.

# %%
with torch.no_grad():
    for _ in range(3000):
        W -= 5 * C.sum(1, keepdim=True) / C.sum() * (W.softmax(1) - table)
for name, row in (("network", W[0].softmax(0)), ("counting", table[0])):
    print(f"{name:8}", dict(zip(letters, row.double().round(decimals=2).tolist(), strict=True)))

# %% [markdown]
# Starting from random numbers, gradient descent arrived at 0, 2/4, 1/4, 1/4, 0. No one counted.
#
# The same on four megabytes. The matrix now has a million entries, and since {eq}`eq-rnn-loss` needs the text only
# through its pair counts, a step over the *whole* text is one softmax over the matrix. Rare rows have tiny gradients,
# so we use Adam, which rescales each entry's step by the size of its recent gradients {cite}`kingma2015`;
# {ref}`ch-training` writes it out. While it runs we watch the held-out plays too.


# %%
def pair_matrix(stream):
    return torch.bincount(stream[:-1] * V + stream[1:], minlength=V * V).view(V, V).float()


pair_counts = {split: pair_matrix(stream) for split, stream in ids.items()}
n_bytes = {split: len(text[split].encode()) for split in text}
some = list(pairwise(ids["train"][:999].tolist()))
assert all(pair_counts["train"][h, w] == counts[h, w] for h, w in some)


def pair_bits(log_probs, split):
    return evaluate.bits_per_byte(-(pair_counts[split] * log_probs), n_bytes[split])


# %%
C = pair_counts["train"]
W = torch.zeros(V, V, requires_grad=True)
optimizer = torch.optim.Adam([W], lr=0.3)
steps, curve = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362], []
for step in range(1, 1 + steps[-1]):
    H = -(C * W.log_softmax(1)).sum() / C.sum()
    optimizer.zero_grad()
    H.backward()
    optimizer.step()
    if step in steps:
        log_probs = W.detach().log_softmax(1)
        curve.append([pair_bits(log_probs, split) for split in ("train", "validation")])

counted = C / C.sum(1, keepdim=True).clamp(min=1)
H_counted = -(C * counted.clamp(min=1e-30).log()).sum() / C.sum()
frequent = C.sum(1) >= 1000
gap = (W.softmax(1) - counted)[frequent].abs().max()
assert abs(H - H_counted) < 1e-3 and gap < 1e-3
print(f"nats per token: network {H:.3f}, counting {H_counted:.3f}")
print("after contexts seen 1,000 times no probability differs by 0.001:", bool(gap < 1e-3))

# %% mystnb={"figure": {"name": "fig-rnn-bigram", "caption": "A softmax bigram network in training: bits per byte on the training plays, where it falls to the count table's value, and on the validation plays, where it passes a minimum. Flat lines: counting, and the Kneser-Ney bigram on the validation plays."}, "image": {"alt": "Line chart over steps, logarithmic. The training curve falls from about 4 bits to a flat line. The validation curve falls with it at first, reaches a minimum after a few dozen steps just above the flat line of the Kneser-Ney bigram, and then rises."}}
two = ngram.ModifiedKneserNey(count(ids["train"], 2, V))
kn2 = evaluate.score(two, tokenizer, text["validation"]).bits_per_byte
train_curve, validation_curve = zip(*curve, strict=True)
flat = pair_bits(counted.clamp(min=1e-30).log(), "train")
series = {"network, training": train_curve, "network, validation": validation_curve}
series |= {"counting, training": [flat] * len(steps), "Kneser-Ney, validation": [kn2] * len(steps)}
plots.plain_ticks(plots.lines(steps, series, "steps", "bits per byte", log="x"), "x")
print(f"training: {train_curve[-1]:.3f}, counting {flat:.3f}")
print(f"validation: best {min(validation_curve):.2f}, at the end {validation_curve[-1]:.2f}")
print(f"Kneser-Ney bigram, validation: {kn2:.3f}")

# %% tags=["hide-input", "nbval-ignore-output"]
glue("rnn_kn2", kn2, display=False)
glue("rnn_stop", min(validation_curve), display=False)
glue("rnn_over", validation_curve[-1], display=False)

# %% [markdown]
# {numref}`fig-rnn-bigram` says three things.
#
# *Training finds the counts.* The network's cross-entropy on the training plays meets the table's to a thousandth,
# as {prf:ref}`thm-rnn-count` promises.
#
# *Stopping early is a kind of smoothing.* On the way down the network has not yet pushed the unseen pairs to
# probability zero. At its best moment it pays {glue:text}`rnn_stop:.2f` bits per byte on new text; then it goes on to
# believe the training text too literally, and the curve turns up. The unsmoothed table, its limit, would pay an
# infinite amount. This is {term}`overfitting`, in its purest form.
#
# *It has bought nothing yet.* A Kneser–Ney bigram pays {glue:text}`rnn_kn2:.3f`, needs no training, and knows nothing
# of step sizes. A network with one free number per cell of the table *is* the table. The gain must come from having
# **fewer** parameters than cells, shared among contexts.
#
# (sec-rnn-mlp)=
# ## Words as vectors
#
# In 2003 Bengio and colleagues took the step {cite}`bengio2003`. Give each token $w$ a vector $E_w$ of $d$ numbers, its
# {term}`embedding`, with $d$ far below $V$. Write the vectors of the last $n - 1$ tokens side by side, multiply by a
# matrix, bend, multiply again, and score all tokens:
#
# $$
# x = [E_{w_{t-n+2}}; \dots; E_{w_t}], \qquad
# a = \tanh(W x + b), \qquad
# P(\cdot \mid h) = \operatorname{softmax}(O a + o).
# $$ (eq-rnn-mlp)
#
# Every parameter of {eq}`eq-rnn-mlp` takes part in many contexts. Lengthening the context by one token adds a slice to
# $W$, where the table multiplies by $V$. And if two words have similar vectors, they have similar effects, for all
# contexts at once. Such a network is called a multi-layer perceptron, {term}`MLP` for short. It obeys the
# {ref}`contract <page-notation>` of all language models, ids in, logits out:


# %%
class MLP(nn.Module):
    def __init__(self, vocab_size, context, d_model, d_ff):
        super().__init__()
        self.vocab_size, self.context = vocab_size, context
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.inner = nn.Linear(context * d_model, d_ff)
        self.outer = nn.Linear(d_ff, vocab_size)

    def forward(self, ids):
        x = F.pad(self.embedding(ids), (0, 0, self.context - 1, 0))  # zeros before the text
        x = x.unfold(1, self.context, 1).flatten(2)  # (B, T, D, n - 1) to (B, T, D (n - 1))
        return self.outer(torch.tanh(self.inner(x)))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


mlp = MLP(V, context=4, d_model=48, d_ff=128)
assert isinstance(mlp, LanguageModel)
print(f"{parameters(mlp):,} parameters; a table of order 5 has {V**5:.1e} cells")

# %% [markdown]
# (sec-rnn-fit)=
# ### Training on pieces of text
#
# No table of counts stands behind this loss, so we cannot take the whole text at each step. We take a random handful
# of short pieces, a {term}`batch`, and follow the gradient of their mean loss: a noisy estimate of the slope that
# costs a three-thousandth of the true one. The loop below is the one by which every model in this chapter is trained.
# The rate rises at first and then falls to zero; `clip_grad_norm_` will be explained when we need it
# ({ref}`sec-rnn-vanishing`). {ref}`ch-training` treats each of these choices properly.


# %%
def fit(model, steps, rate=5e-3, seed=0):
    stream = sample(ids["train"], context=64, batch_size=8, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, cycle_momentum=False)
    for step in range(steps):
        batch = stream(step)
        paid = loss(model(*batch.inputs), batch.targets)
        optimizer.zero_grad()
        paid.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


# %% [markdown]
# To score a text of two hundred thousand tokens we cut it into pieces too, so that they can be read side by side. Each
# piece of 512 tokens is entered 128 tokens early, and what is read on the way in is not scored.


# %%
def answers(model, split, piece=512, early=128):
    """Log-probabilities of ids[split][1:], each after at least `early` tokens of its own past."""
    stream, scored = F.pad(ids[split], (early, piece), value=NEWLINE), []
    with torch.no_grad(), threads():
        for rows in stream.unfold(0, early + piece + 1, piece).split(8):
            table = model(rows[:, :-1])[:, early:].log_softmax(-1)
            scored.append(table.gather(-1, rows[:, early + 1 :, None])[..., 0].flatten())
    return torch.cat(scored)[None, : len(ids[split]) - 1].double()


class Known:
    """A language model whose log-probabilities on one text are known already, to be scored and mixed."""

    vocab_size, context = V, None

    def __init__(self, log_probs):
        self.log_probs = log_probs

    def score(self, ids):
        assert ids.shape[1] == self.log_probs.shape[1] + 1
        return self.log_probs


def score(log_probs, split="validation"):
    return evaluate.score(Known(log_probs), tokenizer, text[split])


# %%
STEPS = 600
torch.manual_seed(0)
mlp = MLP(V, context=4, d_model=48, d_ff=128)
with threads():
    fit(mlp, STEPS)
scores = {"MLP": score(answers(mlp, "validation"))}
print(f"MLP: {scores['MLP'].bits_per_byte:.2f} bits per byte on the validation plays")

# %% tags=["hide-input", "nbval-ignore-output"]
glue("rnn_mlp", scores["MLP"].bits_per_byte, display=False)
glue("rnn_tokens", STEPS * 512 / len(ids["train"]), display=False)
glue("rnn_kn5", bar.bits_per_byte, display=False)

# %% [markdown]
# {glue:text}`rnn_mlp:.2f` bits per byte: not close to the {glue:text}`rnn_kn5:.2f` of Kneser–Ney, which looks at the
# same four tokens before each prediction. In its defence, the network saw {glue:text}`rnn_tokens:.1f` times the length
# of the training text, in seconds, and has a fifteenth as many parameters as the table has n-grams. Counting is a very
# efficient use of little computing time. We note it, and come back with more time below.
#
# What did it buy? Words have vectors now, so a word has neighbours: the tokens whose vectors point in the most similar
# direction (largest cosine). After so short a training few of them are of a kind; {numref}`tab-rnn-neighbours` below
# shows those of a network that had more time.


# %%
shapes = [tokenizer.token_bytes(i).decode(errors="replace") for i in range(V)]
words = [i for i in range(V) if shapes[i][0] == " " and shapes[i][1:].isalpha()]


def neighbours(model, token, among, n=5):
    unit = F.normalize(model.embedding.weight.detach(), dim=1)
    near = sorted((i for i in among if i != token), key=lambda i: -float(unit[i] @ unit[token]))
    return near[:n]


# %% [markdown]
# A table has no such notion; there the words are labels, and labels have no distance. But is the nearness *used*? In
# {ref}`the last chapter <sec-ng-failure>` we told a table about the sea, and the ocean became less likely. Repeat it
# with the network. Take a place in the validation
# plays where a frequent word $a$ is followed by some token $v$, and do **one** step of gradient descent on it. Then ask
# for the probability of $v$ when another word stands where $a$ stood: its nearest neighbour, and as a control a random
# word. The network has never been shown either sentence.


# %%
def bits(model, history, target):
    with torch.no_grad():
        return model(history[None])[0, -1].log_softmax(0)[target].item() / math.log(2)


def gains(word, others, place, rate=0.03):
    history, target = ids["validation"][place - 3 : place + 1], ids["validation"][place + 1]
    versions = [torch.cat([history[:3], torch.tensor([w])]) for w in (word, *others)]
    taught = copy.deepcopy(mlp)
    loss(taught(history[None])[:, -1], target[None]).backward()
    for parameter in taught.parameters():
        parameter.data -= rate * parameter.grad
    return [bits(taught, v, target) - bits(mlp, v, target) for v in versions]


# %%
rng = torch.Generator().manual_seed(0)
chosen = [w for w in words if (ids["validation"] == w).sum() >= 50]
rows = []
for word in chosen:
    near = neighbours(mlp, word, chosen, n=1)[0]
    control = chosen[int(torch.randint(len(chosen), (1,), generator=rng))]
    for place in torch.nonzero(ids["validation"][3:-1] == word)[:4, 0] + 3:
        rows.append(gains(word, (near, control), int(place)))
gained = torch.tensor(rows)
share = (gained[:, 1] > gained[:, 2]).float().mean()
print(f"{len(rows)} steps on {len(chosen)} words; mean gain in bits for the same token after")
who = "the word itself", "its neighbour", "a random word"
for name, column in zip(who, gained.T, strict=True):
    print(f"  {name:16} {column.mean():.1f}")
ahead = gained[:, 1] - gained[:, 2]
print(f"neighbour minus random: {ahead.mean():.1f} ± {2 * ahead.std() / len(ahead) ** 0.5:.1f}")
print(f"the neighbour gains more than the random word in {share:.1f} of the cases")

# %% tags=["hide-input", "nbval-ignore-output"]
for name, column in zip(("self", "near", "random"), gained.T, strict=True):
    glue(f"rnn_gain_{name}", column.mean().item(), display=False)
glue("rnn_gain_share", share.item(), display=False)

# %% [markdown]
# One lesson about $a$ raised $v$ by {glue:text}`rnn_gain_self:.1f` bits after $a$, by {glue:text}`rnn_gain_near:.1f`
# bits after its neighbour, and by {glue:text}`rnn_gain_random:.1f` after a random word. (That last gain is not noise.
# The step also raised $v$ in general, through the output layer.) After the other two words a count table gains
# nothing, or loses. Learning that carries over to what was not seen is what the parameters are shared for.
#
# One of the three walls is down. But {eq}`eq-rnn-mlp` still has a window, as hard as an n-gram's.
#
# (sec-rnn-cell)=
# ## Reading without a window
#
# How do you read a sentence of forty words? Not by laying forty words side by side. You read one, and what you make of
# it depends on what you have in mind; then you read the next. Elman's network {cite}`elman1990` does that. It has a
# *state* $h_t$, a vector of fixed width, and one rule to update it:
#
# $$
# h_t = \tanh(W x_t + U h_{t-1} + b), \qquad
# P(\cdot \mid w_{\le t}) = \operatorname{softmax}(O h_t + o).
# $$ (eq-rnn-elman)
#
# Here $x_t$ is the embedding of $w_t$, and $h_0 = 0$. The same $W$, $U$ and $b$ serve at each step. Everything that
# the network knows about the past is in $h_{t-1}$, so {eq}`eq-rnn-elman` has no window: in principle $h_t$ depends on
# all tokens so far. Two things follow at once. A text of any length can be read (compare {ref}`err-length`), and the
# cost of a token does not grow with what stands before it. {numref}`fig-rnn-unrolled` draws the walk.

# %% mystnb={"figure": {"name": "fig-rnn-unrolled", "caption": "A recurrent network unrolled over four tokens. Each box is the same function with the same weights; the arrow is the state."}, "image": {"alt": "Five boxes in a row joined by arrows. The first says h0, all zero. Each of the next four reads one token of to be or not, and guesses the next one from its state."}}
walk = {"$h_0$": "all zero"}
walk |= {f"$h_{t}$": f"reads “{word}”" for t, word in enumerate("to be or not".split(), 1)}
plots.flow(walk)
print(len(walk) - 1, "steps, one set of weights")

# %% [markdown]
# One step by hand, with two units, and then five steps: `minilm`'s pure function `rnn_cell`, the loop `unroll`, and
# PyTorch's kernel must agree. PyTorch has two bias vectors where one would do, since it was made to share weights with
# a library for graphics cards; we keep its layout so that weights can be exchanged.

# %%
x, h = torch.tensor([[1.0]]), torch.tensor([[0.5, -0.5]])
W, U, b = torch.tensor([[0.2], [0.4]]), torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.zeros(2)
first = math.tanh(0.2 * 1 + 1 * 0.5 + 2 * -0.5)
second = math.tanh(0.4 * 1 + 0 * 0.5 + 1 * -0.5)
torch.testing.assert_close(rnn_cell(x, h, W, U, b, b), torch.tensor([[first, second]]))
print(f"h = ({first:.3f}, {second:.3f})")

# %%
torch.manual_seed(0)
kernel = nn.RNN(3, 4, batch_first=True).double()
x, h = torch.randn(2, 5, 3, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
walk = unroll(rnn_cell, x, h, *kernel.all_weights[0])
torch.testing.assert_close(torch.stack(walk, 1), kernel(x)[0])
print("rnn_cell, unrolled, is nn.RNN:", tuple(kernel(x)[0].shape))

# %% [markdown]
# Around the cell, `RNNLM` puts an embedding table below and the same table, transposed, above (*tied* embeddings
# {cite}`presswolf2017`, which save a hundred thousand parameters and more here). On the way in the vectors are scaled
# to unit variance. Layers can be stacked: the states of one layer are the inputs of the next.
#
# A word on words. This network is *recurrent*, 循环神经网络. A *recursive* network, 递归神经网络, applies one function
# up a tree, say a parse of a sentence {cite}`socher2011`. A chain is the simplest tree, which is how the names came to
# be mixed up; document 3 explains the one by the other ({ref}`err-recursive`).
#
# (sec-rnn-bptt)=
# ## Back-propagation through time
#
# Training needs the slope of the loss by $U$. The difficulty is that $U$ acts at *every* step, and an early use of it
# affects all later losses. Let $L = \sum_t \ell_t$, where $\ell_t$ depends on $h_t$ only, and write $a_t = W x_t +
# U h_{t-1} + b$, so $h_t = \tanh a_t$. Name the quantity that travels:
#
# $$
# \delta_t = \frac{\partial L}{\partial a_t}.
# $$
#
# The state $h_t$ is used in two places: in its own loss $\ell_t$, and in $a_{t+1}$. By the chain rule, and since
# $\tanh' = 1 - \tanh^2$,
#
# $$
# \delta_t = \bigl(1 - h_t^2\bigr) \odot
# \Bigl( \frac{\partial \ell_t}{\partial h_t} + U^{\top} \delta_{t+1} \Bigr), \qquad \delta_{T+1} = 0,
# $$ (eq-rnn-bptt)
#
# where $\odot$ multiplies entry by entry. So we walk the text *backwards*, carrying $\delta$ as we carried $h$
# forwards. Each step adds its share to the gradients of the shared weights:
#
# $$
# \frac{\partial L}{\partial U} = \sum_t \delta_t\, h_{t-1}^{\top}, \qquad
# \frac{\partial L}{\partial W} = \sum_t \delta_t\, x_t^{\top}, \qquad
# \frac{\partial L}{\partial b} = \sum_t \delta_t.
# $$ (eq-rnn-grads)
#
# This is back-propagation, on a network as deep as the text is long. In code it is five lines, and it must agree with
# autograd, and with the definition of a derivative: nudge one weight, run the whole text again, and divide.


# %%
def bptt(x, h, slopes, U):
    """Gradients by U, W and b; h[t] is the state before step t, slopes[t] is the slope of the loss by h[t + 1]."""
    grads, delta = [0, 0, 0], torch.zeros(len(U), dtype=U.dtype)
    for t in reversed(range(len(x))):
        delta = (1 - h[t + 1] ** 2) * (slopes[t] + U.T @ delta)
        shares = torch.outer(delta, h[t]), torch.outer(delta, x[t]), delta
        grads = [grad + share for grad, share in zip(grads, shares, strict=True)]
    return grads


# %%
torch.manual_seed(1)
T, D, d, n = 12, 3, 4, 5
x, targets = torch.randn(T, D, dtype=torch.float64), torch.randint(n, (T,))
W, U, readout = (torch.randn(*shape, dtype=torch.float64) for shape in ((d, D), (d, d), (n, d)))
b = torch.zeros(d, dtype=torch.float64)


def walk_loss(U, W, b):
    states = torch.cat(unroll(rnn_cell, x[None], torch.zeros(1, d).double(), W, U, b, 0 * b))
    return F.cross_entropy(states @ readout.T, targets, reduction="sum"), states


states = walk_loss(U, W, b)[1]
surplus = (states @ readout.T).softmax(1) - F.one_hot(targets, n)  # model minus text, again
slopes = surplus @ readout
ours = bptt(x, torch.cat([torch.zeros(1, d).double(), states]), slopes, U)

# %%
weights = [weight.clone().requires_grad_() for weight in (U, W, b)]
for mine, auto in zip(ours, torch.autograd.grad(walk_loss(*weights)[0], weights), strict=True):
    torch.testing.assert_close(mine, auto, rtol=1e-12, atol=1e-12)

nudged = torch.zeros_like(U)
for i in range(d):
    for j in range(d):
        step = torch.zeros_like(U)
        step[i, j] = 1e-6
        nudged[i, j] = (walk_loss(U + step, W, b)[0] - walk_loss(U - step, W, b)[0]) / 2e-6
torch.testing.assert_close(ours[0], nudged, rtol=1e-6, atol=1e-7)
print("by hand = autograd (1e-12) = central differences (1e-6), for all", U.numel(), "entries of U")

# %% [markdown]
# A play has 50,000 tokens, and no one unrolls a network over 50,000 steps: all states would have to be kept for the
# walk back. Instead the text is cut into pieces, and the gradient stops at the border of a piece, even where the state
# itself is carried on. That is *truncated* back-propagation through time. Our `fit` cuts pieces of 64 tokens and starts
# each from $h_0 = 0$. What the network learns to carry further than 64 tokens, it learns by luck.
#
# (sec-rnn-vanishing)=
# ## Vanishing and exploding
#
# Look at {eq}`eq-rnn-bptt` once more. On its way back from time $t$ to time $t - k$ the signal is multiplied $k$ times
# by a matrix, the Jacobian of one step:
#
# $$
# J_t = \frac{\partial h_t}{\partial h_{t-1}} = \operatorname{diag}(1 - h_t^2)\, U, \qquad
# \frac{\partial h_t}{\partial h_{t-k}} = J_t J_{t-1} \cdots J_{t-k+1}.
# $$ (eq-rnn-jacobian)
#
# ```{prf:theorem} The gradient of a plain recurrent network vanishes, or may explode
# :label: thm-rnn-vanish
# Let $\sigma$ be the largest singular value of $U$ and $\gamma \le 1$ the largest value of $1 - h^2$ along the way.
# Then $\left\| \partial h_t / \partial h_{t-k} \right\| \le (\gamma\sigma)^k$. So with $\gamma\sigma < 1$ the
# influence of the past falls at least exponentially with the distance. For an explosion $\gamma\sigma > 1$ is
# necessary.
# ```
#
# ```{prf:proof}
# The spectral norm of a product is at most the product of the norms, and $\| \operatorname{diag}(1 - h_s^2)\, U \| \le
# \gamma\sigma$ for each $s$.
# ```
#
# The theorem goes back to Hochreiter and to Bengio and colleagues {cite}`bengio1994`; Pascanu and colleagues give this
# form {cite}`pascanu2013`. It is a one-sided statement, so we measure. Take a random vector $v$, and propagate $v^\top
# h_t$ back to all earlier states at once; the length of the gradient at distance $k$, relative to distance 0, is the
# factor by which a typical signal has shrunk or grown.


# %%
def reach(cell, x, *weights):
    """Mean length of the gradient of a random projection of the last state, by distance from the end."""
    B, H = len(x), weights[1].shape[1]
    start = torch.zeros(B, H, dtype=x.dtype, requires_grad=True)
    states = unroll(CELLS[cell], x, (start, 0 * start) if cell == "lstm" else start, *weights)
    parts = [state if isinstance(state, tuple) else (state,) for state in states]
    v = torch.randn(B, H, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    flat = [part for state in parts for part in state]
    slopes = torch.autograd.grad((parts[-1][0] * v).sum(), flat, materialize_grads=True)
    lengths = torch.stack(slopes).unflatten(0, (len(parts), -1)).square().sum((1, 3)).sqrt()
    return (lengths / lengths[-1]).mean(1).flip(0)  # (T,), distance 0 first


def random_weights(cell, forget=0.0, gain=None, H=64):
    torch.manual_seed(0)
    w_ih, w_hh, b_ih, b_hh = (w.detach() for w in KERNELS[cell](H, H).double().all_weights[0])
    if gain is not None:
        w_hh = gain * nn.init.orthogonal_(w_hh)
    if forget:
        b_ih[H : 2 * H] = forget
    return w_ih, w_hh, b_ih, b_hh


noise = torch.randn(8, 100, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

# %% [markdown]
# On the left of {numref}`fig-rnn-reach` stand plain networks whose $U$ is a rotation times a gain $\sigma$, so that
# all singular values are equal and the theorem is as sharp as it can be. (The network with gain 3 gets faint inputs,
# to keep it away from the flat ends of the tanh at first.) The right side we explain in the next section.

# %% mystnb={"figure": {"name": "fig-rnn-reach", "caption": "How a gradient shrinks or grows on its way back, by distance, at random initial weights. Left: plain networks with recurrent matrices of gain sigma. Right: PyTorch's initial weights for the three cells, and LSTMs whose forget gates start open with a bias of 1 or 4."}, "image": {"alt": "Two line charts with logarithmic vertical axes over distance. Left: gain 0.5 falls to 1e-33 at distance 80, gain 1 to 1e-11, gain 1.5 falls slowly to 0.03, gain 3 rises to 1e10. Right: RNN falls to 1e-28, GRU to 1e-17, LSTM to 1e-18, LSTM with bias 1 to 1e-8, LSTM with bias 4 stays between 0.1 and 0.4."}}
gains = {
    f"sigma = {gain}": reach("rnn", loud * noise, *random_weights("rnn", gain=gain))
    for gain, loud in ((0.5, 1), (1.0, 1), (1.5, 1), (3, 0.1))
}
kinds = {cell.upper(): reach(cell, noise, *random_weights(cell)) for cell in CELLS}
for bias in (1.0, 4.0):
    kinds[f"LSTM, bias {bias:.0f}"] = reach("lstm", noise, *random_weights("lstm", bias))
axes = plots.panels(2, size=(8.4, 3.6), share_y=False)
for ax, curves in zip(axes, (gains, kinds), strict=True):
    shown = {name: curve[:81] for name, curve in curves.items()}
    plots.lines(range(81), shown, "distance k", "gradient, relative", "y", ax=ax)
for name, curve in (gains | kinds).items():
    print(f"{name:12} at 5, 20, 80:", *(f"{curve[k]:.0e}" for k in (5, 20, 80)))

# %% [markdown]
# The picture is worse than the theorem suggests. Between vanishing and exploding the place is narrow: gain 1 vanishes
# too, because every tanh that is not exactly at 0 takes a little away. Of the four gains only 1.5 keeps a few per
# cent at distance 80. At PyTorch's usual initial weights an error at distance 20 keeps a ten-millionth of its force
# in the plain network. The network *can* represent a long memory. Gradient descent cannot see that it should.
#
# Explosion is the rarer and the louder failure. Its mechanism fits into one unit. Let $h_t = \tanh(3 h_{t-1} + b)$ from
# $h_0 = 0$. This little network is a switch: for $b > 0$ it runs to about $+1$, for $b < 0$ to about $-1$. After twelve
# steps the border between the two is a cliff.

# %% mystnb={"figure": {"name": "fig-rnn-cliff", "caption": "A cliff in the loss of a single unit after twelve steps: the loss over the bias b (left), and the size of its slope (right, logarithmic)."}, "image": {"alt": "Left: the loss is low for negative b, and at b equal to 0 jumps to a high plateau. Right: the slope is below a tenth far from zero, and shoots up to a few hundred thousand at b equal to zero."}}
b = torch.linspace(-1, 1, 402, dtype=torch.float64).pow(3).requires_grad_()
h = torch.zeros_like(b)
for _ in range(12):
    h = torch.tanh(3 * h + b)
fall = (h + 0.5) ** 2
slope = torch.autograd.grad(fall.sum(), b)[0]
left, right = plots.panels(2, size=(8.4, 3.0), share_y=False)
plots.lines(b.detach(), {"loss": fall.detach()}, "b", "loss", ax=left)
plots.lines(b.detach(), {"slope": slope.abs()}, "b", "|slope|", "y", ax=right)
steepest = int(slope.abs().argmax())
print(f"slope at b = 1: {slope[-1]:.4f}, at b = {b[steepest]:.0e}: {slope[steepest]:.0e}")

# %% [markdown]
# A step of gradient descent that happens to land on the cliff of {numref}`fig-rnn-cliff` is thrown off by a slope in
# the hundred thousands, and everything learnt so far is lost. The remedy is crude, and universal: if the gradient $g$
# is longer than a threshold $\theta$, shorten it to $\theta$ and keep its direction {cite}`pascanu2013`.
#
# $$
# g \leftarrow g \cdot \min\bigl(1, \theta / \|g\|\bigr)
# $$ (eq-rnn-clip)

# %%
here, g = b[steepest].item(), slope[steepest].item()
for name, used in (("plain", g), ("clipped", g * min(1, 1 / abs(g)))):
    print(f"{name:8} step with rate 0.1: b goes from {here:.0e} to {here - 0.1 * used:.1g}")

# %% [markdown]
# {term}`Clipping <gradient descent>` repairs explosion and does nothing for a {term}`vanishing gradient`: a vector
# that is too short has not lost its length only, it has been drowned in the sum over nearer losses. For that, the cell
# itself must change.
#
# (sec-rnn-gates)=
# ## Gates
#
# A plain network rewrites its whole state at every token. What if the state were *kept* by default, and changed only
# on purpose? That is the idea of long short-term memory {cite}`hochreiter1997`. An LSTM carries two vectors. The
# memory $c_t$ is changed by multiplying and adding only; the state $h_t$ is what it shows. Between them stand three
# gates, numbers between 0 and 1 that the network computes from the input and its own state:
#
# $$
# \begin{pmatrix} i_t \\ f_t \\ o_t \end{pmatrix} = \operatorname{sigmoid}\bigl(W x_t + U h_{t-1} + b\bigr), \qquad
# g_t = \tanh\bigl(W_g x_t + U_g h_{t-1} + b_g\bigr),
# $$ (eq-rnn-lstm-gates)
#
# $$
# c_t = f_t \odot c_{t-1} + i_t \odot g_t, \qquad h_t = o_t \odot \tanh(c_t).
# $$ (eq-rnn-lstm)
#
# The *forget gate* $f$ says how much of the memory stays, the *input gate* $i$ how much of the candidate $g$ comes in,
# and the *output gate* $o$ how much is shown. (The first LSTM had no forget gate; Gers and colleagues added it
# {cite}`gers2000`.) Why does it help? Differentiate {eq}`eq-rnn-lstm` along the direct path, from $c_{t-1}$ to $c_t$:
#
# $$
# \frac{\partial c_t}{\partial c_{t-1}} = \operatorname{diag}(f_t), \qquad
# \text{over } k \text{ steps:}\quad \prod_{s=t-k+1}^{t} \operatorname{diag}(f_s).
# $$ (eq-rnn-carousel)
#
# No matrix, no tanh: a product of gates. Where a unit holds its gate open, $f \approx 1$, the gradient passes unchanged
# over any distance. And *where* it is open, the network decides, from the text.
#
# The gated recurrent unit {cite}`cho2014` has the same idea with one vector and two gates. The *update gate* $z$
# blends the old state with a candidate $n$, and the *reset gate* $r$ says how much of the old state the candidate may
# see:
#
# $$
# h_t = z_t \odot h_{t-1} + (1 - z_t) \odot n_t, \qquad
# n_t = \tanh\bigl(W_n x_t + b_n + r_t \odot (U_n h_{t-1} + b'_n)\bigr).
# $$ (eq-rnn-gru)
#
# (The paper multiplies $r_t$ into the state before $U_n$; this is PyTorch's form.) By hand, in the order of
# {eq}`eq-rnn-lstm-gates` and {eq}`eq-rnn-lstm`, and against `minilm` and PyTorch:

# %%
torch.manual_seed(2)
x = torch.randn(2, 3, dtype=torch.float64)
h, c = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
kernel = nn.LSTM(3, 4, batch_first=True).double()
W, U, b, b2 = kernel.all_weights[0]
i, f, g, o = (x @ W.T + h @ U.T + b + b2).split(4, dim=1)
new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
new_h = o.sigmoid() * new_c.tanh()
torch.testing.assert_close(lstm_cell(x, (h, c), W, U, b, b2), (new_h, new_c))
torch.testing.assert_close(kernel(x[:, None], (h[None], c[None]))[0][:, 0], new_h)

# %%
kernel = nn.GRU(3, 4, batch_first=True).double()
W, U, b, b2 = kernel.all_weights[0]
(xr, xz, xn), (hr, hz, hn) = (x @ W.T + b).split(4, 1), (h @ U.T + b2).split(4, 1)
r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
new_h = z * h + (1 - z) * (xn + r * hn).tanh()
torch.testing.assert_close(gru_cell(x, h, W, U, b, b2), new_h)
torch.testing.assert_close(kernel(x[:, None], h[None])[0][:, 0], new_h)
print("by hand = minilm = torch.nn, for the LSTM and the GRU")

# %% [markdown]
# Now the right side of {numref}`fig-rnn-reach` makes sense. At PyTorch's usual initial weights gates start at one
# half, and $0.5^k$ vanishes as surely as anything else. Gates help only if they are *open*. An LSTM whose forget
# gates start with a bias of 1 keeps $\operatorname{sigmoid}(1) = 0.73$ per step, with a bias of 4 it keeps 0.98, and
# its curve is almost level. Jozefowicz and colleagues found that the bias of 1 alone closes the gap between the LSTM
# and the GRU {cite}`jozefowicz2015`; `RNNLM` sets it. That the architecture solves the problem is half of the truth.
# The other half is an initial value.
#
# Let us see it in learning, not only in gradients.
#
# (sec-rnn-distance)=
# ## The test that counting failed
#
# {ref}`Chapter 3 <sec-ng-failure>` had an artificial language: *the*, a noun (singular or plural), $k$ filler words,
# *is* or *are*, an adjective. The verb must agree with a noun that stands $k$ words back. With a single filler word
# an n-gram model got it right up to $k = n - 2$ and not one word further; with ten filler words, as here, it failed
# sooner. We train three networks of 32 units on sentences with at most 6 filler words, as the n-gram model was, and
# test them with up to 60.

# %%
THE, IS, ARE, STOP, NOUN, ADJECTIVE, FILLER, SIZE = 0, 1, 2, 3, 4, 20, 28, 38


def sentences(n, k, rng):
    noun = torch.randint(16, (n, 1), generator=rng)
    between = FILLER + torch.randint(10, (n, k), generator=rng)
    adjective = ADJECTIVE + torch.randint(8, (n, 1), generator=rng)
    one, verb = torch.ones_like(noun), torch.where(noun < 8, IS, ARE)
    return torch.cat([THE * one, NOUN + noun, between, verb, adjective, STOP * one], 1)


def agreement(model, k):
    """Share of 320 new sentences in which the model prefers the right verb."""
    made = sentences(320, k, torch.Generator().manual_seed(9))
    with torch.no_grad():
        last = model(made[:, : k + 2])[:, -1]
    return ((last[:, ARE] > last[:, IS]) == (made[:, k + 2] == ARE)).float().mean().item()


# %%
def learn(cell, longest, seed, forget=1.0, steps=300):
    """A small network, trained on sentences with up to `longest` words between noun and verb."""
    torch.manual_seed(seed)
    model, rng = RNNLM(RNNConfig(SIZE, d_model=32, cell=cell)), torch.Generator().manual_seed(seed)
    if cell == "lstm":
        model.layers.bias_ih_l0.data[32:64] = forget
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(steps):
        k = int(torch.randint(longest + 1, (1,), generator=rng))
        batch = next_token(sentences(32, k, rng))
        optimizer.zero_grad()
        loss(model(*batch.inputs), batch.targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


# %%
rng = torch.Generator().manual_seed(0)
stream = torch.cat([sentences(4000, k, rng).flatten() for k in range(7)])
ngram6 = ngram.ModifiedKneserNey(count(stream, 6, SIZE))
near, SEEDS = [0, 2, 4, 5, 6, 10, 20, 40, 60], (0, 1, 2)
short = {"6-gram": [[agreement(ngram6, k) for k in near]]}
for cell in CELLS:
    runs = [learn(cell, 6, seed) for seed in SEEDS]
    short[cell.upper()] = [[agreement(model, k) for k in near] for model in runs]
print("k:", near)
for name, runs in short.items():
    print(f"{name:7}", [round(a, 1) for a in torch.tensor(runs).mean(0).tolist()])

# %% [markdown]
# The cliff is gone. And it is not moved further out: it is gone, ten times beyond the longest training sentence. The
# networks did not store 16 nouns times ten fillers to the power of $k$. They found that fillers do not matter, which is
# what the last chapter said a table can never know. Even the plain network does it. It can: a unit that feeds itself
# strongly, like the switch of {numref}`fig-rnn-cliff`, stays where it was put.
#
# It had to be *taught* on short distances, though. Now let the training sentences have up to 20 fillers. The task is
# the same; what is rarer is the short sentence from which the signal has only a few steps to travel.

# %% mystnb={"figure": {"name": "fig-rnn-distance", "caption": "Choosing between is and are by the number of words between noun and verb; mean and range of three seeds. Left: trained with up to 6 words. Right: trained with up to 20 words, for the same number of steps. Chance is 0.5."}, "image": {"alt": "Two line charts of accuracy over k. Left: RNN, GRU and LSTM lie at 1.0 up to 60 words, the 6-gram model falls below 1.0 at k equal to 2 and is at 0.5 from k equal to 4 on. Right: the plain RNN falls from 0.9 at k equal to 0 to 0.5 at k equal to 5, the LSTM with forget bias 1 has a wide range from 0.5 to 1.0 over its seeds, the GRU and the LSTM with forget bias 4 lie at or near 1.0."}} tags=["nbval-ignore-output"]
far = [0, 2, 5, 10, 15, 20]
kinds = {"RNN": ("rnn", 0.0), "GRU": ("gru", 0.0)}
kinds |= {f"LSTM, bias {bias}": ("lstm", float(bias)) for bias in (1, 4)}
long = {}
for name, (cell, forget) in kinds.items():
    runs = [learn(cell, 20, seed, forget) for seed in SEEDS]
    long[name] = [[agreement(model, k) for k in far] for model in runs]


def middle(runs):
    return {name: torch.tensor(r).mean(0) for name, r in runs.items()}


def ranges(runs):
    return {name: (torch.tensor(r).amin(0), torch.tensor(r).amax(0)) for name, r in runs.items()}


left, right = plots.panels(2, size=(8.4, 3.4))
plots.lines(near, middle(short), "k, words between", "accuracy", bands=ranges(short), ax=left)
plots.lines(far, middle(long), "k, words between", "", bands=ranges(long), ax=right)
for name, runs in long.items():
    print(f"{name:12} at k = 10, by seed:", [round(run[3], 1) for run in runs])

# %% [markdown]
# The right side of {numref}`fig-rnn-distance` is {numref}`fig-rnn-reach` come true. The plain network, whose gradient
# dies within ten steps, learns to use a noun that stands next to the verb and hardly anything further back, whatever
# the seed. The GRU finds the noun at every distance, and the LSTM whose gates start wide open comes close. With the
# usual bias of 1 the LSTM depends on luck: some seeds learn and some do not. The gates make the long memory possible,
# and their starting point makes it findable. (One can choose the bias to match the distances one expects
# {cite}`tallec2018`.)
#
# (sec-rnn-text)=
# ## On Shakespeare
#
# Back to the plays. Same tokens, same number of steps, same loop, about the same number of parameters: the MLP against
# the three cells. The last line is Kneser–Ney on as much text as the networks have read.

# %%
SIZES = {"rnn": 128, "gru": 112, "lstm": 104}
models = {}
for cell, width in SIZES.items():
    torch.manual_seed(0)
    models[cell.upper()] = RNNLM(RNNConfig(V, width, cell=cell))
    with threads():
        fit(models[cell.upper()], STEPS)
    scores[cell.upper()] = score(answers(models[cell.upper()], "validation"))

part = ngram.ModifiedKneserNey(count(ids["train"][: STEPS * 512], 3, V))
scores["Kneser-Ney, as much text"] = evaluate.score(part, tokenizer, text["validation"])

# %% mystnb={"figure": {"name": "tab-rnn-cells", "caption": "Small networks after the same few steps: parameters, bits per byte on the validation plays with 95 % intervals (over the text; one seed), and the difference to the MLP."}} tags=["nbval-ignore-output"]
rows, models["MLP"] = [], mlp
for name, s in scores.items():
    low, high = s.interval
    size = f"{parameters(models[name]):,}" if name in models else ""
    bits_paid = f"{s.bits_per_byte:.2f} [{low:.2f}, {high:.2f}]"
    rows.append((name, size, bits_paid, f"{s.minus(scores['MLP'])[0]:+.2f}"))
heads = ["model", "parameters", "bits per byte", "minus MLP"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% [markdown]
# Without a window and with fewer parameters, the recurrent networks are ahead of the MLP ({numref}`tab-rnn-cells`).
# Among the three the order is not the one to expect: after seconds of training the LSTM, which has most to set up, is
# the last. And none of them beats counting on as much text. *When little is known, count.*
#
# (sec-rnn-lstm)=
# ## A trained LSTM
#
# So give one of them time. `trained("lstm")` makes the model that this and later chapters use: one wide LSTM layer,
# about a minute and a half on two cores at the first call, and read from a cache afterwards. `minilm.presets` holds its
# recipe; {ref}`ch-training` explains how such numbers are found.

# %%
lstm, units, log = trained("lstm")
assert units.encode("Who's there?") == tokenizer.encode("Who's there?")
print(f"{parameters(lstm):,} parameters, width {lstm.config.d_model}")
print(f"tokens read: {log[-1]['tokens'] / len(ids['train']):.1f} times the training text")

# %% [markdown]
# Its vectors have had the time that the MLP's had not. For some frequent words, {numref}`tab-rnn-neighbours` lists the
# nearest. No one told the network what a pronoun or a modal verb is; it was asked for the next token only, and words
# that leave the next token in a similar state end up in a similar place.

# %% mystnb={"figure": {"name": "tab-rnn-neighbours", "caption": "Nearest neighbours in the embedding that the LSTM learnt, by cosine, among the tokens that begin with a space."}} tags=["nbval-ignore-output"]
code = {shapes[i][1:]: i for i in words}
rows = [
    (name, ", ".join(shapes[i][1:] for i in neighbours(lstm, code[name], words)))
    for name in "he his is was will from now good man lord".split()
    if name in code
]
Markdown(tabulate(rows, ["token", "nearest tokens"], tablefmt="pipe"))

# %% [markdown]
# The LSTM answers for both texts once, and so does Kneser–Ney; from the answers we score, compare and mix.

# %%
SPLITS = ("validation", "test")
known = {
    "Kneser-Ney, order 5": {s: kneser_ney.score(ids[s][None]) for s in SPLITS},
    "LSTM": {s: answers(lstm, s) for s in SPLITS},
}

# %% [markdown]
# The two models could hardly be more different. One stores and looks up, the other compresses and computes. Do they
# make the same mistakes? Mix them: $P = \lambda P_{\text{LSTM}} + (1 - \lambda) P_{\text{KN}}$, with the weight
# $\lambda$ chosen on the validation plays. Mikolov and colleagues did this in the paper that made recurrent language
# models popular {cite}`mikolov2010`.


# %%
def mixed(split, weight):
    a, b = known["LSTM"][split], known["Kneser-Ney, order 5"][split]
    return torch.logaddexp(a + math.log(weight), b + math.log(1 - weight))


grid = [w / 10 for w in range(1, 10)]
weight = min(grid, key=lambda w: score(mixed("validation", w)).bits_per_byte)
known["mixture"] = {split: mixed(split, weight) for split in SPLITS}
print(f"weight of the LSTM in the mixture: {weight:.1f}")

# %% mystnb={"figure": {"name": "tab-rnn-bar", "caption": "Bits per byte on the validation and the test plays with 95 % intervals, and the paired difference to Kneser-Ney on the test plays. The test plays were scored once."}} tags=["nbval-ignore-output"]
known = {"RNN, small": {s: answers(models["RNN"], s) for s in SPLITS}} | known
finals = {name: {s: score(part[s], s) for s in SPLITS} for name, part in known.items()}


def cell(s):
    return f"{s.bits_per_byte:.2f} [{s.interval[0]:.2f}, {s.interval[1]:.2f}]"


base = finals["Kneser-Ney, order 5"]["test"]
rows = []
for name, s in finals.items():
    difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*s["test"].minus(base))
    rows.append((name, cell(s["validation"]), cell(s["test"]), difference))
heads = ["model", "validation", "test", "minus Kneser-Ney, test"]
Markdown(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))

# %% tags=["hide-input", "nbval-ignore-output"]
for name, key in (("LSTM", "lstm"), ("Kneser-Ney, order 5", "kn"), ("mixture", "mix")):
    glue(f"rnn_test_{key}", finals[name]["test"].bits_per_byte, display=False)
glue("rnn_minus", finals["LSTM"]["test"].minus(base)[0], display=False)
glue("rnn_weight", weight, display=False)

# %% [markdown]
# {numref}`tab-rnn-bar` is the answer to half of this chapter's question. On the test plays the LSTM pays
# {glue:text}`rnn_test_lstm:.2f` bits per byte and the counts pay {glue:text}`rnn_test_kn:.2f`. The mixture pays
# {glue:text}`rnn_test_mix:.2f`, less than either. Each knows something that the other does not: the table remembers
# rare strings exactly after one sight, the network generalises and looks further back. (The interval in the table is
# over the text. A second seed of the same recipe moves the LSTM's number by a hundredth or two.)
#
# What does it write?

# %% tags=["nbval-ignore-output"]
prompt = tokenizer.encode("HAMLET.\n")
print("HAMLET.\n" + tokenizer.decode(generate(lstm, prompt, 150, temperature=0.8, seed=1)))

# %% [markdown]
# (sec-rnn-memory)=
# ## How far back does it look?
#
# "In principle" the state depends on everything. In practice? Cut the validation plays into pieces of 256 tokens, and
# enter each with an empty state. At its $j$-th position the network has read $j$ tokens. The answers from before had at
# least 128 tokens more. The difference in cost is what they are worth beyond the last $j$. It is measured on the same
# tokens, so it is precise.

# %% mystnb={"figure": {"name": "fig-rnn-context", "caption": "What the LSTM pays, in bits per token, for knowing only the last j tokens instead of 128 more, by j; mean and 95 % band over 843 pieces of the validation plays."}, "image": {"alt": "Line chart with a logarithmic horizontal axis. The extra cost is about one bit with a single token of context, falls steeply to a tenth of a bit at about eight tokens, and cannot be told from zero from about thirty on."}}
pieces = ids["validation"][:-1].unfold(0, 256, 256)
following = ids["validation"][1:].unfold(0, 256, 256)
with torch.no_grad(), threads():
    tables = (lstm(part).log_softmax(-1) for part in pieces.split(16))
    parts = zip(tables, following.split(16), strict=True)
    fresh = torch.cat([table.gather(-1, f[..., None])[..., 0] for table, f in parts])
carried = known["LSTM"]["validation"][0].unfold(0, 256, 256)
extra = (carried - fresh).double() / math.log(2)
borders = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
spans = [extra[:, a:b].mean(1) for a, b in pairwise(borders)]
cost = [span.mean().item() for span in spans]
error = [2 * span.std().item() / len(extra) ** 0.5 for span in spans]
low, high = zip(*((c - e, c + e) for c, e in zip(cost, error, strict=True)), strict=True)
bands = {"LSTM": (low, high)}
labels = "tokens of context, at most", "extra bits per token"
plots.plain_ticks(plots.lines(borders[1:], {"LSTM": cost}, *labels, "x", bands), "x")
for b, c in zip(borders[1:5], cost, strict=False):
    print(f"up to {b} tokens: {c:.1f} bits")

# %% [markdown]
# {numref}`fig-rnn-context`: most of the value lies in the last few tokens, which is why an n-gram model of order 5 is
# such a strong opponent. A little is left beyond the window of an n-gram, between five and sixteen tokens, and nothing
# that we can measure beyond thirty: this network is small and has read its text less than once. Sharp nearby, fuzzy far
# away,
# Khandelwal and colleagues called it, for larger LSTMs whose reach was about 200 words {cite}`khandelwal2018`.
#
# The gates that do this are in plain sight. A forget gate whose mean is $\bar f$ keeps a memory for about $1/(1 - \bar
# f)$ tokens. For each of the LSTM's units we average the gate over some pages, and sort.


# %%
def walk(model, rows, change=lambda state: state):
    """States (h, c) after each token of `rows` by our own cell; `change` may rewrite a state on the way."""
    h = torch.zeros(len(rows), model.config.d_model)
    cell = lambda x, state, *weights: change(lstm_cell(x, state, *weights))
    with torch.no_grad():
        states = unroll(cell, model.embed(rows), (h, h), *model.layers.all_weights[0])
    return tuple(torch.stack(part, 1) for part in zip(*states, strict=True))


rows = ids["validation"][: 64 * 400].view(64, 400)
with threads():
    h, c = walk(lstm, rows)
logits = h @ lstm.embedding.weight.T + lstm.bias
torch.testing.assert_close(logits, lstm(rows), rtol=1e-3, atol=1e-3)

# %% mystnb={"figure": {"name": "fig-rnn-forget", "caption": "Memory spans of the trained LSTM's units: 1 / (1 - mean forget gate), in tokens, sorted; vertical axis logarithmic. Beside them, the span of every unit before training."}, "image": {"alt": "A curve that rises from about 1 token to a hundred tokens or more from the shortest to the longest unit, beside a flat line near 4 tokens, the span at the start of training."}} tags=["nbval-ignore-output"]
W, U, b, b2 = (w.detach() for w in lstm.layers.all_weights[0])
H, before = lstm.config.d_model, F.pad(h[:, :-1], (0, 0, 1, 0))
f = slice(H, 2 * H)  # the forget gate's rows
gate = torch.sigmoid(lstm.embed(rows).detach() @ W[f].T + before @ U[f].T + (b + b2)[f])
span = (1 / (1 - gate.mean((0, 1)))).sort().values
series = {"trained": span, "before training": [1 / (1 - 1 / (1 + math.exp(-1)))] * H}
plots.plain_ticks(plots.lines(range(H), series, "unit, sorted", "memory span, tokens", "y"), "y")
for share in (0.1, 0.5, 0.9):
    print(f"{share:.0%} of the units: below {span[int(share * H)]:.1f} tokens")

# %% [markdown]
# Training has spread the units out ({numref}`fig-rnn-forget`). All began with the span of a forget bias of 1, less than
# four tokens. Now some are rewritten at every token, and some hold on for dozens: a filing system with short and long
# shelves, which no one designed.
#
# (sec-rnn-units)=
# ## What does a unit know?
#
# Karpathy and colleagues found LSTM cells that one can read: one that counts the position in the line, one that
# switches inside quotation marks {cite}`karpathy2016rnn`. Such finds are easily overrated. Look long enough through
# hundreds of units, and one will fit anything. So we fix the question beforehand, search on one half of the pages, and
# report the other half. Four things that a writer of plays has to keep track of:
#
# - *line*: characters since the line began (verse lines are of similar length, and end);
# - *speech*: lines since the speaker was named;
# - *bracket*: whether we are inside a stage direction, `[Exit.]`;
# - *name*: whether we are inside a speaker's name.


# %%
def tracks(stream):
    """For each token, after it: characters in the line, lines in the speech, in brackets?, in a name?"""
    found, column, line, bracket, name = [], 0, 0, 0, 0
    for token in stream.tolist():
        for letter in tokenizer.token_bytes(token).decode(errors="replace"):
            name = (column == line == 0 and letter.isupper()) or (name and letter != ".")
            bracket = letter == "[" or (bracket and letter != "]")
            line = 0 if letter == "\n" and column == 0 else line + (letter == "\n" and not name)
            column = 0 if letter == "\n" else column + 1
        found.append((column, line, bracket, name))
    return torch.tensor(found, dtype=torch.float32)


def late(values):
    """The rows of a (B, T, ...) tensor as one, without the first 50 tokens, which lack context."""
    return values[:, 50:].flatten(0, 1)


names = ("line", "speech", "bracket", "name")
facts, memory = late(tracks(rows.flatten()).view(64, 400, 4)), late(c)
half = len(facts) // 2
means = facts.double().mean(0).round(decimals=2).tolist()
print("mean of each:", dict(zip(names, means, strict=True)))


# %%
def correlation(units, fact):
    units, fact = units - units.mean(0), fact - fact.mean()
    return (units * fact[:, None]).sum(0) / (units.norm(dim=0) * fact.norm() + 1e-9)


def probe(features):
    """Share of variance that a straight-line fit on the first half explains on the second half, for each fact."""
    features = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    weights = torch.linalg.lstsq(features[:half], facts[:half].double()).solution
    rest, missed = facts[half:].double(), facts[half:] - features[half:] @ weights
    return 1 - missed.square().sum(0) / (rest - rest.mean(0)).square().sum(0)


torch.manual_seed(0)
random_lstm = RNNLM(lstm.config)
with threads():
    untrained, token = late(walk(random_lstm, rows)[1]), late(lstm.embed(rows).detach())
    probes = [probe(features) for features in (memory, untrained, token)]

# %% mystnb={"figure": {"name": "tab-rnn-units", "caption": "What the memory of the trained LSTM holds. Correlation of the best single unit, on the half where it was sought and on the other half; then the share of variance that all units together explain on the other half (linear probe), beside two controls: an untrained LSTM, and the current token alone."}} tags=["nbval-ignore-output"]
table, best = [], {}
for j, name in enumerate(names):
    seek = correlation(memory[:half], facts[:half, j]).abs()
    check = correlation(memory[half:], facts[half:, j]).abs()
    best[name] = u = int(seek.argmax())
    table.append((name, seek[u].item(), check[u].item(), *(p[j].item() for p in probes)))
heads = ["fact", "best unit, sought", "other half", "all units", "untrained", "token alone"]
Markdown(tabulate(table, heads, tablefmt="pipe", floatfmt="z.1f"))  # z: no minus before a zero

# %% [markdown]
# The probe reads all four facts from the memory of the trained network better than from the current token
# ({numref}`tab-rnn-units`), and, which is the control that matters, better than from an *untrained* LSTM: a random
# network is already a sort of memory. Single units are another matter. For the line there is one that follows it
# closely; {numref}`fig-rnn-unit` shows it at work. For the other facts the best unit is a fainter echo: the
# knowledge is there, and spread over many units. Cells that one can read are the exception.

# %% mystnb={"figure": {"name": "fig-rnn-unit", "caption": "The unit of the LSTM that follows the position in the line best, over 100 tokens of a validation play, scaled to mean 0 and standard deviation 1 (sign chosen to match), beside the characters since the line began."}, "image": {"alt": "Two sawtooth curves over 100 tokens. The number of characters since the line began rises and drops to zero at each new line. The unit's value follows, less regularly, and is reset at most line ends."}} tags=["nbval-ignore-output"]
unit = best["line"]
sign = correlation(memory, facts[:, 0])[unit].sign()
shown = slice(3500, 3600)
series = {"unit": sign * memory[:, unit], "characters in the line": facts[:, 0]}
series = {name: ((y - y.mean()) / y.std())[shown] for name, y in series.items()}
plots.lines(range(100), series, "token", "standard deviations")
print(f"correlation of the two, on the other half: {table[0][2]:.1f}")

# %% [markdown]
# That a unit *follows* the line does not show that the network *uses* it ({ref}`err-attention-explains`). For that we
# have to reach in. While the network reads, we overwrite this one unit after every token: with a value typical of the
# start of a line, and with one typical of its end. If the network uses the unit, it should think a line break less
# likely in the first case and more likely in the second. Every twenty-fifth unit, pushed in the same way between its
# own low and high values, is the control.

# %% tags=["nbval-ignore-output"]
starts_line = [i for i in range(V) if tokenizer.token_bytes(i).startswith(b"\n")]


def break_probability(unit, value):
    def change(state):
        return state[0], state[1].index_fill(1, torch.tensor([unit]), value)

    h, _ = walk(lstm, rows[:16, :150], change)
    logits = h[:, 50:] @ lstm.embedding.weight.T + lstm.bias
    return logits.softmax(-1)[..., starts_line].sum(-1).mean().item()


def effect(unit):
    ends = memory[:, unit].quantile(torch.tensor([0.05, 0.95])).tolist()
    low, high = ends if correlation(memory, facts[:, 0])[unit] > 0 else ends[::-1]
    return math.log2(break_probability(unit, high) / break_probability(unit, low))


with torch.no_grad(), threads():
    pushed = effect(unit)
    others = sorted(effect(u) for u in range(0, H, H // 10) if u != unit)
print(f"from start to end of a line, the line unit: {pushed:+.1f} bits on a line break")
print(f"other units: from {others[0]:+z.2f} to {others[-1]:+z.2f} bits")

# %% [markdown]
# Between the two pushes the probability of a line break doubles, one bit; pushing the control units hardly changes
# it. So the network does use what the unit knows.
#
# (sec-rnn-limit)=
# ## What a state cannot hold
#
# The LSTM looks further back than the table, and is still a strange reader. All that it knows of the past must fit
# into one vector, whose size is fixed before the first word is read. A reader who has to copy out a list looks *back*
# at the list. Let us see how a network fares that cannot. It reads $m$ random letters, then a mark, then must write
# the letters down.

# %%
LETTERS, MARK = 16, 16


def lists(n, m, rng):
    items = torch.randint(LETTERS, (n, m), generator=rng)
    return torch.cat([items, torch.full((n, 1), MARK), items], 1)


def copier(width, seed, longest=12, steps=500):
    torch.manual_seed(seed)
    model = RNNLM(RNNConfig(LETTERS + 1, width, cell="gru"))
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(steps):
        made = lists(64, m := int(torch.randint(1, longest + 1, (1,), generator=rng)), rng)
        optimizer.zero_grad()
        loss(model(made[:, :-1])[:, m:], made[:, m + 1 :]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def recall(model, m):
    made = lists(256, m, torch.Generator().manual_seed(7))
    with torch.no_grad():
        return (model(made[:, :-1])[:, m:].argmax(-1) == made[:, m + 1 :]).float().mean().item()


# %% mystnb={"figure": {"name": "fig-rnn-copy", "caption": "Share of the letters of a list that a GRU of 16, 32 or 64 units writes down correctly, by the length of the list; mean and range of three seeds. Guessing scores 1/16."}, "image": {"alt": "Line chart: accuracy falls with the length of the list for all three widths, sooner the narrower the state."}}
lengths = [1, 2, 3, 4, 6, 8, 10, 12]
copies = {}
for width in (16, 32, 64):
    runs = [copier(width, seed) for seed in SEEDS]
    copies[f"{width} units"] = [[recall(model, m) for m in lengths] for model in runs]
plots.lines(lengths, middle(copies), "m, letters in the list", "accuracy", bands=ranges(copies))
for name, mean in middle(copies).items():
    print(f"{name}: m = 2, 4, 8:", [round(mean[lengths.index(m)].item(), 1) for m in (2, 4, 8)])

# %% [markdown]
# The longer the list, the less of it survives, and a wider state helps only so far ({numref}`fig-rnn-copy`). Counting
# bits, 64 numbers could hold hundreds of letters; what gradient descent finds in these 500 steps holds a handful.
# This is the wall that translation ran into. A sentence had to be pressed into one vector before its translation could
# begin {cite}`cho2014,sutskever2014`. In Cho's model long sentences suffered, until Bahdanau and colleagues let the
# network look back at all earlier states and choose {cite}`bahdanau2015`. That look back is called {term}`attention`,
# and the next chapter derives it.
#
# There is a second wall, of time. In {eq}`eq-rnn-elman` step $t$ cannot start before step $t - 1$ is done. A hundred
# processors can share the work of one step, and no more. Scoring by counts has no such order, and neither has
# attention.

# %% tags=["nbval-ignore-output"]
for T in (64, 4096):
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        with torch.no_grad():
            lstm(ids["train"][:4096].view(-1, T))
        took.append(time.perf_counter() - begin)
    print(f"4,096 tokens as rows of {T:,}: {1000 * min(took):.0f} ms")

# %% [markdown]
# The same 4,096 tokens and the same arithmetic; the difference is how many steps must wait for each other.
#
# ## The answer
#
# *What can a network learn that a table cannot hold?* That some words are alike, so that a lesson about one serves
# another; and that some words do not matter, so that a rule learnt over six words holds over sixty. *How far back does
# it remember?* As far as its gradient could reach while it learnt. For a plain network that is a few steps, for a gated
# one with open gates a few dozen and more. On Shakespeare most of the gain comes from the last dozen tokens
# ({numref}`fig-rnn-context`). On the one ruler the LSTM stands at {glue:text}`rnn_test_lstm:.2f` bits per byte, beside
# {glue:text}`rnn_test_kn:.2f` for counting, and {glue:text}`rnn_test_mix:.2f` for the two together.
#
# ## What we learnt
#
# - A softmax bigram network trained to the end *is* the count table. Its gradient is model minus text; stopping early
#   smooths.
# - Embeddings share parameters among words. One lesson about a word moves its neighbours.
# - A recurrent network carries a state of fixed size and has no window. It is one cell with one set of weights, applied
#   at every token; a recursive network is something else.
# - Back-propagation through time is a walk backwards that multiplies by a Jacobian per step. Products of $k$ matrices
#   vanish, or explode, exponentially in $k$. Clipping cures the second only.
# - Gates replace the matrix on the direct path by a number between 0 and 1. They help when they are open, and that is a
#   matter of initial values as well as of architecture.
# - LSTM, GRU and Transformer are architectures. Gradient descent is the algorithm, and it is the same for all.
# - With little computing time, counting wins. The two kinds of model make different mistakes, so mixing them helps.
# - A claim about what a unit does needs held-out pages, an untrained control, and an intervention.
#
# ## Exercises
#
# ```{exercise} Where are the parameters?
# :label: ex-rnn-parameters
#
# Write `cell_size(cell, d_in, d_state)`: the number of parameters of one layer of `"rnn"`, `"gru"` or `"lstm"`, with
# PyTorch's two bias vectors, without building the layer.
# ```


# %% tags=["exercise"]
def cell_size(cell, d_in, d_state):
    """The number of parameters of one recurrent layer."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def cell_size(cell, d_in, d_state):
    """The number of parameters of one recurrent layer."""
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    return gates * d_state * (d_in + d_state + 2)


# %% tags=["check"]
for cell, kernel in KERNELS.items():
    for d_in, d_state in ((1, 1), (3, 5), (7, 2), (64, 64)):
        assert cell_size(cell, d_in, d_state) == parameters(kernel(d_in, d_state)), cell
print("LSTM of width 384:", cell_size("lstm", 384, 384))

# %% [markdown]
# ```{exercise} Clip
# :label: ex-rnn-clip
#
# Write `clipped(gradients, threshold)`: the list of gradients after {eq}`eq-rnn-clip`, where $\|g\|$ is the length of
# *all* gradients together, as one long vector. Return new tensors.
# ```


# %% tags=["exercise"]
def clipped(gradients, threshold):
    """Gradients (a list of tensors), shortened together to the threshold where they are longer."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def clipped(gradients, threshold):
    """Gradients (a list of tensors), shortened together to the threshold where they are longer."""
    length = math.sqrt(sum(g.square().sum().item() for g in gradients))
    return [g * min(1.0, threshold / length) if length > 0 else g.clone() for g in gradients]


# %% tags=["check"]
pair = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0], [-4.0]])]  # length 5
short, same = clipped(pair, 1.0), clipped(pair, 10.0)
torch.testing.assert_close(short[0], torch.tensor([0.6, 0.0]))
torch.testing.assert_close(short[1], torch.tensor([[0.0], [-0.8]]))
assert all(map(torch.equal, same, pair)), "a short gradient stays as it is"
assert not any(a is b for a, b in zip(same, pair, strict=True)), "return new tensors"
assert pair[0][0] == 3.0, "the input must not change"
assert clipped([torch.zeros(2)], 1.0)[0].tolist() == [0, 0], "a gradient of zero has no direction"

# %% [markdown]
# ```{exercise} Truncated back-propagation
# :label: ex-rnn-truncated
#
# Write `truncated(x, h, slopes, U, k)`: the gradient by $U$ as in `bptt`, but where the loss at step $t$ is followed
# back over the last $k$ uses of $U$ only, those at steps $t, t-1, \dots, t-k+1$. With `k` as long as the text it is
# the exact gradient.
# ```


# %% tags=["exercise"]
def truncated(x, h, slopes, U, k):
    """The gradient by U of each loss, through its last k steps only; arguments as for bptt."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def truncated(x, h, slopes, U, k):
    """The gradient by U of each loss, through its last k steps only; arguments as for bptt."""
    grad = torch.zeros_like(U)
    for end in range(len(x)):
        back = slopes[end]
        for t in range(end, max(-1, end - k), -1):
            delta = (1 - h[t + 1] ** 2) * back
            grad += torch.outer(delta, h[t])
            back = U.T @ delta
    return grad


# %% tags=["check"]
torch.manual_seed(1)
x, targets = torch.randn(T := 12, 3, dtype=torch.float64), torch.randint(5, (T,))
W, U, readout = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 3), (4, 4), (5, 4)))
zero = torch.zeros(1, 4, dtype=torch.float64)
states = torch.cat([zero, *unroll(rnn_cell, x[None], zero, W, U, zero[0], zero[0])])
slopes = ((states[1:] @ readout.T).softmax(1) - F.one_hot(targets, 5)) @ readout
full = bptt(x, states, slopes, U)[0]
torch.testing.assert_close(truncated(x, states, slopes, U, T), full)
one = sum(torch.outer((1 - states[t + 1] ** 2) * slopes[t], states[t]) for t in range(T))
torch.testing.assert_close(truncated(x, states, slopes, U, 1), one)
two = one.clone()
for t in range(1, T):
    delta = (1 - states[t] ** 2) * (U.T @ ((1 - states[t + 1] ** 2) * slopes[t]))
    two += torch.outer(delta, states[t - 1])
torch.testing.assert_close(truncated(x, states, slopes, U, 2), two)
missing = [(truncated(x, states, slopes, U, k) - full).norm().item() for k in range(1, T + 1)]
assert missing[1] > 1e-6 > missing[-1], "two steps are not the whole way"
errors = [f"{missing[k - 1] / full.norm().item():.2f}" for k in (1, 2, 4, 8)]
print("relative error, k = 1, 2, 4, 8:", errors)

# %% [markdown]
# ```{exercise} A counter, without training
# :label: ex-rnn-counter
#
# An LSTM can count; that sets it apart from the GRU, whose state is squashed at every step {cite}`weiss2018`. Choose
# the weights of an LSTM with **one** unit by hand, so that its memory $c$ is the number of opening minus the number
# of closing brackets read so far. The input is a pair, (1, 0) for an opening bracket, (0, 1) for a closing one, (0,
# 0) for anything else. Write `counter()`: it returns `weight_ih` (4, 2), `weight_hh` (4, 1), `bias_ih` (4,),
# `bias_hh` (4,) in float64, with the gates in the order i, f, g, o. A gate with a large bias is open.
# ```


# %% tags=["exercise"]
def counter():
    """Weights of a one-unit LSTM whose memory counts brackets: weight_ih, weight_hh, bias_ih, bias_hh."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def counter():
    """Weights of a one-unit LSTM whose memory counts brackets: weight_ih, weight_hh, bias_ih, bias_hh."""
    weight_ih = torch.tensor([[0, 0], [0, 0], [50, -50], [0, 0]], dtype=torch.float64)
    bias = torch.tensor(
        [50, 50, 0, 50], dtype=torch.float64
    )  # i, f and o always open; g = +1, -1 or 0
    return weight_ih, torch.zeros(4, 1, dtype=torch.float64), bias, torch.zeros_like(bias)


# %% tags=["check"]
for line in ("(" * 40 + ")" * 15, "())(((a)))b", "no brackets", "(()("):
    x = torch.tensor([[[c == "(", c == ")"] for c in line]], dtype=torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    found = [c.item() for _, c in unroll(lstm_cell, x, (zero, zero), *counter())]
    depth = [line[: i + 1].count("(") - line[: i + 1].count(")") for i in range(len(line))]
    assert max(abs(a - b) for a, b in zip(found, depth, strict=True)) < 0.01, (line, found)
print(f"depth along {line} :", depth)

# %% [markdown]
# ```{exercise} Padding must not matter
# :label: ex-rnn-padding
#
# Sentences of different lengths share a batch by padding on the right. Write `last_states(model, rows)`: the state
# $h$ of a one-layer `RNNLM` with GRU cells after the last *real* token of each of `rows` (lists of ids), as a tensor
# (B, H), with a single call of `model.layers` on the padded batch.
# ```


# %% tags=["exercise"]
def last_states(model, rows):
    """The GRU's state after each row's own last token, from one padded batch."""
    raise NotImplementedError("your turn")


# %% tags=["solution", "hide-cell"]
def last_states(model, rows):
    """The GRU's state after each row's own last token, from one padded batch."""
    longest = max(map(len, rows))
    batch = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    outputs = model.layers(model.embed(batch))[0]  # (B, T, H): for a GRU, the states themselves
    return torch.stack([outputs[i, len(row) - 1] for i, row in enumerate(rows)])


# %% tags=["check"]
gru, some = models["GRU"], [[5, 6, 7], [8, 0], [9, 10, 11, 12, 13]]  # 0 may be a real id
alone = torch.cat([gru.layers(gru.embed(torch.tensor([row])))[1][0] for row in some])
calls = []
hook = gru.layers.register_forward_hook(lambda *_: calls.append(1))
torch.testing.assert_close(last_states(gru, some), alone)
hook.remove()
assert len(calls) == 1, "one call of model.layers"
torch.testing.assert_close(last_states(gru, some[::-1]), alone.flip(0))
cache, longest = gru.new_cache(3), max(map(len, some))
gru(torch.tensor([row + [0] * (longest - len(row)) for row in some]), cache)
cache.keep(torch.tensor([len(row) for row in some]))  # minilm's cache walks back over padding
torch.testing.assert_close(cache.state[0], alone)

# %% [markdown]
# ## Further reading
#
# - Bengio and colleagues {cite}`bengio2003` is the paper to read first: embeddings, the curse, and a mixture with a
#   trigram, four years before a paper had "Large Language Models" in its title {cite}`brants2007`.
# - Pascanu and colleagues {cite}`pascanu2013` on exploding gradients and clipping; Bengio and colleagues
#   {cite}`bengio1994` on why long memories are hard for gradient descent as such.
# - Hochreiter and Schmidhuber {cite}`hochreiter1997`, Gers and colleagues {cite}`gers2000`, Cho and colleagues
#   {cite}`cho2014`: the gates. Jozefowicz and colleagues {cite}`jozefowicz2015` tried ten thousand other cells.
# - Karpathy and colleagues {cite}`karpathy2016rnn` look into the units; Weiss and colleagues {cite}`weiss2018` say
#   which cells can count.
# - Merity and colleagues {cite}`merity2018` show how good an LSTM becomes with care, and Jozefowicz and colleagues
#   {cite}`jozefowicz2016` how good with a billion parameters.
# - Goodfellow, Bengio and Courville {cite}`goodfellow2016` have a textbook chapter on recurrent networks.
