"""The training loop: any model on any stream of batches, measured, and able to go on where it was stopped.

Not here: what a step does (``minilm.trainer``), what is trained on (``minilm.batching``), and ready-made recipes
(``minilm.presets``).
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from . import distributed, evaluate
from .batching import Stream
from .checkpoint import alone
from .machine import interruption, threads
from .tokenizer import Tokenizer
from .trainer import Record, Run, TrainConfig

__all__ = ["Record", "TrainConfig", "train", "validation"]


def train(
    model: nn.Module,
    stream: Stream,
    config: TrainConfig,
    validate: Callable[[nn.Module], Record] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    watch: Callable[[Record], None] | None = None,
    tokenizer: Tokenizer | None = None,
    data: str = "",
) -> list[Record]:
    """Train ``model`` in place, where it is, and return the log: a record each ``eval_every`` steps and at the end.

    With a folder ``out`` the run can be stopped at any moment, by Ctrl-C or ``kill -9``: the same call goes on from the
    last checkpoint, bit for bit. The folder holds the log as log.jsonl, the checkpoint, the model as of the last
    evaluation, and ``tokenizer``. ``data`` names what the stream is made of (a checksum); unless given, its first batch
    does. A finished run is not run again; one that another process is at is waited for. ``watch`` is called with every
    record, old ones first.

    Raises FileExistsError where ``out`` holds a run of another config, shape or data, or other files (the weights at
    the start are not compared: give another start another folder), ValueError for a damaged checkpoint,
    KeyboardInterrupt after Ctrl-C, once the step is done and the checkpoint written.
    """
    world, folder = distributed.join(), Path(out) if out else None
    mine = alone(folder) if folder and world.first else nullcontext()
    with mine, threads(world.local_size), torch.random.fork_rng([]):
        run = Run(model, stream, config, world, folder, tokenizer, data)
        for record in run.state.log if watch else ():
            watch(record)
        shown = progress and world.first
        if shown and run.state.step:
            print(f"{out}: {'finished' if run.finished else f'going on after step {run.state.step}'}", file=sys.stderr)
        shown = shown and not run.finished
        bar = tqdm(total=config.steps, initial=run.state.step, unit="step", mininterval=1.0, disable=not shown)
        with bar, interruption(world.size == 1) as stopped:
            while not run.finished:
                run.advance()
                if bar.update():
                    bar.set_postfix_str(run.speed(), refresh=False)
                if run.state.step % config.eval_every == 0 or run.finished:
                    record = run.evaluate(validate)
                    run.save(evaluated=True)
                    if watch:
                        watch(record)
                if stopped.is_set():
                    run.save()
                    left = "the same command goes on from there" if out else "no folder `out` was given, so it is lost"
                    raise KeyboardInterrupt(f"stopped after step {run.state.step}: {left}")
    return run.state.log


def validation(text: str, tokenizer: Tokenizer, context: int | None = None) -> Callable[[nn.Module], Record]:
    """What to measure while training: nats per token and bits per byte on the whole of ``text``."""

    def validate(model: nn.Module) -> Record:
        score = evaluate.score(model, tokenizer, text, context)
        return {"val_loss": float(score.nats.sum() / score.tokens), "bits_per_byte": score.bits_per_byte}

    return validate
