"""Weights to and from the GPT-2 of ``transformers``: in memory, and as a folder that both libraries open.

The two models are one architecture under two sets of names. `GPT2LMHeadModel` keeps the matrices of its blocks the
other way round (inputs before outputs); nothing else differs. Files are safetensors and JSON, never pickles.

Not here: other architectures, and fetching anything from the network.
Reference: Radford et al. 2019; the names are those of ``transformers.models.gpt2``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from . import files
from .gpt import GPT
from .layers import EPS
from .tokenizer import END, Tokenizer, load
from .transformer import Config

PREFIX = "transformer."
"""What `GPT2LMHeadModel` puts before the names of all but its head; the first GPT-2 files do without."""

NAMES = {
    "embedding": "wte",
    "position": "wpe",
    "stack.blocks": "h",
    "stack.norm": "ln_f",
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.inner": "mlp.c_fc",
    "mlp.outer": "mlp.c_proj",
    "head": "lm_head",
}
"""Our name of each part, and theirs."""

ACTIVATION_NAMES = {"gelu": "gelu_new", "relu": "relu"}
"""Our name of each activation that GPT-2's code has, and theirs."""


def to_gpt2(model: GPT) -> dict[str, Tensor]:
    """The state dict that ``GPT2LMHeadModel.load_state_dict`` takes, sharing memory with the model where it can.

    Raises ValueError where the config asks for what GPT-2 has not, naming the field.
    """
    to_gpt2_config(model.config)
    names = _names(model)
    return {
        theirs if theirs.startswith("lm_head") else PREFIX + theirs: _flip(ours, model.state_dict()[ours])
        for ours, theirs in names.items()
    }


def from_gpt2(state: Mapping[str, Tensor], config: Config) -> GPT:
    """Our GPT with the weights of a GPT-2: the way back of `to_gpt2`.

    Raises ValueError for a weight that is missing or has another shape.

    >>> model = GPT(Config(vocab_size=9, context=8, d_model=16, n_layers=2, n_heads=4))
    >>> twin = from_gpt2(to_gpt2(model), model.config)
    >>> all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    True
    """
    to_gpt2_config(config)
    theirs = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    if config.tied:
        theirs["lm_head.weight"] = theirs.get("wte.weight")  # stored once
    model = GPT(config)
    weights = {}
    for ours, name in _names(model).items():
        shape = tuple(model.state_dict()[ours].shape)
        if theirs.get(name) is None or tuple(_flip(ours, theirs[name]).shape) != shape:
            found = "is missing" if theirs.get(name) is None else f"has the shape {tuple(theirs[name].shape)}"
            raise ValueError(f"state: {name} {found}, but the config asks for {shape} as {ours}; is it its config?")
        weights[ours] = _flip(ours, theirs[name])
    model.to(weights["embedding.weight"].dtype).load_state_dict(weights)
    return model


def to_gpt2_config(config: Config) -> dict[str, object]:
    """The fields of ``GPT2Config`` for a config of ours. ValueError where GPT-2 has no such thing."""
    gpt2 = {"norm": "layer", "norm_first": True, "positions": "learned", "conv": 0, "bias": True, "qk_norm": False}
    for name, value in {**gpt2, "n_kv_heads": config.n_heads}.items():
        mine = config.kv_heads if name == "n_kv_heads" else getattr(config, name)
        if mine != value:
            raise ValueError(f"{name}={mine!r}: GPT-2 has {value!r}; train with that, or save with minilm.train.save")
    if config.activation not in ACTIVATION_NAMES:
        raise ValueError(f"activation={config.activation!r}: GPT-2's code has {' and '.join(ACTIVATION_NAMES)}")
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": ACTIVATION_NAMES[config.activation],
        "layer_norm_epsilon": config.eps,
        "tie_word_embeddings": config.tied,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop"), config.dropout),
        "attn_pdrop": 0.0,
    }


def from_gpt2_config(layout: Mapping[str, object]) -> Config:
    """Our config for the fields of a ``GPT2Config``. ValueError for a variant whose logits would differ."""
    defaults = {
        "model_type": "gpt2",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    for name, value in defaults.items():
        if layout.get(name, value) != value:
            raise ValueError(f"{name}={layout[name]!r}: only {value!r} is supported; open it with transformers")
    activations = {"gelu_pytorch_tanh": "gelu", **{theirs: ours for ours, theirs in ACTIVATION_NAMES.items()}}
    activation = layout.get("activation_function", "gelu_new")
    if activation not in activations:
        raise ValueError(f"activation_function={activation!r}: only {', '.join(activations)} are supported")
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    if missing := [name for name in sizes if not isinstance(layout.get(name), int)]:
        raise ValueError(f"{missing[0]}: no such number in the config; is it a GPT-2?")
    return Config(
        *(layout[name] for name in sizes),
        d_ff=layout.get("n_inner"),
        eps=layout.get("layer_norm_epsilon", EPS),
        activation=activations[activation],
        tied=layout.get("tie_word_embeddings", True),
        dropout=layout.get("resid_pdrop", 0.1),
    )


def save_gpt2(model: GPT, tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write ``folder`` so that ``from_pretrained(folder)`` of transformers gives this model and this tokenizer.

    Raises ValueError where GPT-2 has no such model, or the tokenizer has more tokens than the model has rows for.
    """
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(
            f"tokenizer has {tokenizer.vocab_size} tokens, model {model.vocab_size}: give the one it was trained with"
        )
    weights = {name: tensor.contiguous() for name, tensor in to_gpt2(model).items()}
    if model.config.tied:
        del weights["lm_head.weight"]  # safetensors stores a tensor once, and the reader ties it again
    end = getattr(tokenizer, "specials", {}).get(END)
    dtype = str(model.head.weight.dtype).removeprefix("torch.")
    layout = {**to_gpt2_config(model.config), "dtype": dtype, "bos_token_id": end, "eos_token_id": end}
    names = {"bos_token": END, "eos_token": END} if end is not None else {}
    spacing = {"add_prefix_space": False, "clean_up_tokenization_spaces": False}
    folder = Path(folder)
    tokenizer.save(folder / "tokenizer.json")
    files.write(
        folder / "tokenizer_config.json", _json({"tokenizer_class": "PreTrainedTokenizerFast", **spacing, **names})
    )
    files.write(folder / "model.safetensors", safetensors.torch.save(weights, metadata={"format": "pt"}))
    files.write(folder / "config.json", _json(layout))


def load_gpt2(folder: str | Path) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of a folder that `save_gpt2` has written, or that holds GPT-2's published files.

    Raises ValueError for a folder without such files, for damaged ones, and for a variant that is not supported.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ValueError(f"folder={str(folder)!r} has no {name}: give a folder written by save_gpt2")
    try:
        layout = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = safetensors.torch.load_file(folder / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"folder={str(folder)!r}: damaged or cut short ({error}); save the model again") from error
    return from_gpt2(state, from_gpt2_config(layout)).eval(), load(folder / "tokenizer.json")


def _names(model: GPT) -> dict[str, str]:
    """Our name of each weight, and theirs."""
    return {ours: rename(ours, NAMES) for ours in model.state_dict()}


def rename(weight: str, names: Mapping[str, str]) -> str:
    """The name of a weight with each part of it that ``names`` lists replaced by theirs, in the order of the list.

    >>> rename("stack.blocks.3.norm1.bias", NAMES)
    'h.3.ln_1.bias'
    """
    for part, theirs in names.items():
        weight = re.sub(rf"(^|\.){re.escape(part)}(?=\.)", rf"\g<1>{theirs}", weight)
    return weight


def _flip(name: str, weight: Tensor) -> Tensor:
    """A weight of ours in their layout, or back: matrices of blocks change sides."""
    return weight.mT if name.startswith("stack.") and weight.dim() == 2 else weight


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2).encode()
