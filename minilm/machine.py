"""What the computer at hand offers a run: cores, precision, and a way to stop in good order."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

DTYPES = ("float32", "bfloat16", "auto")
"""What `working_dtype` knows."""

MOST_THREADS = 8
"""The models of this book gain nothing from more."""


def cores() -> int:
    """The physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, torch.cpu.get_capabilities().get("num_physical_cores") or allowed)


@contextmanager
def threads(processes: int = 1) -> Iterator[int]:
    """Let PyTorch use the cores that this process may use, shared by ``processes`` like it; afterwards, as before.

    OMP_NUM_THREADS is overruled: it is how a machine is shared by many small jobs, and a training is a large one.

    >>> before = torch.get_num_threads()
    >>> with threads() as n:
    ...     n == torch.get_num_threads()
    True
    >>> before == torch.get_num_threads()
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(cores(), MOST_THREADS) // processes))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def working_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products that a config names; "auto" is bfloat16 where the device multiplies it at speed.

    A processor without instructions for bfloat16 only imitates it, several times slower than float32.

    >>> working_dtype("float32", torch.device("cpu"))
    torch.float32
    """
    if name == "auto":
        name = "bfloat16" if has_bfloat16(device) else "float32"
    return getattr(torch, name)


def compiled(model: nn.Module) -> nn.Module:
    """The model, which torch.compile will translate when it is first called; ValueError without a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # only here, since it takes more than a second
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ValueError(
            "compile=True: torch.compile needs a C++ compiler and finds none; install one (on Debian `apt install "
            "g++`), or leave it out (--no-compile)"
        ) from error
    return torch.compile(model)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@contextmanager
def interruption(wanted: bool = True) -> Iterator[threading.Event]:
    """Inside, Ctrl-C only sets the event, so that work can be brought to an end; a second Ctrl-C is heard at once."""
    asked = threading.Event()

    def hear(*_) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if not wanted or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
