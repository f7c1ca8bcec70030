"""The corrections that LoRA has learned as a folder that the library ``peft`` opens, and back.

A folder holds adapter_model.safetensors and adapter_config.json. Layers are named as in this package or as in the GPT-2
or the Llama of ``transformers``, so an adapter trained here runs there, and the other way round.

Not here: variants (DoRA, rank-stabilised scaling, other ranks in some layers); files that use them are refused.
References: Hu et al. 2022; the layout is that of peft 0.21.
"""

import json
import math
import re
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from . import gpt2_files
from .files import write
from .heads import frozen
from .lora import LoRA, adapters, linear, put

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The two files of an adapter."""

PREFIX = "base_model.model."
"""What peft puts before the name of every layer."""

PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}
"""Fields of peft's config whose other values mean another computation than `LoRA`'s."""

LLAMA = {
    "stack.blocks": "model.layers",
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": "self_attn.o_proj",
    "mlp.inner": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.outer": "mlp.down_proj",
}
"""Our names of a Llama's parts, and theirs: several where our matrix is several of theirs, one below the other."""

GPT2 = {**gpt2_files.NAMES, "stack.blocks": gpt2_files.PREFIX + gpt2_files.NAMES["stack.blocks"]}
LAYOUTS: dict[str, dict[str, str | tuple[str, ...]]] = {"minilm": {}, "gpt2": GPT2, "llama": LLAMA}
"""In whose names an adapter is written."""


def theirs(path: str, layout: str) -> list[str]:
    """What a layer of ours is called in a layout: one name, or those of the layers that ours holds fused.

    >>> theirs("stack.blocks.0.attention.qkv", "gpt2")
    ['transformer.h.0.attn.c_attn']
    >>> theirs("stack.blocks.0.mlp.inner", "llama")
    ['model.layers.0.mlp.gate_proj', 'model.layers.0.mlp.up_proj']
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: choose one of {', '.join(LAYOUTS)}")
    names = [path]
    for ours, other in LAYOUTS[layout].items():
        others = (other,) if isinstance(other, str) else other
        if re.search(pattern := rf"(^|\.){re.escape(ours)}(?=\.|$)", path):
            names = [re.sub(pattern, rf"\g<1>{one}", name) for name in names for one in others]
    return names


def save_lora(model: nn.Module, folder: str | Path, layout: str = "minilm", base: str = "") -> None:
    """Write the corrections of a wrapped model, and nothing else, where ``peft`` and `load_lora` find them.

    A fused matrix has one A for all its parts; written apart, each part gets that A and its own rows of B: the same
    function. The file knows one rank and one scale for all layers: a correction of a lower rank than others is filled
    up with zeros, again the same function. ``base`` names the model that the adapter belongs to. Raises ValueError
    where nothing is wrapped, and where layers are scaled differently.
    """
    wrapped = dict(adapters(model))
    if not wrapped:
        raise ValueError("model has no LoRA layer: wrap it first, and save before merging")
    scales = sorted({layer.scale for layer in wrapped.values()})
    if not math.isclose(scales[0], scales[-1]):  # alpha / rank of different ranks may differ by rounding
        raise ValueError(f"model has layers with alpha / rank of {scales}, and a file holds one: merge instead")
    layer = max(wrapped.values(), key=lambda layer: layer.rank)
    tensors, names = {}, set()
    for path, one in wrapped.items():
        parts, lacking = theirs(path, layout), layer.rank - one.rank
        A, B = F.pad(one.A.detach(), (0, 0, 0, lacking)), F.pad(one.B.detach(), (0, lacking))
        for name, own in zip(parts, B.split(_rows(model, path, len(parts))), strict=True):
            tensors[f"{PREFIX}{name}.lora_A.weight"] = A.clone()
            tensors[f"{PREFIX}{name}.lora_B.weight"] = own.contiguous()
            names.add(name.rpartition(".")[2])
    config = {
        "peft_type": "LORA",
        "task_type": None if layout == "minilm" else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": layer.rank,
        "lora_alpha": layer.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(names),
        "fan_in_fan_out": layout == "gpt2",  # GPT-2's layers keep their matrices the other way round
        "inference_mode": True,
        **PLAIN,
    }
    write(Path(folder) / WEIGHTS, safetensors.torch.save(tensors, {"format": "pt"}))
    write(Path(folder) / CONFIG, json.dumps(config, indent=2).encode())


def load_lora(model: nn.Module, folder: str | Path, layout: str = "minilm") -> nn.Module:
    """Wrap a model with the corrections that `save_lora` or peft has written; in place.

    Raises ValueError where files are missing, damaged, ask for a variant, or do not fit the
    model, which is then as before.
    """
    config, tensors = _read(Path(folder))
    layers, found = linear(model), {}
    for path, layer in layers.items():
        parts = [[tensors.pop(f"{PREFIX}{name}.lora_{x}.weight", None) for x in "AB"] for name in theirs(path, layout)]
        if any(one is not None for part in parts for one in part):
            found[path] = _thin(path, layer, parts)
    if tensors or not found:
        name = min(tensors, default="").removeprefix(PREFIX)
        raise ValueError(f"folder={str(folder)!r}: {name or 'nothing in it'} fits no layer under layout={layout!r}")
    scale = config["lora_alpha"] / config["r"]
    wrapped = {path: LoRA(layers[path], len(A), scale * len(A)) for path, (A, _) in found.items()}
    frozen(model)
    for path, layer in wrapped.items():
        for mine, new in zip((layer.A, layer.B), found[path], strict=True):
            mine.data.copy_(new)
        put(model, path, layer)
    return model


def _read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        config["lora_alpha"] / config["r"]  # both there, numbers, and the rank not 0
    except (OSError, ValueError, SafetensorError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"folder={str(folder)!r} holds no adapter that can be read ({error!r})") from error
    for name, plain in PLAIN.items():
        if config.get(name, plain) != plain:
            raise ValueError(f"{name}={config[name]!r}: only {plain!r} is supported; open it with peft and merge it")
    return config, tensors


def _thin(path: str, base: nn.Linear, parts: list[list[Tensor | None]]) -> tuple[Tensor, Tensor]:
    """A and B of a layer from those of its parts: an A that all share comes once, others stand side by side."""
    if any(one is None for part in parts for one in part):
        raise ValueError(f"{path}: the adapter has some of its parts and not all; adapt every part of a fused layer")
    As, Bs = zip(*parts, strict=True)
    shared = all(A.equal(As[0]) for A in As)
    A, B = (As[0], torch.cat(Bs)) if shared else (torch.cat(As), torch.block_diag(*Bs))
    D, E = base.weight.shape
    if A.shape != (len(A), E) or B.shape != (D, len(A)):
        raise ValueError(f"{path}: A {tuple(A.shape)} and B {tuple(B.shape)} do not fit a layer of {D} by {E}")
    return A, B


def _rows(model: nn.Module, path: str, parts: int) -> list[int]:
    """How many outputs each part of a layer has."""
    total = model.get_submodule(path).B.shape[0]
    if parts == 3:
        attention = model.get_submodule(path.rpartition(".")[0])
        return [n * attention.d_head for n in (attention.n_heads, attention.n_kv_heads, attention.n_kv_heads)]
    return [total // parts] * parts
