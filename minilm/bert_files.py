"""Weights to and from the BERT of ``transformers``: in memory, as a folder that both libraries open, from an archive.

The two models are one architecture under two sets of names. Files are safetensors, JSON and a list of tokens, never
pickles.

Not here: the pooler (a layer for the next-sentence task), heads, and other architectures.
Reference: Devlin et al. 2019; the names are those of ``transformers.models.bert``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from . import files, wordpiece
from .archive import members
from .cards import CARDS
from .encoder import BERT
from .gpt2_files import rename
from .transformer import Config
from .wordpiece import WordPiece

NAMES = {
    "embedding": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "segment": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "stack.blocks": "encoder.layer",
    "attention.out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp.inner": "intermediate.dense",
    "mlp.outer": "output.dense",
    "norm2": "output.LayerNorm",
}
"""Our name of each part, and theirs; our queries, keys and values are one matrix."""

ACTIVATION_NAMES = {"gelu_erf": "gelu", "gelu": "gelu_new", "relu": "relu"}
"""Our name of each activation that BERT's code has, and theirs."""

FILES = ("config.json", "model.safetensors", "vocab.txt")
"""What a folder of a BERT holds."""

HOW = "tokenizer_config.json"
"""What it may hold as well: whether capitals are kept."""


def to_bert(model: BERT) -> dict[str, Tensor]:
    """The state dict of ``BertModel(config, add_pooling_layer=False)``. ValueError where BERT has no such model."""
    to_bert_config(model.config)
    state = model.state_dict()
    return {
        name: part
        for ours, theirs in _names(state).items()
        for name, part in zip(theirs, state[ours].chunk(len(theirs)), strict=True)
    }


def from_bert(state: Mapping[str, Tensor], config: Config) -> BERT:
    """Our BERT with the weights of a ``BertModel``; its pooler and the heads of a larger model are left out.

    Raises ValueError for a weight that is missing or has another shape.

    >>> model = BERT(Config(9, context=8, d_model=16, n_layers=2, n_heads=4, norm_first=False))
    >>> twin = from_bert(to_bert(model), model.config)
    >>> all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    True
    """
    to_bert_config(config)
    given, model = {name.removeprefix("bert."): tensor for name, tensor in state.items()}, BERT(config)
    wanted, weights = model.state_dict(), {}
    for ours, theirs in _names(wanted).items():
        if missing := [name for name in theirs if name not in given]:
            raise ValueError(f"state: {missing[0]} is missing, but the config asks for it; is it its config?")
        weights[ours] = torch.cat([given[name] for name in theirs])
        if weights[ours].shape != wanted[ours].shape:
            shapes = f"the shape {tuple(weights[ours].shape)}, but the config asks for {tuple(wanted[ours].shape)}"
            raise ValueError(f"state: {' + '.join(theirs)} has {shapes}; is it its config?")
    model.to(weights["embedding.weight"].dtype).load_state_dict(weights)
    return model


def _names(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Our name of each weight, and theirs: three for the matrix and the bias of queries, keys and values."""
    names = {}
    for ours in state:
        theirs = rename(ours, NAMES)
        parts = ("query", "key", "value") if "qkv" in ours else ("",)
        names[ours] = [theirs.replace("attention.qkv", f"attention.self.{part}") for part in parts]
    return names


def to_bert_config(config: Config) -> dict[str, object]:
    """The fields of ``BertConfig`` for a config of ours. ValueError where BERT has no such thing."""
    bert = {"norm": "layer", "norm_first": False, "positions": "learned", "bias": True, "qk_norm": False}
    for name, value in {**bert, "kv_heads": config.n_heads}.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name}={getattr(config, name)!r}: BERT has {value!r}")
    if config.activation not in ACTIVATION_NAMES:
        raise ValueError(f"activation={config.activation!r}: BERT's code has {', '.join(ACTIVATION_NAMES)}")
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_inner,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
    }


def from_bert_config(layout: Mapping[str, object]) -> Config:
    """Our config for the fields of a ``BertConfig``. ValueError for a variant whose hidden states would differ."""
    for name, value in {"model_type": "bert", "position_embedding_type": "absolute", "type_vocab_size": 2}.items():
        if layout.get(name, value) != value:
            raise ValueError(f"{name}={layout[name]!r}: only {value!r} is supported; open it with transformers")
    activations = {theirs: ours for ours, theirs in ACTIVATION_NAMES.items()}
    if (activation := layout.get("hidden_act", "gelu")) not in activations:
        raise ValueError(f"hidden_act={activation!r}: only {', '.join(activations)} are supported")
    sizes = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads")
    if missing := [name for name in (*sizes, "intermediate_size") if not isinstance(layout.get(name), int)]:
        raise ValueError(f"{missing[0]}: no such number in the config; is it a BERT?")
    return Config(
        *(layout[name] for name in sizes),
        d_ff=layout["intermediate_size"],
        norm_first=False,
        eps=layout.get("layer_norm_eps", 1e-12),
        activation=activations[activation],
        dropout=layout.get("hidden_dropout_prob", 0.1),
    )


def load(source: str | Path = "all-minilm", dropout: float | None = None) -> tuple[BERT, WordPiece]:
    """Model and tokenizer of a card, or of a folder with ``config.json``, ``model.safetensors`` and ``vocab.txt``.

    The model comes in evaluation mode; ``dropout`` replaces its config's, for training. Raises ValueError where a file
    is missing, damaged or of another kind of model, and what ``minilm.archive.fetch`` raises.
    """
    found = _members(str(source)) if str(source) in CARDS else _folder(Path(source))
    try:
        layout, state = json.loads(found["config.json"]), safetensors.torch.load(found["model.safetensors"])
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"source={str(source)!r}: damaged or cut short ({error}); get the files again") from error
    config = from_bert_config(layout)
    if dropout is not None:
        config = replace(config, dropout=dropout)
    lower = json.loads(found.get(HOW, b"{}")).get("do_lower_case", True)
    return from_bert(state, config).eval(), wordpiece.read(found["vocab.txt"], lower)


def _members(name: str) -> dict[str, bytes]:
    """The files of a model's archive, by name; of two of one name that which lies less deep."""
    found = members(CARDS[name], rf"/({'|'.join(map(re.escape, FILES))})$")
    return {Path(path).name: content for path, content in sorted(found, key=lambda one: -one[0].count("/"))}


def _folder(folder: Path) -> dict[str, bytes]:
    for name in FILES:
        if not (folder / name).is_file():
            raise ValueError(f"source={str(folder)!r} has no {name}: give a folder written by save, or a card's name")
    return {name: (folder / name).read_bytes() for name in (*FILES, HOW) if (folder / name).is_file()}


def save(model: BERT, tokenizer: WordPiece, folder: str | Path) -> None:
    """Write ``folder`` so that `load`, and ``from_pretrained`` of transformers, give this model and this tokenizer."""
    folder = Path(folder)
    tokenizer.save(folder / "vocab.txt")
    weights = {name: tensor.contiguous() for name, tensor in to_bert(model).items()}
    kind = {"tokenizer_class": "BertTokenizer", "do_lower_case": tokenizer.lower}
    files.write(folder / HOW, json.dumps(kind, indent=2).encode())
    files.write(folder / "model.safetensors", safetensors.torch.save(weights, metadata={"format": "pt"}))
    files.write(folder / "config.json", json.dumps(to_bert_config(model.config), indent=2).encode())
