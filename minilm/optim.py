"""From gradients to better weights: AdamW and Muon written out, learning-rate schedules, clipping.

Each rule is a pure function first, new values from old ones; a class below it keeps the state of a whole model. At run
time AdamW is PyTorch's fused kernel, and Muon works on all matrices of one shape at once; the tests hold both equal to
the functions and to ``torch.optim``.

Not here: the loop that calls them (``minilm.train``). Letters: D rows and E columns of a matrix, N of them.
References: Loshchilov & Hutter 2019 (AdamW); Jordan et al. 2024 (Muon); Liu et al. 2025 (its scale); Loshchilov &
Hutter 2017 (cosine); Pascanu et al. 2013 (clipping).
"""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .attention import Attention

EPS = 1e-8
"""Added to the denominator of AdamW."""

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of one Newton-Schulz step: chosen by Jordan for a steep slope at 0, not for convergence to 1."""


# Update rules


def adamw(
    parameter: Float[Tensor, "*D"],
    gradient: Float[Tensor, "*D"],
    mean: Float[Tensor, "*D"],
    square: Float[Tensor, "*D"],
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
) -> tuple[Float[Tensor, "*D"], Float[Tensor, "*D"], Float[Tensor, "*D"]]:
    """One step of AdamW: the new parameter, and the new running means of the gradient and of its square.

    Both means start at zero, which `step` (from 1) corrects. Decay shrinks the weights and never enters the means.

    >>> zero = torch.zeros(2)
    >>> adamw(torch.ones(2), torch.tensor([5.0, -0.01]), zero, zero, step=1, lr=0.1, weight_decay=0.0)[0]
    tensor([0.9000, 1.1000])
    """
    mean = betas[0] * mean + (1 - betas[0]) * gradient
    square = betas[1] * square + (1 - betas[1]) * gradient.square()
    direction = (mean / (1 - betas[0] ** step)) / ((square / (1 - betas[1] ** step)).sqrt() + EPS)
    return parameter - lr * (weight_decay * parameter + direction), mean, square


def orthogonalize(
    x: Float[Tensor, "*N D E"], steps: int = 5, coefficients: tuple[float, float, float] = QUINTIC
) -> Float[Tensor, "*N D E"]:
    """Push every singular value of a matrix towards 1 and leave its singular vectors alone, by products of matrices.

    Newton-Schulz: ``X <- a X + b (X X^T) X + c (X X^T)^2 X`` sends each singular value s to ``a s + b s^3 + c s^5``.
    Five steps bring all but the smallest to 0.7 ... 1.2, which is near enough for a direction.

    >>> orthogonalize(torch.diag(torch.tensor([3.0, 0.3]))).round(decimals=2)
    tensor([[0.7000, 0.0000],
            [0.0000, 0.7100]])
    """
    a, b, c = coefficients
    if x.shape[-2] > x.shape[-1]:
        return orthogonalize(x.mT, steps, coefficients).mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def orthogonalize_stack(
    x: Float[Tensor, "N D E"], steps: int = 5, coefficients: tuple[float, float, float] = QUINTIC
) -> Float[Tensor, "N D E"]:
    """`orthogonalize` of many matrices in less time: the steps are taken on the small square matrix ``X X^T`` alone.

    Every step multiplies X from the left by a polynomial of ``X X^T``. These polynomials commute, so they can be
    multiplied up first, and X itself is touched twice in place of ten times.
    """
    a, b, c = coefficients
    if x.shape[-2] > x.shape[-1]:
        return orthogonalize_stack(x.mT, steps, coefficients).mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram, product = x @ x.mT, None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    return x if product is None else product @ x


def muon(
    parameter: Float[Tensor, "*N D E"],
    gradient: Float[Tensor, "*N D E"],
    mean: Float[Tensor, "*N D E"],
    lr: float,
    momentum: float = 0.95,
    weight_decay: float = 0.1,
) -> tuple[Float[Tensor, "*N D E"], Float[Tensor, "*N D E"]]:
    """One step of Muon: the new matrix, and the new running mean of its gradient.

    The step is the orthogonalised mean, scaled so that its entries have a root mean square of 0.2, which is AdamW's
    usual size: one learning rate then serves both.
    """
    mean = momentum * mean + (1 - momentum) * gradient
    ahead = momentum * mean + (1 - momentum) * gradient  # Nesterov: as if the next gradient were this one
    direction = orthogonalize(ahead) * rms_scale(parameter.shape)
    return parameter * (1 - lr * weight_decay) - lr * direction, mean


def rms_scale(shape: Sequence[int]) -> float:
    """What an orthogonal matrix is multiplied by so that its entries have a root mean square of 0.2."""
    return 0.2 * max(shape[-2:]) ** 0.5


# The same for all parameters of a model


class AdamW(torch.optim.Optimizer):
    """`adamw` on every parameter; ``fused=False`` calls the function above in place of PyTorch's kernel."""

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        fused: bool = True,
        **defaults,
    ):
        self.fused = fused
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, **defaults})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.update(group, params, [p.grad for p in params])

    def update(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        means, squares = self.running("mean", params), self.running("square", params)
        steps = self.running("step", params, like=torch.zeros(()))
        torch._foreach_add_(steps, 1)
        if self.fused:
            (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
            torch._fused_adamw_(
                params, grads, means, squares, [], steps,
                lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=EPS, amsgrad=False, maximize=False,
            )  # fmt: skip
            return
        how = group["lr"], group["betas"], group["weight_decay"]
        for p, g, mean, square, step in zip(params, grads, means, squares, steps, strict=True):
            for old, new in zip((p, mean, square), adamw(p, g, mean, square, int(step), *how), strict=True):
                old.copy_(new)

    def running(self, name: str, params: list[Tensor], like: Tensor | None = None) -> list[Tensor]:
        """The state called ``name`` of each parameter, zero at first."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p) if like is None else like.to(p.device, copy=True)
        return [self.state[p][name] for p in params]


class Muon(AdamW):
    """`muon` on groups that say ``"matrices": True``, AdamW on the others.

    ``parts`` of a group cuts each of its matrices into blocks of so many rows that are orthogonalised apart: the
    weights of queries, keys and values share a tensor, not a meaning.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, momentum: float = 0.95, **how):
        super().__init__(params, lr, momentum=momentum, matrices=False, parts=None, **how)

    def update(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        if not group["matrices"]:
            return super().update(group, params, grads)
        means, momentum = self.running("mean", params), group["momentum"]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, means, momentum)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        split = lambda tensors: [m for t in tensors for m in (t.split(group["parts"]) if group["parts"] else (t,))]
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for p, x in zip(split(params), split(ahead), strict=True):
            by_shape.setdefault(p.shape, []).append((p, x))
        for shape, pairs in by_shape.items():
            directions = orthogonalize_stack(torch.stack([x for _, x in pairs]))
            torch._foreach_add_([p for p, _ in pairs], directions.unbind(), alpha=-group["lr"] * rms_scale(shape))


def optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.1,
    kind: str = "adamw",
    betas: tuple[float, float] = (0.9, 0.95),
) -> AdamW:
    """The optimizer of a model: decay on matrices only; for ``kind="muon"``, Muon on the matrices inside blocks.

    Embeddings and the output layer stay with AdamW even then: a row of theirs belongs to one token, and its step
    should not depend on those of all others. Every group keeps its ``peak`` rate beside ``lr``, for a schedule to
    scale. Raises ValueError for an unknown kind, or Muon where there is nothing for it.
    """
    if kind not in ("adamw", "muon"):
        raise ValueError(f"kind={kind!r}: choose 'adamw' or 'muon'")
    inner = {p for m in model.modules() if isinstance(m, nn.ModuleList) for p in m.parameters() if p.dim() == 2}
    if kind == "muon" and not inner:
        raise ValueError("kind='muon' is for matrices in blocks, and the model has no blocks: choose 'adamw'")
    fused = {
        m.qkv.weight: tuple(n * m.d_head for n in (m.n_heads, m.n_kv_heads, m.n_kv_heads))
        for m in model.modules() if isinstance(m, Attention)
    }  # fmt: skip
    groups: dict[tuple, list[Tensor]] = {}
    for p in model.parameters():
        matrices = kind == "muon" and p in inner
        groups.setdefault((p.dim() >= 2, matrices, fused.get(p) if matrices else None), []).append(p)
    return Muon(
        [
            {"params": params, "weight_decay": weight_decay * decays, "matrices": matrices, "parts": parts}
            for (decays, matrices, parts), params in groups.items()
        ],
        lr=learning_rate, betas=betas, peak=learning_rate,
    )  # fmt: skip


# Schedules: a factor of the peak learning rate at each step


def warmup_cosine(step: int, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Up to 1 in a straight line over ``warmup`` steps, then down to ``final`` along half a cosine.

    >>> [round(warmup_cosine(s, steps=8, warmup=2), 3) for s in range(9)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def warmup_linear(step: int, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Up to 1 in a straight line over ``warmup`` steps, then down to ``final`` in another.

    >>> [round(warmup_linear(s, steps=6, warmup=2), 2) for s in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 1 + (final - 1) * min(1.0, (step - warmup) / max(1, steps - warmup))


SCHEDULES = {"cosine": warmup_cosine, "linear": warmup_linear}
"""Schedules by the name a `TrainConfig` gives."""


def clip_grad_norm(params: Iterable[nn.Parameter], largest: float) -> Float[Tensor, ""]:
    """Scale all gradients down together so that their joint length is at most ``largest``; gives the length they had.

    The direction stays. As in PyTorch, 1e-6 is added to the length that is divided by.

    >>> weight = nn.Parameter(torch.zeros(2)); weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm([weight], 1.0), weight.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """
    grads = [p.grad for p in params if p.grad is not None]
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, (largest / (length + 1e-6)).clamp(max=1.0))
    return length
