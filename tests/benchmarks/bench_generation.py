"""Tokens per second of cached generation: ours beside `transformers`' GPT-2, same weights, same process, same text out.

Run: python tests/benchmarks/bench_generation.py (about a minute)

Greedy decoding, so that both must write the same tokens; runs of the two take turns and medians are compared.
Promised: at least twice the tokens per second of transformers for one prompt.
"""

import os
import platform
import statistics
import time

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from minilm.generate import generate_batch
from minilm.gpt import GPT
from minilm.gpt2_files import to_gpt2, to_gpt2_config
from minilm.transformer import Config

PROMPT, NEW, ROUNDS = 28, 100, 9
SHAPES = {
    "chapter 7": (1024, 128, 192, 4, 4),
    "larger": (1024, 256, 256, 6, 8),
    "GPT-2 124M": (50_257, 1024, 768, 12, 12),
}


def pair(shape: tuple[int, ...]) -> tuple[GPT, GPT2LMHeadModel]:
    """One model in both libraries; weights large enough that the text is not one token repeated."""
    torch.manual_seed(0)
    ours = GPT(Config(*shape)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(3 if parameter.dim() == 2 else 1)
    theirs = GPT2LMHeadModel(GPT2Config(**to_gpt2_config(ours.config))).eval()
    theirs.load_state_dict(to_gpt2(ours), strict=False)
    return ours, theirs


def race(name: str, batch: int, new: int, rounds: int) -> None:
    """One line of the table."""
    ours, theirs = pair(SHAPES[name])
    prompts = torch.randint(SHAPES[name][0], (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    plan = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None, bos_token_id=None)
    works = {
        "minilm": lambda: generate_batch(ours, prompts.tolist(), new, temperature=0.0),
        "transformers": lambda: theirs.generate(
            prompts, attention_mask=torch.ones_like(prompts), generation_config=plan
        )[:, PROMPT:].tolist(),
    }
    assert works["minilm"]() == works["transformers"](), "the two models disagree"  # also warms both up
    seconds = {who: [] for who in works}
    for _ in range(rounds):
        for who, work in works.items():
            start = time.perf_counter()
            work()
            seconds[who].append(time.perf_counter() - start)
    rate = {who: batch * new / statistics.median(times) for who, times in seconds.items()}
    ratio = rate["minilm"] / rate["transformers"]
    print(f"{name:12}{batch:6}{new:6}{rate['transformers']:16,.0f}{rate['minilm']:12,.0f}{ratio:10.2f}")


if __name__ == "__main__":
    machine = f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; tokens per second\n")
    print(f"{'model':12}{'batch':>6}{'new':>6}{'transformers':>16}{'minilm':>12}{'ratio':>10}")
    for name, batch in (("chapter 7", 1), ("chapter 7", 8), ("larger", 1), ("larger", 8)):
        race(name, batch, NEW, ROUNDS)
    race("GPT-2 124M", 1, 32, 3)
