"""A published language model in our own `GPT`: SmolLM2-135M, read from its GGUF file with its tokenizer.

There is no second decoder here. Llama's architecture is GPT-2's with other values in the fields of `Config`: RMSNorm,
rotary positions, SwiGLU, grouped queries, no biases. What is left to do is to find each weight under its other name,
and to put the rows of queries and keys back into our order.

Not here: the file format (``minilm.gguf``), conversation (``minilm.chat``), other architectures. What would change the
numbers and is not supported is refused by name.
References: Touvron et al. 2023 (Llama); Allal et al. 2025 (SmolLM2); the names are those of llama.cpp.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import archive, gguf
from .cards import CARDS
from .gguf import Stored
from .gpt import GPT
from .tokenizer import BPE
from .tokenizer_file import unshow
from .transformer import Config
from .vocabulary import DIGITS, PATTERN

SMOLLM2 = Config(
    vocab_size=49_152,
    context=8192,
    d_model=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    d_ff=1536,
    norm="rms",
    activation="swiglu",
    positions="rotary",
    rotary_base=100_000.0,
    bias=False,
)
"""SmolLM2-135M: what its file says, as a preset."""

SIZES = {
    "context": "context_length",
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "d_ff": "feed_forward_length",
}
"""Our fields that are whole numbers, and the names of their values in a file."""

OTHER_SIZES = ("vocab_size", "rope.dimension_count")
NUMBERS = ("rope.freq_base", "attention.layer_norm_rms_epsilon")

PARTS = {
    "norm1": ("attn_norm",),
    "attention.qkv": ("attn_q", "attn_k", "attn_v"),
    "attention.out": ("attn_output",),
    "norm2": ("ffn_norm",),
    "mlp.inner": ("ffn_gate", "ffn_up"),
    "mlp.outer": ("ffn_down",),
}
"""Our parts of a block, and theirs; where they have several, ours has their rows one under the other."""

PATTERNS = {"smollm": DIGITS, "gpt-2": PATTERN}
"""How pre-tokens are cut, by the name a file gives. transformers 5.23 does not know "smollm", and takes GPT-2's."""

NAMES = ("smollm2",)
"""Cards whose archive holds a ``.gguf`` file."""

NORMAL, CONTROL = 1, 3
"""Types of tokens: ordinary ones, and special ones."""


def load(name: str | Path = "smollm2") -> tuple[GPT, BPE]:
    """The model and the tokenizer of a card, or of a reader's own ``.gguf`` file; ready to be evaluated, in float32.

    Raises DataError like `minilm.data.fetch`, and ValueError for a file that is damaged, foreign or not supported.
    """
    path = Path(name)
    if not path.is_file():
        if str(name) not in NAMES:
            raise ValueError(f"there is no model {str(name)!r}: give a .gguf file, or one of {', '.join(NAMES)}")
        path = archive.unpack(CARDS[str(name)], r"\.gguf$")
    return build(*gguf.read(path), path.name)


def build(metadata: Mapping[str, Any], tensors: Mapping[str, Stored], name: str = "the file") -> tuple[GPT, BPE]:
    """The model and the tokenizer of what `minilm.gguf.read` gives; ValueError, naming the file, as `load` does."""
    try:
        shape, units = config(metadata, tensors), tokenizer(metadata)
        if units.vocab_size != shape.vocab_size:
            raise ValueError(f"{units.vocab_size} tokens for {shape.vocab_size} embeddings; fetch the file again")
        state = weights(tensors, shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    with torch.device("meta"), _NoStart():
        model = GPT(shape)
    model.load_state_dict(state, assign=True)
    if shape.tied:
        model.head.weight = model.embedding.weight
    return model.eval(), units


def config(metadata: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Config:
    """The `Config` that the metadata of a Llama describes. ValueError for another architecture, or a variant of it."""
    values = _values(metadata)
    if "token_embd.weight" not in tensors:
        raise ValueError("token_embd.weight is missing; fetch the file again")
    shape = Config(
        vocab_size=tensors["token_embd.weight"].shape[0],
        **{field: values[key] for field, key in SIZES.items()},
        norm="rms",
        eps=float(f"{values['attention.layer_norm_rms_epsilon']:.6g}"),  # 1e-5, which float32 only comes near to
        activation="swiglu",
        positions="rotary",
        rotary_base=values["rope.freq_base"],
        bias=False,
        tied="output.weight" not in tensors,
    )
    if values["rope.dimension_count"] * shape.n_heads != shape.d_model or shape.n_heads % shape.kv_heads:
        raise ValueError("llama.attention: the heads do not divide the width, or one another; fetch the file again")
    return shape


def _values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says about the architecture: all that is needed, and nothing that is not understood."""
    if (kind := metadata.get("general.architecture")) != "llama":
        raise ValueError(f"general.architecture is {kind!r}, not 'llama': open it with llama.cpp")
    values = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    for key in sorted(values.keys() - {*SIZES.values(), *OTHER_SIZES, *NUMBERS}):
        raise ValueError(f"llama.{key} is not supported here: open the file with llama.cpp")
    for key in (*SIZES.values(), *OTHER_SIZES):
        if type(values.get(key)) is not int or not 1 <= values[key] < 2**31:
            raise ValueError(f"llama.{key} is {values.get(key, 'missing')!r}, not a size; fetch the file again")
    for key in NUMBERS:
        if type(values.get(key)) is not float or not 0 < values[key] < float("inf"):
            raise ValueError(f"llama.{key} is {values.get(key, 'missing')!r}, not a positive number; fetch it again")
    return values


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor that a file for this config holds, and of no other."""
    c, D, F = config, config.d_model, config.d_inner
    queries, keys = c.n_heads * c.d_head, c.kv_heads * c.d_head
    block = {"attn_norm": (D,), "attn_q": (queries, D), "attn_k": (keys, D), "attn_v": (keys, D)}
    block |= {"attn_output": (D, queries), "ffn_norm": (D,), "ffn_gate": (F, D), "ffn_up": (F, D), "ffn_down": (D, F)}
    whole = {"token_embd": (c.vocab_size, D), "output_norm": (D,)} | ({} if c.tied else {"output": (c.vocab_size, D)})
    blocks = {f"blk.{layer}.{part}": shape for layer in range(c.n_layers) for part, shape in block.items()}
    return {f"{name}.weight": shape for name, shape in (whole | blocks).items()}


def weights(tensors: Mapping[str, Stored], config: Config) -> dict[str, Tensor]:
    """The state dict of our `GPT`. ValueError for a tensor that is missing, has another shape, or has no place."""
    expected = shapes(config) if config.n_layers <= len(tensors) else {}
    for name in sorted(expected.keys() ^ tensors.keys()):
        problem = "is missing" if name in expected else "has no place in this model"
        raise ValueError(f"{name} {problem}: the file is damaged, or of a variant for which there is llama.cpp")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has the shape {tensors[name].shape}, not {shape}; fetch the file again")
    joined = lambda parts: parts[0] if len(parts) == 1 else torch.cat(parts)
    state = {
        f"stack.blocks.{layer}.{ours}.weight": joined([numbers(tensors, f"blk.{layer}.{n}", config) for n in theirs])
        for layer in range(config.n_layers)
        for ours, theirs in PARTS.items()
    }
    state["embedding.weight"] = numbers(tensors, "token_embd", config)
    state["head.weight"] = state["embedding.weight"] if config.tied else numbers(tensors, "output", config)
    return state | {"stack.norm.weight": numbers(tensors, "output_norm", config)}


def numbers(tensors: Mapping[str, Stored], name: str, config: Config) -> Tensor:
    """One tensor of the file as numbers, its rows in our order. ValueError where some are not finite."""
    try:
        found = tensors[f"{name}.weight"].numbers()
    except ValueError as error:
        raise ValueError(f"{name}.weight {error}") from error
    heads = {"attn_q": config.n_heads, "attn_k": config.kv_heads}.get(name.split(".")[-1])
    return unpermute(found, heads) if heads else found


def unpermute(weight: Float[Tensor, "Hd D"], n_heads: int) -> Float[Tensor, "Hd D"]:
    """The rows of queries or keys in the order in which `minilm.layers.rotate` pairs them: i with i + d/2.

    llama.cpp turns neighbours, 2i with 2i + 1, so its files have the rows of each head in that order. Queries and keys
    are reordered alike, so that their products stay what they were.

    >>> unpermute(torch.arange(6.0)[:, None], n_heads=1).flatten()
    tensor([0., 2., 4., 1., 3., 5.])
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def tokenizer(metadata: Mapping[str, Any]) -> BPE:
    """The byte-level BPE that the metadata describes. ValueError for another kind, or where its parts do not fit."""
    values = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    kind, cut = values.get("model"), str(values.get("pre"))
    if kind != "gpt2" or cut not in PATTERNS:
        raise ValueError(f"the tokenizer is {kind!r} with {cut!r}, not 'gpt2' with 'smollm': open it with llama.cpp")
    for flag in ("add_space_prefix", "add_bos_token", "add_eos_token"):
        if values.get(flag):
            raise ValueError(f"tokenizer.ggml.{flag} is set, which is not supported: open it with llama.cpp")
    tokens, types = _texts(values, "tokens"), values.get("token_type")
    if not isinstance(types, list) or len(types) != len(tokens) or set(types) - {NORMAL, CONTROL}:
        raise ValueError("tokenizer.ggml.token_type does not make each token ordinary or special: use llama.cpp")
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise ValueError("tokenizer.ggml.tokens holds a token twice; fetch the file again")
    vocab = {unshow(token): id for token, id in ids.items() if types[id] == NORMAL}
    specials = {token: id for token, id in ids.items() if types[id] == CONTROL}
    try:
        pairs = [merge.split(" ") for merge in _texts(values, "merges")]
        merges = {(ids[left], ids[right]): ids[left + right] for left, right in pairs}
    except KeyError as error:
        raise ValueError(f"tokenizer.ggml.merges names {error}, which is no token; fetch the file again") from error
    return BPE(vocab, specials, merges, pattern=PATTERNS[cut], gaps=True)


def _texts(values: Mapping[str, Any], key: str) -> list[str]:
    texts = values.get(key)
    if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
        raise ValueError(f"tokenizer.ggml.{key} is no list of texts; fetch the file again")
    return texts


class _NoStart(TorchFunctionMode):
    """Leaves out the random numbers that training starts from: on the meta device they take longest, for nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs)
