"""GGUF: a language model in one file, its weights squeezed into a few bits each.

A file is a header, metadata (names and values), a list of tensors, and their data. `read` takes it apart; `Stored` is
one tensor as it lies in the file, and gives its numbers back. Nothing is trusted: every length is held against the
bytes that are there, and a tensor must begin where the one before it ended.

Not here: what the tensors mean (``minilm.llama``), the types that the book's file has not, files of several parts,
writing. Reference: the specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and the layouts of
the blocks in ``ggml-common.h`` beside it.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Blocks = np.ndarray
"""The blocks of a tensor, one after the other: an array whose type is the layout of a block."""

VERSIONS = (2, 3)
"""Versions of the format that differ in nothing that is read here."""

MOST_DIMENSIONS = 4


# Blocks of weights


def q8_0(blocks: Blocks) -> Float[np.ndarray, "N 32"]:
    """``scale q``: 32 weights share a scale of 2 bytes, and each is a whole number from -128 to 127.

    >>> block = np.zeros(1, KINDS[8].layout)
    >>> block["scale"], block["q"][0, :3] = 0.5, [1, -2, 127]
    >>> q8_0(block)[0, :4]
    array([ 0.5, -1. , 63.5,  0. ], dtype=float32)
    """
    return blocks["q"] * blocks["scale"].astype(np.float32)[:, None]


def q4_1(blocks: Blocks) -> Float[np.ndarray, "N 32"]:
    """``scale q + least``: 32 weights share a scale and their least value, and each is a whole number from 0 to 15.

    Two of them share a byte: weight i has the lower half of byte i, weight i + 16 the upper half.

    >>> block = np.zeros(1, KINDS[3].layout)
    >>> block["scale"], block["least"], block["q"][0, :2] = 0.5, -2, [0x0F, 0x21]
    >>> q4_1(block)[0, [0, 1, 2, 17]]
    array([ 5.5, -1.5, -2. , -1. ], dtype=float32)
    """
    weights = np.empty((len(blocks), 2, 16), np.float32)
    weights[:, 0], weights[:, 1] = blocks["q"] & 15, blocks["q"] >> 4
    weights = weights.reshape(-1, 32)
    weights *= blocks["scale"].astype(np.float32)[:, None]
    weights += blocks["least"].astype(np.float32)[:, None]
    return weights


class Kind(NamedTuple):
    """A way to store numbers: its name, the layout of a block, the numbers in one, and how to read them."""

    name: str
    layout: np.dtype
    size: int
    numbers: Callable[[Blocks], np.ndarray]


KINDS = {
    0: Kind("F32", np.dtype("<f4"), 1, np.array),
    3: Kind("Q4_1", np.dtype([("scale", "<f2"), ("least", "<f2"), ("q", "u1", 16)]), 32, q4_1),
    8: Kind("Q8_0", np.dtype([("scale", "<f2"), ("q", "i1", 32)]), 32, q8_0),
}
"""The kinds that can be read, by their number in a file."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the file: its kind, its shape as PyTorch has it, and its blocks."""

    kind: Kind
    shape: tuple[int, ...]
    blocks: Blocks

    @property
    def bits(self) -> float:
        """Bits that each number takes, its share of the scales included."""
        return 8 * self.blocks.nbytes / math.prod(self.shape)

    def numbers(self) -> Float[Tensor, "..."]:
        """The numbers themselves, in float32. Raises ValueError where one is not finite."""
        with np.errstate(invalid="ignore"):
            numbers = self.kind.numbers(self.blocks).astype(np.float32, copy=False).reshape(self.shape)
            finite = np.isfinite(numbers.sum())
        if not finite:
            raise ValueError("holds numbers that are not finite, so it is damaged; fetch the file again")
        return torch.from_numpy(numbers)


# The file


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The metadata and the tensors of a file, by name; what is read of the tensors is where they lie.

    Raises ValueError, naming the file and the remedy, for a file that is foreign, damaged or cut short, and for a kind
    of tensor that is not in ``KINDS``. Raises the OSError of a file that cannot be opened.
    """
    return parse(np.fromfile(path, np.uint8), str(path))


def parse(content: bytes | np.ndarray, name: str = "content") -> tuple[dict[str, Any], dict[str, Stored]]:
    """`read` for the bytes of a file; ``name`` is what errors call it."""
    try:
        return _parse(_Cursor(memoryview(content)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _parse(cursor: "_Cursor") -> tuple[dict[str, Any], dict[str, Stored]]:
    if bytes(cursor.take(4, "the magic word")) != b"GGUF":
        raise ValueError("does not begin with GGUF, so it is another kind of file; give the .gguf file of a model")
    if (version := cursor.number("I", "the version")) not in VERSIONS:
        raise ValueError(f"version {version} is not one of {VERSIONS}; convert the model with a current llama.cpp")
    n_tensors, n_values = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of values")
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        key = cursor.text("the name of a value")
        if key in metadata:
            raise ValueError(f"{key} stands there twice, so the file is damaged; fetch it again")
        metadata[key] = cursor.value(cursor.number("I", f"the type of {key}"), key)
    alignment = metadata.get("general.alignment", 32)
    if not (isinstance(alignment, int) and alignment > 0 and alignment % 8 == 0):
        raise ValueError(f"general.alignment is {alignment!r}, not a multiple of 8; convert the model again")
    tensors: dict[str, Stored] = {}
    headers = [cursor.tensor() for _ in _counted(n_tensors)]
    cursor.take(-cursor.place % alignment, "the gap before the data")
    data = cursor.place
    for tensor, kind, shape, offset in headers:
        cursor.take(-(cursor.place - data) % alignment, f"the gap before {tensor}")
        if tensor in tensors or offset != cursor.place - data:
            raise ValueError(f"{tensor} does not begin where the tensor before it ends; fetch the file again")
        n_bytes = math.prod(shape) // kind.size * kind.layout.itemsize
        tensors[tensor] = Stored(kind, shape, np.frombuffer(cursor.take(n_bytes, f"the data of {tensor}"), kind.layout))
    if (left := len(cursor.content) - cursor.place) >= alignment:
        raise ValueError(f"{left} bytes follow the last tensor, so the file is damaged; fetch it again")
    return metadata, tensors


def _counted(number: int):
    """``range`` for a number that a damaged file may have made astronomic."""
    while number:
        yield number
        number -= 1


_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of values by their number in a file, as ``struct`` writes them; 8 is a text, 9 an array."""


class _Cursor:
    """A place in the bytes of a file that moves on as they are read."""

    def __init__(self, content: memoryview):
        self.content, self.place = content, 0

    def take(self, n_bytes: int, what: str) -> memoryview:
        start, self.place = self.place, self.place + n_bytes
        if self.place > len(self.content):
            raise ValueError(f"ends after {len(self.content)} bytes, within {what}: cut short; fetch it again")
        return self.content[start : self.place]

    def number(self, letter: str, what: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter), what))[0]

    def text(self, what: str) -> str:
        try:
            return str(self.take(self.number("Q", what), what), "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{what} is not UTF-8, so the file is damaged; fetch it again") from error

    def value(self, kind: int, key: str) -> Any:
        if kind == 8:
            return self.text(key)
        if kind == 9:
            kind, length = self.number("I", key), self.number("Q", key)
            if kind == 8:
                return [self.text(key) for _ in _counted(length)]
            if kind in _FORMATS:
                return np.frombuffer(
                    self.take(length * struct.calcsize(_FORMATS[kind]), key), f"<{_FORMATS[kind]}"
                ).tolist()
        elif kind in _FORMATS:
            return self.number(_FORMATS[kind], key)
        raise ValueError(f"{key} has the type {kind}, which the format has not; fetch the file again")

    def tensor(self) -> tuple[str, Kind, tuple[int, ...], int]:
        """Name, kind, shape and place of the data of one tensor; the file has the innermost dimension first."""
        name = self.text("the name of a tensor")
        n_dims = self.number("I", f"the shape of {name}")
        if not 1 <= n_dims <= MOST_DIMENSIONS:
            raise ValueError(f"{name} has {n_dims} dimensions, so the file is damaged; fetch it again")
        shape = tuple(self.number("Q", f"the shape of {name}") for _ in range(n_dims))[::-1]
        number = self.number("I", f"the kind of {name}")
        if number not in KINDS:
            known = ", ".join(f"{kind.name} ({number})" for number, kind in KINDS.items())
            raise ValueError(f"{name} is of kind {number}, not {known}: make it Q8_0 with llama.cpp's llama-quantize")
        kind = KINDS[number]
        if min(shape) < 1 or shape[-1] % kind.size:
            raise ValueError(f"{name} has the shape {shape}, which {kind.name} cannot store; fetch the file again")
        return name, kind, shape, self.number("Q", f"the place of {name}")
