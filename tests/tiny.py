"""Small Transformers of every kind, for the tests of the modules that build them."""

from hypothesis import strategies as st
from torch import nn

from minilm.gpt import POSITIONS
from minilm.transformer import Config


def config(**fields) -> Config:
    return Config(**{"vocab_size": 11, "context": 12, "d_model": 16, "n_layers": 2, "n_heads": 4} | fields)


@st.composite
def configs(draw) -> Config:
    """Widths and counts that all differ, so that a mix-up shows."""
    heads, groups = draw(st.sampled_from([(1, None), (2, 1), (4, 2), (6, 3), (3, None)]))
    return Config(
        vocab_size=draw(st.integers(2, 13)),
        context=draw(st.integers(1, 9)),
        d_model=heads * draw(st.sampled_from([2, 4])),
        n_layers=draw(st.integers(0, 3)),
        n_heads=heads,
        n_kv_heads=groups,
        d_ff=draw(st.sampled_from([None, 5, 17])),
        norm=draw(st.sampled_from(["layer", "rms"])),
        norm_first=draw(st.booleans()),
        activation=draw(st.sampled_from(["gelu", "relu", "relu2", "swiglu"])),
        positions=draw(st.sampled_from(POSITIONS)),
        conv=draw(st.integers(0, 2)),
        bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        tied=draw(st.booleans()),
    )


def randomised(module: nn.Module) -> nn.Module:
    """Float64, and weights that leave nothing at 0 or 1, where a swap would not show."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module
