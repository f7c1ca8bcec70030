"""Runs the experiments that take too long for a notebook and writes what they measured to ``book/runs/NAME.json``.

    python book/_tools/record.py ablation       # from the reference recipe to the fast one, one change at a time
    python book/_tools/record.py scaling        # loss against size, at ten tokens per parameter
    python book/_tools/record.py compile        # a step with and without torch.compile
    python book/_tools/record.py long           # the preset `long`, a quarter of an hour
    python book/_tools/record.py half-hour      # twice its parameters, in 16 bits and with dropout
    python book/_tools/record.py gpt            # the preset `gpt` with five times its steps
    python book/_tools/record.py bench          # what `make bench` prints
    python book/_tools/record.py labels         # what pretraining is worth, by the number of labels
    python book/_tools/record.py smollm2        # SmolLM2 tuned with LoRA and in full
    python book/_tools/record.py headlines      # SmolLM2 writes headlines: asked, with examples, tuned

In the first two, runs go side by side, each on a core of its own. Chapters 7, 8, 10, 13 and 17 show the rows.
"""

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import titles
import torch
import tuning

from minilm import optim, presets, recipe
from minilm.batching import sample
from minilm.contract import loss
from minilm.files import write
from minilm.machine import cores
from minilm.presets import PRESETS, RUNS
from minilm.recipe import Recipe
from minilm.train import TrainConfig

CHANGES = {
    "Muon at its rate": ("optimizer", "learning_rate", "schedule", "final", "warmup"),
    "rotary positions": ("positions",),
    "squared ReLU": ("activation",),
    "short convolution": ("conv",),
    "an output layer of its own": ("tied",),
    "three blocks, not four": ("n_layers",),
}
"""What leads from the reference to the fast recipe, in the order in which it is changed."""

HALF_HOUR = {
    "d_model": 256, "n_layers": 6, "n_heads": 4, "dropout": 0.2, "steps": 3700, "eval_every": 250, "dtype": "auto"
}  # fmt: skip
"""What twice the time allows, beside the preset `long`."""

BAR = 1.88
"""Nats per character; how long a run took to get there is kept with its row."""


def ablation() -> Iterator[tuple[str, str, Recipe, int]]:
    """The reference in full; cut to the steps of the fast recipe; then one change more at a time; one taken back."""
    start, goal = PRESETS["reference"], PRESETS["fast"]
    chain = {"reference, all steps": start}
    current = changed(start, steps=goal.train.steps, warmup=goal.train.steps // 20, eval_every=goal.train.steps)
    chain["reference, few steps"] = current
    for name, fields in CHANGES.items():
        chain["+ " + name] = current = changed(current, **{field: asked(goal, field) for field in fields})
    chain["+ " + name] = goal  # the same, measured more often
    assert changed(current, eval_every=goal.train.eval_every) == replace(goal, name=current.name), "CHANGES lacks one"
    chain["fast, with GELU after all"] = changed(goal, activation="gelu", eval_every=goal.train.steps)
    for seed in range(3):
        yield from ((name, "small", recipe.with_seed(one, seed), seed) for name, one in chain.items())


def asked(one: Recipe, field: str) -> Any:
    """The value of a field of the model or of its training."""
    return getattr(one.model if hasattr(one.model, field) else one.train, field)


def scaling() -> Iterator[tuple[str, str, Recipe, int]]:
    """Four layers of growing width, the largest first since it takes longest, at ten tokens per parameter."""
    for width in (96, 64, 48, 32, 24, 16):
        shape = replace(PRESETS["fast"].model, d_model=width, n_layers=4, n_heads=width // 8)
        steps = 10 * 12 * 4 * width**2 // (16 * 64)
        how = TrainConfig(steps, 16, 1e-2, warmup=steps // 10, final=0.0, optimizer="muon", eval_every=steps)
        for seed in range(2):
            yield f"width {width}", "shakespeare", recipe.with_seed(Recipe("scaling", shape, how), seed), seed


def changed(old: Recipe, **fields) -> Recipe:
    """The recipe with fields of its model or of its training replaced."""
    model = {k: v for k, v in fields.items() if hasattr(old.model, k)}
    return replace(
        old,
        model=replace(old.model, **model),
        train=replace(old.train, **{k: v for k, v in fields.items() if k not in model}),
    )


def measure(name: str, corpus: str, one: Recipe, seed: int) -> dict:
    """Trains a recipe on this core: one row."""
    model, _, log = recipe.run(one, *presets.texts(corpus), progress=False)
    reached = next((record["seconds"] for record in log if record["val_loss"] <= BAR), None)
    inner = sum(p.numel() for p in model.stack.parameters() if p.dim() == 2)
    size = sum(p.numel() for p in model.parameters())
    print(name, seed, log[-1], file=sys.stderr, flush=True)
    row = {"name": name, "seed": seed, "parameters": size, "inner": inner, "reached": reached}
    return {**row, **{key: log[-1][key] for key in ("val_loss", "train_loss", "tokens", "seconds")}}


def take_core(free: multiprocessing.Queue) -> None:
    """Keeps this worker on one core, so that PyTorch uses one thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {free.get()})


def side_by_side(runs: list) -> list[dict]:
    """One row a run, in the order given; as many at a time as there are cores."""
    context, allowed = multiprocessing.get_context("spawn"), sorted(os.sched_getaffinity(0))
    free = context.Queue()
    for core in allowed:
        free.put(core)
    with ProcessPoolExecutor(len(allowed), context, take_core, (free,)) as pool:
        return list(pool.map(measure, *zip(*runs, strict=True)))


def compiled() -> list[dict]:
    """Seconds of the first step and of a later one, of two recipes, with and without torch.compile."""
    return [step_time(name, translate) for name in ("reference", "fast") for translate in (False, True)]


def step_time(name: str, translate: bool, steps: int = 40) -> dict:
    """Seconds of the first and of the median later step of a recipe, on this machine's cores."""
    one, text = PRESETS[name], presets.texts("small")[0]
    units = recipe.make_tokenizer(one, text)
    model = recipe.build(one, units.vocab_size)
    stream = sample(torch.tensor(units.encode(text)), one.context, one.train.batch_size)
    optimizer = optim.optimizer(model, 1e-3, kind=one.train.optimizer)
    runner, times = torch.compile(model) if translate else model, []
    for step in range(steps):
        started, batch = time.perf_counter(), stream(step)
        loss(runner(*batch.inputs), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return {"name": name, "compile": translate, "first": times[0], "step": statistics.median(times[steps // 2 :])}


def machine() -> str:
    """The processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {cores()} core{'s' * (cores() > 1)}"


def long_run(corpus: str, one: Recipe) -> list[dict]:
    """The log of one long run on all cores; kept on the way, so that the same command goes on after a stop."""
    return recipe.run(one, *presets.texts(corpus), RUNS.parents[1] / "_build" / "runs" / one.name).log


def bench() -> list[dict]:
    """What each script of `make bench` prints."""
    rows = []
    for script in sorted((RUNS.parents[1] / "tests" / "benchmarks").glob("bench_*.py")):
        done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"name": script.stem.removeprefix("bench_"), "output": done.stdout})
        print(done.stdout, file=sys.stderr, flush=True)
    return rows


EXPERIMENTS = {
    "ablation": lambda: side_by_side(list(ablation())),
    "scaling": lambda: side_by_side(list(scaling())),
    "compile": compiled,
    "long": lambda: long_run("small", PRESETS["long"]),
    "half-hour": lambda: long_run("small", replace(changed(PRESETS["long"], **HALF_HOUR), name="half-hour")),
    "gpt": lambda: long_run("shakespeare", changed(PRESETS["gpt"], steps=5 * PRESETS["gpt"].train.steps)),
    "bench": bench,
    "labels": lambda: list(tuning.labels()),
    "smollm2": lambda: list(tuning.smollm2()),
    "headlines": lambda: list(titles.headlines()),
}

if __name__ == "__main__":
    experiment = sys.argv[1]
    rows = EXPERIMENTS[experiment]()
    command = f"python book/_tools/record.py {experiment}"
    record = {"command": command, "machine": machine(), "date": date.today().isoformat(), "rows": rows}
    write(RUNS / f"{experiment}.json", (json.dumps(record, indent=1) + "\n").encode())
