"""`minilm.optim`: equal to ``torch.optim``, and what no reference says: which parameter gets which rule."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minilm import optim
from minilm.gpt import GPT
from minilm.transformer import Config

SHAPES = [(4, 6), (6, 4), (5, 5), (7,), ()]
SMALL = Config(vocab_size=11, context=8, d_model=8, n_layers=2, n_heads=2)


def parameters(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def descend(params, optimizer, steps=7, factors=None):
    """Some steps on a loss whose gradients change in size and sign."""
    for step in range(steps):
        optimizer.zero_grad()
        sum((p.sin() * (step + 1) + 0.3 * p.square()).sum() for p in params).backward()
        if factors:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * factors[step]
        optimizer.step()
    return [p.detach() for p in params]


def same(ours, theirs, atol=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_equals_torch(fused):
    how = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3}
    ours, theirs = parameters(), parameters()
    same(
        descend(ours, optim.AdamW(ours, fused=fused, **how)),
        descend(theirs, torch.optim.AdamW(theirs, eps=optim.EPS, **how)),
    )


def test_adamw_leaves_alone_what_has_no_gradient():
    used, idle = parameters([(3,), (3,)])
    optimizer, before = optim.AdamW([used, idle], lr=0.1), idle.detach().clone()
    used.square().sum().backward()
    optimizer.step()
    assert torch.equal(idle, before) and idle not in optimizer.state


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_muon_equals_torch(shape, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x)  # torch's Muon, made to work in float64
    how = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}
    ours, theirs, by_hand = parameters([shape]), parameters([shape]), parameters([shape])[0].detach()
    matrices = optim.Muon([{"params": ours, "matrices": True}], **how)
    torchs = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **how)
    same(descend(ours, matrices), descend(theirs, torchs))
    mean = torch.zeros_like(by_hand)
    for step in range(7):
        gradient = by_hand.cos() * (step + 1) + 0.6 * by_hand
        by_hand, mean = optim.muon(by_hand, gradient, mean, **how)
    same([by_hand], [theirs[0].detach()])


def test_muon_is_torchs_in_half_precision_up_to_its_rounding():
    ours, theirs = parameters([(16, 48)], torch.float32), parameters([(16, 48)], torch.float32)
    descend(ours, optim.Muon([{"params": ours, "matrices": True}], lr=0.1, weight_decay=0.0), steps=1)
    descend(theirs, torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), steps=1)
    start = parameters([(16, 48)], torch.float32)[0].detach()
    moved, error = (theirs[0] - start).norm(), (theirs[0] - ours[0]).norm()
    assert 0 < error < 0.02 * moved  # bfloat16 keeps two to three digits


matrices = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))


@given(matrices)
def test_orthogonalize_moves_singular_values_and_nothing_else(shape):
    rows, columns, seed = shape
    x = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    s = s / s.norm()
    a, b, c = optim.QUINTIC
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    same([optim.orthogonalize(x), optim.orthogonalize_stack(x[None])[0]], [u @ s.diag() @ vt] * 2, atol=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_stack_equals_one_by_one_also_where_matrices_have_low_rank(steps):
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 2, 32)
    stacked = optim.orthogonalize_stack(x, steps)
    torch.testing.assert_close(stacked, torch.stack([optim.orthogonalize(m, steps) for m in x]), atol=1e-4, rtol=0)


def test_zero_gradient_gives_no_direction():
    assert torch.equal(optim.orthogonalize_stack(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


def test_queries_keys_and_values_are_orthogonalised_apart():
    torch.manual_seed(0)
    model = GPT(Config(vocab_size=11, context=8, d_model=8, n_layers=2, n_heads=4, n_kv_heads=2)).double()
    weight = model.stack.blocks[1].attention.qkv.weight
    before = weight.detach().clone()
    model(torch.arange(8)[None]).square().sum().backward()
    optim.optimizer(model, 0.1, 0.2, kind="muon").step()
    parts = zip(before.split([8, 4, 4]), weight.grad.split([8, 4, 4]), strict=True)
    expected = [optim.muon(p, g, torch.zeros_like(p), lr=0.1, weight_decay=0.2)[0] for p, g in parts]
    torch.testing.assert_close(weight.detach(), torch.cat(expected), rtol=0, atol=1e-9)


def rules(model, kind):
    """For every parameter: whether Muon moves it, and its decay."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = optim.optimizer(model, 0.1, 0.2, kind=kind).param_groups
    assert all(group["lr"] == group["peak"] == 0.1 for group in groups)
    return {names[id(p)]: (g["matrices"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_every_parameter_gets_one_rule():
    for tied in (True, False):
        model = GPT(Config(**{**vars(SMALL), "tied": tied}))
        for kind in ("adamw", "muon"):
            found = rules(model, kind)
            assert found.keys() == {name for name, _ in model.named_parameters()}
            for name, p in model.named_parameters():
                inside = name.startswith("stack.blocks") and p.dim() == 2
                assert found[name] == (kind == "muon" and inside, 0.2 if p.dim() == 2 else 0.0), name
    with pytest.raises(ValueError, match="kind='sgd': choose 'adamw' or 'muon'"):
        optim.optimizer(model, 0.1, kind="sgd")
    with pytest.raises(ValueError, match="no blocks: choose 'adamw'"):
        optim.optimizer(nn.Linear(2, 2), 0.1, kind="muon")


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_goes_to_disk_and_back_bit_for_bit(kind, tmp_path):
    def steps(model, optimizer, first, last):
        for step in range(first, last):
            optimizer.zero_grad()
            ids = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(step))
            model(ids).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = GPT(SMALL)
    halves, rest = copy.deepcopy(whole), GPT(SMALL)
    steps(whole, optim.optimizer(whole, 0.01, kind=kind), 0, 6)
    first, second = optim.optimizer(halves, 0.01, kind=kind), optim.optimizer(rest, 0.01, kind=kind)
    steps(halves, first, 0, 3)
    torch.save(first.state_dict(), tmp_path / "state")
    rest.load_state_dict(halves.state_dict())
    second.load_state_dict(torch.load(tmp_path / "state"))
    steps(rest, second, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


def torchs_schedule(name, steps, warmup, final):
    """The factors that ``torch.optim.lr_scheduler`` gives, one a step."""
    from torch.optim import lr_scheduler as lr

    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    down = {
        "cosine": lambda: lr.CosineAnnealingLR(optimizer, steps - warmup, eta_min=final),
        "linear": lambda: lr.LinearLR(optimizer, 1.0, final, steps - warmup),
    }[name]
    if warmup:
        up = lr.LinearLR(optimizer, 1 / warmup, 1.0, max(1, warmup - 1))
        schedule = lr.SequentialLR(optimizer, [up, down()], [warmup])
    else:
        schedule = down()
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return factors


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize(("warmup", "final"), [(0, 0.0), (3, 0.1), (5, 0.5)])
@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch's own SequentialLR calls its parts with it
def test_schedules_equal_torch(name, warmup, final):
    ours = [optim.SCHEDULES[name](step, 20, warmup, final) for step in range(20)]
    torch.testing.assert_close(ours, torchs_schedule(name, 20, warmup, final), rtol=0, atol=1e-12)


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0, 1), st.sampled_from(sorted(optim.SCHEDULES)))
def test_schedules_rise_then_fall_to_the_final_share(steps, warmup, final, name):
    factors = [optim.SCHEDULES[name](step, steps, warmup, final) for step in range(steps + 3)]
    up, down = factors[:warmup], factors[warmup:]
    assert up == sorted(up) and down == sorted(down, reverse=True)
    assert all(0 < f <= 1 for f in up) and all(final - 1e-12 <= f <= 1 for f in down)
    if steps > warmup:
        assert math.isclose(factors[steps], final, abs_tol=1e-12)


@pytest.mark.parametrize("largest", [0.5, 1e3])
def test_clipping_equals_torch(largest):
    ours, theirs = parameters(), parameters()
    for params in (ours, theirs):
        sum(p.square().sum() for p in params).backward()
    length = optim.clip_grad_norm(iter(ours), largest)
    expected = nn.utils.clip_grad_norm_(theirs, largest)
    same([length, *(p.grad for p in ours)], [expected, *(p.grad for p in theirs)])
