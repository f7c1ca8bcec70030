"""Training beside its peers: steps like `transformers`' GPT-2, and the time to a loss beside the reference recipe.

Run: python tests/benchmarks/bench_training.py (about four minutes, most of them the reference recipe's)

1. Tokens per second of the same architecture on the same batches: ours beside GPT2LMHeadModel with torch's AdamW.
   Promised: 1.4 times.
2. Seconds of training until the whole validation set costs 1.88 nats per character: the preset `fast` beside the time
   that the preset `reference` (nanoGPT's recipe for a processor) takes for all its steps. Promised: a quarter. One
   seed here; book/runs/ablation.json has three.

The two sides of a comparison take turns in one process; the figures are medians.
"""

import os
import platform
import statistics
import time

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from minilm import optim, presets, recipe
from minilm.contract import loss
from minilm.gpt import GPT
from minilm.gpt2_files import to_gpt2, to_gpt2_config
from minilm.machine import threads
from minilm.transformer import Config

SHAPES = {"reference": (77, 64, 128, 4, 4, 12), "chapter 7": (1024, 128, 192, 4, 4, 24)}
STEPS, ROUNDS, GOAL, SEEDS = 20, 5, 1.88, 1


def steppers(vocab_size: int, context: int, d_model: int, n_layers: int, n_heads: int, batch_size: int) -> dict:
    """A function of the step number for each library, which makes one update of the same model."""
    torch.manual_seed(0)
    ours = GPT(Config(vocab_size, context, d_model, n_layers, n_heads))
    theirs = GPT2LMHeadModel(GPT2Config(**to_gpt2_config(ours.config))).train()
    theirs.load_state_dict(to_gpt2(ours), strict=False)
    rows = torch.randint(vocab_size, (STEPS, batch_size, context + 1))
    our_optimizer = optim.optimizer(ours, 1e-3)
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def our_step(i: int) -> None:
        loss(ours(rows[i, :, :-1]), rows[i, :, 1:]).backward()
        optim.clip_grad_norm(ours.parameters(), 1.0)
        our_optimizer.step()
        our_optimizer.zero_grad()

    def their_step(i: int) -> None:
        loss(theirs(rows[i, :, :-1]).logits, rows[i, :, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        their_optimizer.step()
        their_optimizer.zero_grad()

    return {"transformers": their_step, "minilm": our_step}


def race(name: str) -> None:
    """One line of the first table."""
    works, seconds = steppers(*SHAPES[name]), {"transformers": [], "minilm": []}
    for work in works.values():
        work(0)  # warms up
    for _ in range(ROUNDS):
        for who, work in works.items():
            start = time.perf_counter()
            for i in range(STEPS):
                work(i)
            seconds[who].append(time.perf_counter() - start)
    tokens = STEPS * SHAPES[name][1] * SHAPES[name][-1]
    rate = {who: tokens / statistics.median(times) for who, times in seconds.items()}
    ratio = rate["minilm"] / rate["transformers"]
    print(f"{name:12}{rate['transformers']:16,.0f}{rate['minilm']:12,.0f}{ratio:10.2f}")


def to_goal(name: str, seed: int) -> tuple[float, float, float | None]:
    """Seconds of the whole run, its last validation loss, and the seconds after which it was down at the goal."""
    chosen = recipe.with_seed(presets.PRESETS[name], seed)
    log = recipe.run(chosen, *presets.texts("small"), progress=False).log
    reached = [record["seconds"] for record in log if record["val_loss"] <= GOAL]
    return log[-1]["seconds"], log[-1]["val_loss"], min(reached, default=None)


def chase() -> None:
    """The second table."""
    runs = {"reference": [], "fast": []}
    for seed in range(SEEDS):
        for name, done in runs.items():
            done.append(to_goal(name, seed))
            seconds, final, reached = done[-1]
            when = "not reached" if reached is None else f"{reached:.1f} s"
            print(f"{name:12}{seed:6}{seconds:10.1f} s{final:14.3f}{when:>14}", flush=True)
    reached = [float("inf") if r is None else r for *_, r in runs["fast"]]
    ratio = statistics.median(reached) / statistics.median(seconds for seconds, *_ in runs["reference"])
    print(f"\nfast at {GOAL} after {ratio:.2f} of the time of the reference recipe")


if __name__ == "__main__":
    with threads() as n:
        print(f"{platform.platform()}, {os.cpu_count()} cores, {n} threads, load {os.getloadavg()[0]:.1f}")
        print(f"torch {torch.__version__}, transformers {transformers.__version__}; training tokens per second\n")
        print(f"{'model':12}{'transformers':>16}{'minilm':>12}{'ratio':>10}")
        for name in SHAPES:
            race(name)
    print(f"\n{'preset':12}{'seed':>6}{'training':>12}{'val. loss':>14}{f'at {GOAL}':>14}")
    chase()
