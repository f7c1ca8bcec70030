"""Blocks against PyTorch's own Transformer layers, the accounting against PyTorch's counters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config, configs, randomised
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minilm.attention import causal_mask
from minilm.gpt import GPT
from minilm.transformer import Block, Stack, flops, parameters

B, T, S, D = 2, 5, 7, 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "batch"}, "norm='batch': choose one of 'layer', 'rms'"),
        ({"activation": "swish"}, "activation='swish': choose one of 'relu'"),
        ({"positions": "alibi"}, "positions='alibi': choose one of 'learned'"),
        ({"vocab_size": 0}, "vocab_size=0: must be 1 or more"),
        ({"context": -1}, "context=-1: must be 1 or more"),
        ({"dropout": 1.0}, "dropout=1.0: a share"),
        ({"conv": -1}, "conv=-1: the number of earlier tokens"),
        ({"n_heads": 16, "positions": "rotary"}, "a head has 1 entries: make it even"),
    ],
)
def test_config_refuses_what_no_model_can_be(fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="n_heads=3"):
        Block(config(n_heads=3))


# Equal to PyTorch's layers

PAIRS = {"linear1": "mlp.inner", "linear2": "mlp.outer", "self_attn.in_proj_": "attention.qkv."}
PAIRS |= {"self_attn.out_proj": "attention.out", "norm1": "norm1"}
ENCODER = PAIRS | {"norm2": "norm2"}
DECODER = PAIRS | {"multihead_attn.in_proj_": "cross.qkv.", "multihead_attn.out_proj": "cross.out"}
DECODER |= {"norm2": "norm_cross", "norm3": "norm2"}


def twin(theirs: nn.Module, names: dict[str, str], **kind) -> Block:
    """Our block with the weights of one of PyTorch's layers."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        (part,) = (part for part in names if name.startswith(part))
        state[name.replace(part, names[part])] = tensor
    block = Block(config(activation="relu", **kind), cross="cross.out" in names.values()).double()
    block.load_state_dict(state)
    return block


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_encoder_block_is_torchs_encoder_layer(norm_first, causal):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(D, 4, 4 * D, dropout=0.0, batch_first=True, norm_first=norm_first)
    ours = twin(randomised(theirs), ENCODER, norm_first=norm_first)
    x = torch.randn(B, T, D, dtype=torch.float64)
    expected = theirs(x, src_mask=~causal_mask(T, T) if causal else None)  # there, True means may not look
    torch.testing.assert_close(ours(x, causal=causal), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_block_is_torchs_decoder_layer(norm_first):
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(D, 4, 4 * D, dropout=0.0, batch_first=True, norm_first=norm_first)
    ours = twin(randomised(theirs), DECODER, norm_first=norm_first)
    x, memory = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, S, D, dtype=torch.float64)
    padded = torch.arange(S) >= torch.tensor([[S], [4]])  # the second memory has 4 real positions
    expected = theirs(x, memory, tgt_mask=~causal_mask(T, T), memory_key_padding_mask=padded)
    y = ours(x, memory, memory_mask=~padded[:, None, None], causal=True)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm_first", [False, True])
def test_stack_is_torchs_encoder(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(D, 4, 4 * D, dropout=0.0, batch_first=True, norm_first=norm_first)
    last = nn.LayerNorm(D) if norm_first else None
    theirs = randomised(nn.TransformerEncoder(layer, 3, last, enable_nested_tensor=False))
    ours = Stack(config(activation="relu", n_layers=3, norm_first=norm_first)).double()
    ours.blocks = nn.ModuleList(twin(layer, ENCODER, norm_first=norm_first) for layer in theirs.layers)
    if norm_first:
        ours.norm.load_state_dict(theirs.norm.state_dict())
    x = torch.randn(B, T, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-10)


# What a block can see


def test_encoder_block_does_not_know_the_order():
    torch.manual_seed(0)
    block, x = randomised(Block(config())), torch.randn(B, T, D, dtype=torch.float64)
    order = torch.randperm(T)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_causal_block_gives_the_future_no_gradient():
    torch.manual_seed(0)
    block = randomised(Block(config()))
    reach = torch.autograd.functional.jacobian(
        lambda x: block(x, causal=True).sum((0, 2)), torch.randn(1, T, D).double()
    )
    assert torch.equal(reach[:, 0].abs().sum(-1) > 0, causal_mask(T, T))


def test_memory_and_cross_belong_together():
    x = torch.zeros(B, T, D)
    with pytest.raises(ValueError, match="a memory needs cross=True"):
        Block(config())(x, memory=x)
    with pytest.raises(ValueError, match="pass the encoder's output"):
        Stack(config(), cross=True)(x)


def test_dropout_falls_on_what_is_added_and_only_in_training():
    torch.manual_seed(0)
    block, x = Block(config(dropout=0.999)), torch.randn(1, 1, D)
    same = block(x) == x  # nearly all that is added is dropped, and the stream itself passes
    assert same.float().mean() > 0.8
    assert not (block.eval()(x) == x).any()


# Accounting


@given(configs(), st.booleans())
def test_parameters_predicts_the_count(c, cross):
    predicted = parameters(c)
    assert sum(predicted.values()) == sum(p.numel() for p in GPT(c).parameters())
    blocks = sum(p.numel() for p in Stack(c, cross).parameters())
    assert sum(parameters(c, cross)[part] for part in ("attention", "mlp", "norms")) == blocks


def test_parameters_names_the_right_parts():
    model = GPT(config(tied=False))
    measured = {
        "embedding": [model.embedding],
        "positions": [model.position],
        "attention": [block.attention for block in model.stack.blocks],
        "mlp": [block.mlp for block in model.stack.blocks],
        "norms": [m for m in model.modules() if isinstance(m, nn.LayerNorm)],
        "head": [model.head],
    }
    assert parameters(model.config) == {
        part: sum(p.numel() for module in modules for p in module.parameters()) for part, modules in measured.items()
    }


def counted(run) -> int:
    """What PyTorch's counter sees; it knows plain matrix products, and not the CPU's fused attention."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@given(configs(), st.integers(1, 3), st.data())
def test_flops_predicts_the_count(c, batch, data):
    model, length = GPT(c), data.draw(st.integers(1, c.context))
    ids = torch.randint(c.vocab_size, (batch, length))
    forward = batch * sum(flops(c, length).values())
    assert counted(lambda: model(ids)) == forward
    if c.n_layers:  # without blocks a gradient may stop at the embedding table
        assert counted(lambda: model(ids).sum().backward()) == 3 * forward


def test_flops_with_a_cache():
    model = GPT(config(n_kv_heads=2, positions="rotary"))
    cache = model.new_cache(batch=1)
    model(torch.zeros(1, 6, dtype=torch.long), cache)
    assert counted(lambda: model(torch.zeros(1, 1, dtype=torch.long), cache)) == sum(flops(model.config, 1, 7).values())
