"""One training run: how it is configured, what a step does, what is measured, and what is kept on disk.

A step: logits, loss, gradients, clipping, the optimizer's update. Everything random in it is decided by the seed and
the number of the step, so a run that was killed and goes on from its checkpoint ends with the same bits.

Not here: the loop over the steps (``minilm.train``).
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint, distributed, machine, optim
from .batching import Stream, derived_seed, split
from .contract import IGNORE, Batch, loss
from .distributed import World
from .files import write
from .machine import DTYPES, working_dtype
from .tokenizer import Tokenizer

Record = dict[str, Any]
"""One evaluation: step, tokens and seconds so far, train_loss since the one before, and what ``validate`` measured."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train: the numbers that decide a run, given a model and a text.

    Raises ValueError for a count below 1, a number out of its range, or a name that is not known.
    """

    steps: int
    """updates of the weights"""
    batch_size: int
    """rows of text in one update, over all processes"""
    learning_rate: float = 1e-3
    """the highest rate, which the schedule scales"""
    weight_decay: float = 0.1
    """how fast matrices shrink, as a multiple of the rate"""
    warmup: int = 0
    """steps until the rate has risen to its highest"""
    schedule: str = "cosine"
    """how the rate falls afterwards: cosine or linear"""
    final: float = 0.1
    """the last rate, as a share of the highest; 1 keeps it constant"""
    optimizer: str = "adamw"
    """adamw, or muon for the matrices inside blocks"""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's memories: of the gradient, and of its square"""
    clip: float | None = 1.0
    """greatest length of the gradient"""
    accumulate: int = 1
    """parts in which a batch is worked through, to save memory; the update is the same"""
    eval_every: int = 250
    """steps between two evaluations, each with a checkpoint"""
    seed: int = 0
    """decides initial weights, data order and dropout"""
    dtype: str = "float32"
    """float32, bfloat16, or auto: bfloat16 where the processor multiplies it"""
    compile: bool = False
    """translate the model with torch.compile, which takes a minute and a C++ compiler"""
    shard: bool = False
    """with several processes: each holds a piece of the weights (FSDP), not all of them"""

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        for name, most in (("learning_rate", math.inf), ("weight_decay", math.inf), ("warmup", math.inf), ("final", 1)):
            if not 0 <= getattr(self, name) <= most or math.isinf(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: must be 0 or more" + ", 1 at most" * (most == 1))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas}: each must be 0 or more, and less than 1")
        if self.clip is not None and not self.clip >= 0:
            raise ValueError(f"clip={self.clip}: must be the greatest length of a gradient, or 0 for no clipping")
        for name, known in (("schedule", optim.SCHEDULES), ("optimizer", ("adamw", "muon")), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")


@dataclass
class State:
    """Where a run stands, apart from its tensors: what a checkpoint keeps as JSON."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    nats: float = 0.0  # the sum of the losses of the steps since the last evaluation
    since: int = 0  # their number
    log: list[Record] = field(default_factory=list)


class Run:
    """A run while it runs: model, optimizer, and how far it has come."""

    def __init__(
        self, model: nn.Module, stream: Stream, config: TrainConfig, world: World, out: Path | None,
        tokenizer: Tokenizer | None, data: str,
    ):  # fmt: skip
        if config.shard and config.optimizer == "muon" and world.size > 1:
            raise ValueError("optimizer='muon' needs whole matrices, shard=True cuts them: choose 'adamw' or no shard")
        self.model, self.stream, self.config, self.world, self.out = model, stream, config, world, out
        self.tokenizer, self.device = tokenizer, next(model.parameters()).device
        self.dtype = working_dtype(config.dtype, self.device)
        self.runner = distributed.wrap(model.train(), world, config.shard)
        if config.compile:
            self.runner = machine.compiled(self.runner)
        self.optimizer = optim.optimizer(
            model, config.learning_rate, config.weight_decay, config.optimizer, config.betas
        )
        self.description = checkpoint.describe(model, asdict(config), data or checkpoint.digest(stream(0)))
        saved = checkpoint.load_run(out, model, self.optimizer, self.description) if out else None
        if out and not saved:
            split(stream(0), config.accumulate * world.size)  # what cannot be split must not claim the folder
        distributed.wait()  # all have seen the folder as it was, before the first of them writes
        self.state = State(**saved) if saved else State()
        self.nats = torch.tensor(self.state.nats, device=self.device)
        self.started = time.perf_counter()
        for draft in checkpoint.drafts(out) if out and world.first and not self.finished else ():
            draft.unlink()
        if out and not saved:
            self.save()  # from now on the folder is this run's

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.state.step >= self.config.steps

    def advance(self) -> None:
        """One update of the weights."""
        c, state = self.config, self.state
        factor = optim.SCHEDULES[c.schedule](state.step, c.steps, c.warmup, c.final)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        torch.manual_seed(derived_seed(c.seed, state.step, self.world.rank))  # for dropout
        batch = self.stream(state.step)
        self.nats += self.gradients(batch)
        if c.clip:
            distributed.clip(self.model.parameters(), c.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.step, state.since = state.step + 1, state.since + 1
        state.tokens += scored(batch)

    def gradients(self, batch: Batch) -> Tensor:
        """Leave the gradient of the batch's mean loss in the parameters; return this process's share of that loss.

        Every part counts by the targets it holds, so parts and processes change nothing but the order of the sums.
        """
        n, whole = self.config.accumulate, scored(batch)
        mine = split(batch, n * self.world.size)[self.world.rank * n :][:n]
        sum_of_shares = torch.zeros((), device=self.device)
        for part in mine:
            inputs, targets = tuple(x.to(self.device) for x in part.inputs), part.targets.to(self.device)
            counted = scored(part)
            with distributed.quiet(self.runner, part is not mine[-1]):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    logits = self.runner(*inputs)
                    # a part without targets teaches nothing, but has its place where processes exchange gradients
                    nats = loss(logits, targets) * (counted / whole) if counted or not whole else 0 * logits.sum()
                (nats * self.world.size).backward()  # the processes' gradients will be averaged, not added
            sum_of_shares += nats.detach()
        return sum_of_shares

    def evaluate(self, validate: Callable[[nn.Module], Record] | None) -> Record:
        """Measure, and add a record to the log; the clock stands still meanwhile."""
        state = self.state
        train_loss = float(distributed.total(self.nats)) / state.since
        self.stop_clock()
        self.model.eval()
        measured = validate(self.model) if validate else {}
        self.model.train()
        record = {"step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 3)}
        state.log.append({**record, "train_loss": train_loss, **measured})
        state.since = 0
        self.nats.zero_()
        self.started = time.perf_counter()
        return state.log[-1]

    def save(self, evaluated: bool = False) -> None:
        """Write the checkpoint; after an evaluation, first what others read, since the checkpoint vouches for it."""
        if self.out is None:
            return
        self.stop_clock()
        if evaluated and isinstance(self.model, checkpoint.MODELS):
            checkpoint.save(self.out, self.model, self.tokenizer)
        if evaluated and self.world.first:
            write(self.out / "log.jsonl", "".join(json.dumps(record) + "\n" for record in self.state.log).encode())
        self.state.nats = float(self.nats)
        checkpoint.save_run(self.out, self.model, self.optimizer, {**asdict(self.state), "run": self.description})
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        """Add the time since the clock was started to the seconds of the run."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.state.seconds += time.perf_counter() - self.started

    def speed(self) -> str:
        """Loss and tokens per second, for the progress bar."""
        seconds = self.state.seconds + time.perf_counter() - self.started
        mean = float(self.nats) * self.world.size / max(1, self.state.since)
        return f"loss {mean:.3f}, {self.state.tokens / seconds:,.0f} tokens/s"


def scored(batch: Batch) -> int:
    """Targets of a batch that count."""
    return int((batch.targets != IGNORE).sum())
