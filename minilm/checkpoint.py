"""What a run leaves on disk: a model that others can load, and the state from which the run itself can go on.

A model is a folder: model.safetensors, config.json, tokenizer.json. The state of a run is one more file in it,
checkpoint.safetensors: weights and optimizer state, with the step, the log and a description of the run as JSON in its
header. Every file is renamed into place, the checkpoint last, so it is never ahead of the others and never half there.

Not here: pickles; a file read back can hold numbers and text only. Format: https://github.com/huggingface/safetensors
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from . import ngram, tokenizer
from .archive import home
from .contract import Batch, LanguageModel
from .distributed import here, like, whole
from .files import write
from .gpt import GPT
from .rnn import RNNLM, RNNConfig
from .tokenizer import Tokenizer
from .transformer import Config

NAME = "checkpoint.safetensors"
FILES = (NAME, "log.jsonl", "model.safetensors", "config.json", "tokenizer.json")
KINDS = {"gpt": (GPT, Config), "rnn": (RNNLM, RNNConfig)}
"""Neural models by the name that config.json gives."""
MODELS = tuple(cls for cls, _ in KINDS.values())


# A model


def save(folder: str | Path, model: nn.Module, units: Tokenizer | None = None) -> None:
    """Write a model of this package, and its tokenizer, where `load` finds them."""
    folder, kind = Path(folder), next((name for name, (cls, _) in KINDS.items() if isinstance(model, cls)), None)
    if kind is None:
        raise ValueError(f"model is a {type(model).__name__}: what can be saved is {', '.join(KINDS)}")
    weights = {name: whole(tensor) for name, tensor in tensors(model)}
    if not here().first:
        return
    write(folder / "model.safetensors", safetensors.torch.save(weights))
    write(folder / "config.json", json.dumps({"model": kind, **asdict(model.config)}, indent=1).encode())
    if units is not None:
        units.save(folder / "tokenizer.json")


def load(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """The model in ``folder``, of whatever kind, ready to be evaluated, and its tokenizer.

    Raises FileNotFoundError where there is no model, ValueError where a file of it is damaged or from another model.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        remedy = "name a folder that `python -m minilm train` wrote"
        if (folder / NAME).exists():
            remedy = "its training stopped before the first evaluation: let it go on, or take a smaller eval_every"
        raise FileNotFoundError(f"{folder}: no config.json there; {remedy}")
    units = tokenizer.load(folder / "tokenizer.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        counted = "method" in config
        if not counted:
            cls, config_cls = KINDS[config.pop("model")]
            model = cls(config_cls(**config))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}/config.json does not describe a model of this package ({error!r})") from error
    if counted:
        model = ngram.load(folder)
    else:
        _fill(model.eval(), read(folder / "model.safetensors")[0], folder)
    if units.vocab_size != model.vocab_size:
        raise ValueError(
            f"{folder}: tokenizer.json has {units.vocab_size} tokens, the model {model.vocab_size}: it is another's"
        )
    return model, units


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; what two names share comes once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _fill(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors(model)}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(f"{source} holds another model's weights: {', '.join(differ[:3])} differ; name another folder")
    with torch.no_grad():
        for name, tensor in tensors(model):
            tensor.copy_(like(weights[name], tensor))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header's text of a safetensors file; ValueError where it is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}): move it away to begin anew; nothing was changed"
        ) from error


# The state of a run


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The right to write a run into ``folder``: a second process waits for the end of the first, and may go on there.

    The lock is a file in the cache, for each folder one; it is let go of even by ``kill -9``.
    """
    folder = folder.resolve()
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / hashlib.sha256(str(folder).encode()).hexdigest()[:16])
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder.name} is being trained by another process: waiting", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def save_run(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write the checkpoint; ``state`` is whatever JSON can hold, every float of it exactly."""
    named = {f"model.{name}": whole(tensor) for name, tensor in tensors(model)}
    for name, parameter in model.named_parameters():
        named |= {f"optimizer.{name}.{key}": whole(value) for key, value in optimizer.state[parameter].items()}
    if here().first:
        write(folder / NAME, safetensors.torch.save(named, {"minilm": json.dumps(state)}))


def load_run(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, description: dict[str, Any]
) -> dict[str, Any] | None:
    """Put model and optimizer back into the state of the checkpoint and give its ``state``; None where there is none.

    Raises ValueError for a damaged checkpoint, FileExistsError where the folder holds another run or other files.
    Nothing on disk is changed.
    """
    if not (folder / NAME).exists():
        others = set(folder.iterdir()) - set(drafts(folder)) if folder.exists() else ()
        if others:
            raise FileExistsError(f"{folder} holds {min(others).name} and no {NAME}: choose a new folder")
        return None
    named, header = read(folder / NAME)
    try:
        state = json.loads(header["minilm"])
        before = state["run"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder / NAME} is not a checkpoint of this package: choose a new folder") from error
    if before != description:
        raise FileExistsError(
            f"{folder} holds another run ({difference(before, description)}): nothing was changed; choose a new "
            "folder, or give the command of that run to continue it"
        )
    _fill(model, {k.removeprefix("model."): v for k, v in named.items() if k.startswith("model.")}, folder / NAME)
    parameters = dict(model.named_parameters())
    for key, value in named.items():
        if key.startswith("optimizer."):
            name, _, part = key.removeprefix("optimizer.").rpartition(".")
            optimizer.state[parameters[name]][part] = like(value, parameters[name])
    return {key: value for key, value in state.items() if key != "run"}


def drafts(folder: Path) -> list[Path]:
    """What `minilm.files.write` had begun when it was killed."""
    return [path for name in FILES for path in folder.glob(f"{name}.*.part")]


def describe(model: nn.Module, config: dict[str, Any], data: str) -> dict[str, Any]:
    """What makes two runs the same, as a checkpoint gives it back."""
    shape = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    shape = asdict(model.config) if isinstance(model, MODELS) else shape
    return json.loads(json.dumps({"train": config, "model": shape, "data": data}))


def digest(batch: Batch) -> str:
    """A checksum of a batch."""
    tensors = (*batch.inputs, batch.targets)
    return hashlib.sha256(b"".join(tensor.cpu().contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def difference(old: Any, new: Any, name: str = "") -> str:
    """The first places at which two descriptions differ.

    >>> difference({"train": {"steps": 5, "seed": 0}}, {"train": {"steps": 9, "seed": 0}})
    'train.steps is 5 there, 9 here'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        parts = {key: (old.get(key), new.get(key)) for key in old | new}
        found = [difference(a, b, f"{name}.{key}".strip(".")) for key, (a, b) in parts.items() if a != b]
        return "; ".join(found[:3])
    return f"{name} is {old} there, {new} here"
