"""Weights to and from the T5 of ``transformers``: one architecture under two sets of names.

`T5ForConditionalGeneration` keeps queries, keys and values apart and does not divide its scores by the square root of
a head's width; here that root is folded into the weights of the queries.

Not here: other architectures, and fetching anything from the network.
Reference: Raffel et al. 2020; the names are those of ``transformers.models.t5``.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .layers import BUCKETS, FARTHEST
from .spans import END, PAD
from .t5 import T5
from .transformer import Config

LAYERS = {"encoder": {"mlp": 1}, "decoder": {"cross": 1, "mlp": 2}}
"""The number of each part within a block of theirs; self-attention is 0."""

FIXED = {"norm": "rms", "norm_first": True, "activation": "relu", "positions": "relative", "bias": False}
FIXED |= {"qk_norm": False, "conv": 0}
"""What T5 leaves no choice about, as fields of our config."""


def to_t5(model: T5) -> dict[str, Tensor]:
    """The state dict that ``T5ForConditionalGeneration.load_state_dict`` takes.

    Raises ValueError where the config asks for what T5 has not, naming the field.
    """
    to_t5_config(model.config)
    theirs: dict[str, Tensor] = {}
    for ours, weight in model.state_dict().items():
        for name, part in zip(_theirs(ours), _parts(ours, weight), strict=True):
            theirs[name] = part * _scale(name, model.config) ** -1
    return theirs | {f"{stack}.embed_tokens.weight": theirs["shared.weight"] for stack in LAYERS}


def from_t5(state: Mapping[str, Tensor], config: Config) -> T5:
    """Our T5 with the weights of theirs: the way back of `to_t5`.

    Raises ValueError for a weight that is missing or has another shape.

    >>> config = Config(9, context=8, d_model=16, n_layers=2, n_heads=4, d_ff=20, eps=1e-6, **FIXED)
    >>> model = T5(config)
    >>> twin = from_t5(to_t5(model), config)
    >>> all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    True
    """
    to_t5_config(config)
    model, weights = T5(config), {}
    for ours, wanted in model.state_dict().items():
        parts = []
        for name, part in zip(_theirs(ours), _parts(ours, wanted), strict=True):
            if name not in state or state[name].shape != part.shape:
                found = f"has the shape {tuple(state[name].shape)}" if name in state else "is missing"
                raise ValueError(
                    f"state: {name} {found}, but the config asks for {tuple(part.shape)}; is it its config?"
                )
            parts.append(state[name] * _scale(name, config))
        weights[ours] = torch.cat(parts)
    model.to(weights["embedding.weight"].dtype).load_state_dict(weights)
    return model


def to_t5_config(config: Config) -> dict[str, object]:
    """The fields of ``T5Config`` for a config of ours. ValueError where T5 has no such thing."""
    for name, value in {**FIXED, "n_kv_heads": config.n_heads, "tied": True}.items():
        mine = config.kv_heads if name == "n_kv_heads" else getattr(config, name)
        if mine != value:
            raise ValueError(f"{name}={mine!r}: T5 has {value!r}; train with that")
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "d_model": config.d_model,
        "d_kv": config.d_head,
        "d_ff": config.d_inner,
        "num_layers": config.n_layers,
        "num_heads": config.n_heads,
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": FARTHEST,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.eps,
        "feed_forward_proj": "relu",
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": PAD,
    }


def from_t5_config(layout: Mapping[str, object]) -> Config:
    """Our config for the fields of a ``T5Config``. ValueError for a variant whose logits would differ."""
    wanted = {
        "model_type": "t5",
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": FARTHEST,
        "d_kv": layout["d_model"] // layout["num_heads"],
        "num_decoder_layers": layout["num_layers"],
        "scale_decoder_outputs": True,
        "tie_word_embeddings": True,
    }
    for name, value in wanted.items():
        if layout.get(name, value) not in (value, None):
            raise ValueError(f"{name}={layout[name]!r}: only {value!r} is supported; open it with transformers")
    return Config(
        layout["vocab_size"],
        context=layout.get("n_positions", 512),
        d_model=layout["d_model"],
        n_layers=layout["num_layers"],
        n_heads=layout["num_heads"],
        d_ff=layout["d_ff"],
        eps=layout.get("layer_norm_epsilon", 1e-6),
        dropout=layout.get("dropout_rate", 0.1),
        **FIXED,
    )


def _theirs(ours: str) -> list[str]:
    """Their names for what is one weight of ours: three for queries, keys and values, which stand one above the other.

    >>> _theirs("decoder.blocks.1.cross.qkv.weight")[0]
    'decoder.block.1.layer.1.EncDecAttention.q.weight'
    """
    fixed = {"embedding.weight": "shared.weight", "head.weight": "lm_head.weight"}
    for stack in LAYERS:
        fixed[f"{stack}.norm.weight"] = f"{stack}.final_layer_norm.weight"
        fixed[f"{stack}_bias.weight"] = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if ours in fixed:
        return [fixed[ours]]
    stack, number, part = re.fullmatch(r"(\w+)\.blocks\.(\d+)\.(.+)\.weight", ours).groups()
    where = {"attention": 0, "norm1": 0, "cross": 1, "norm_cross": 1, "mlp": LAYERS[stack]["mlp"]}
    layer = where.get(part.split(".")[0], LAYERS[stack]["mlp"])  # norm2 stands before the MLP
    names = {
        "attention.qkv": [f"SelfAttention.{letter}" for letter in "qkv"],
        "attention.out": ["SelfAttention.o"],
        "cross.qkv": [f"EncDecAttention.{letter}" for letter in "qkv"],
        "cross.out": ["EncDecAttention.o"],
        "mlp.inner": ["DenseReluDense.wi"],
        "mlp.outer": ["DenseReluDense.wo"],
    }
    return [f"{stack}.block.{number}.layer.{layer}.{name}.weight" for name in names.get(part, ["layer_norm"])]


def _parts(ours: str, weight: Tensor) -> tuple[Tensor, ...]:
    return weight.chunk(3) if ours.endswith("qkv.weight") else (weight,)


def _scale(theirs: str, config: Config) -> float:
    """Our queries are theirs, times the root by which our attention divides."""
    return config.d_head**0.5 if theirs.endswith(".q.weight") else 1.0
