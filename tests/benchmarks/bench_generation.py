"""Tokens per second of cached greedy generation: ours beside `transformers`, same weights, same process, same text out.

Run: python tests/benchmarks/bench_generation.py (about eight minutes)

1. GPT-2's architecture in four sizes, random weights. Promised: at least twice the tokens per second for one prompt
   and the architecture of the reference recipe.
2. SmolLM2, read from its file by both; then ours with its weights in fewer bits. Each line also has the bytes of
   weights that a token needs, and what the machine's memory allows for them: tokens per second cannot be more than
   bytes per second over bytes per token, unless the weights fit into a cache.
3. The same model in 32-bit floats, with guesses that are checked in the same pass: looked up in the text, or else made
   by a copy in 4 bits. Eight requests, from one whose answer repeats its question to those whose answer does not,
   64 tokens each; all have longer answers than that, since transformers stops where an answer ends. Promised: 1.5
   times on their geometric mean.

Runs of the models take turns, and medians are compared.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel

from minilm import archive, chat, data, llama
from minilm.cards import CARDS
from minilm.generate import Guesser, generate, generate_batch, lookup
from minilm.gpt import GPT
from minilm.gpt2_files import to_gpt2, to_gpt2_config
from minilm.machine import threads
from minilm.quantise import quantise
from minilm.tokenizer import Tokenizer
from minilm.transformer import Config

PROMPT, NEW, ROUNDS = 28, 100, 9
SHAPES = {
    "reference": (65, 64, 128, 4, 4),
    "chapter 7": (1024, 128, 192, 4, 4),
    "larger": (1024, 256, 256, 6, 8),
    "GPT-2 124M": (50_257, 1024, 768, 12, 12),
}
TEXT = "The history of the steam engine begins"


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


def writers(theirs: torch.nn.Module, ours: dict[str, GPT], prompts: list[list[int]], new: int) -> dict[str, Callable]:
    """A function for each model that returns its texts; the first of ours must write what theirs does."""
    plan = GenerationConfig(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None, bos_token_id=None)
    ids = torch.tensor(prompts)
    their = lambda: theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plan)
    works = {"transformers": lambda: their()[:, ids.shape[1] :].tolist()}
    for name, model in ours.items():
        works[name] = lambda model=model: generate_batch(model, prompts, new, temperature=0.0)
    texts = [work() for work in works.values()]  # also warms them up
    assert texts[0] == texts[1], "the two models disagree"
    return works


def rates(works: dict[str, Callable], tokens: int, rounds: int) -> dict[str, float]:
    """Tokens per second, by the median of runs that take turns."""
    seconds = {who: [] for who in works}
    for _ in range(rounds):
        for who, work in works.items():
            start = time.perf_counter()
            work()
            seconds[who].append(time.perf_counter() - start)
    return {who: tokens / statistics.median(times) for who, times in seconds.items()}


def race(name: str, batch: int, new: int, rounds: int) -> None:
    """One line of the first table."""
    ours, theirs = pair(SHAPES[name])
    prompts = torch.randint(SHAPES[name][0], (batch, PROMPT), generator=torch.Generator().manual_seed(1)).tolist()
    works = writers(theirs, {"minilm": ours}, prompts, new)
    rate = rates(works, batch * new, rounds)
    them, us = rate["transformers"], rate["minilm"]
    print(f"{name:12}{batch:6}{new:6}{them:16,.0f}{us:12,.0f}{us / them:8.2f}", flush=True)


def bandwidth() -> float:
    """Bytes per second that come from memory: a sum over an array far larger than any cache, the best of five."""
    array, seconds = torch.ones(2**27), []  # 537 MB, about the weights of SmolLM2
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return array.nbytes / min(seconds)


def bytes_per_token(model: GPT) -> int:
    """Bytes of the weights that one step reads: all but the embeddings, of which it reads a row."""
    return sum(tensor.nbytes for part in (model.stack, model.head) for tensor in part.state_dict().values())


def fewer_bytes(theirs: torch.nn.Module, model: GPT, tokenizer: Tokenizer, new: int = 64, rounds: int = 5) -> None:
    """The second table."""
    ours = {"minilm, 32 bits": model}
    for bits in (8, 4):
        ours[f"minilm, {bits} bits"] = quantise(model, bits)
    rate, most = rates(writers(theirs, ours, [tokenizer.encode(TEXT)], new), new, rounds), bandwidth()
    print(f"\nSmolLM2, one prompt; memory gives {most / 1e9:.1f} GB/s")
    print(f"{'model':28}{'tokens/s':>10}{'ratio':>8}{'MB per token':>15}{'at most':>10}")
    for who, tokens in rate.items():
        size = bytes_per_token(ours.get(who, model))
        line = f"{who:28}{tokens:10.1f}{tokens / rate['transformers']:8.2f}{size / 1e6:15.0f}{most / size:10.0f}"
        print(line, flush=True)


def fewer_passes(theirs: torch.nn.Module, model: GPT, tokenizer: Tokenizer, new: int = 64, rounds: int = 3) -> None:
    """The third table."""
    ask = lambda text: chat.encode(tokenizer, [{"role": "user", "content": text}])
    passage = data.load("wikipedia").text("test")[:600]
    prompts = {
        "summarise a passage": ask(f"Summarise this text:\n\n{passage}"),
        "continue": tokenizer.encode(TEXT),
        "tell a story": ask("Tell me a short story about a fox and a lamp."),
        "explain": ask("Explain photosynthesis to a child."),
        "write a list": ask("List five ways to save water at home."),
        "give a recipe": ask("How do I bake bread?"),
        "write an email": ask("Write an email that asks a teacher for a later deadline."),
        "write a letter": ask("Write a letter to a landlord about a broken heating."),
    }
    small, ratios = quantise(model), []
    drafts = {"looked up": lambda: lookup, "or guessed": lambda: Guesser(small, first=lookup)}  # new for each text
    heads = "".join(f"{head:>12}{'ratio':>8}" for head in ("minilm", *drafts))
    print(f"\n{'SmolLM2, 32 bits':24}{'transformers':>14}{heads}")
    for name, prompt in prompts.items():
        works = writers(theirs, {"minilm": model}, [prompt], new)
        for head, draft in drafts.items():
            works[head] = lambda p=prompt, draft=draft: [generate(model, p, new, temperature=0.0, draft=draft())]
            assert works[head]() == works["minilm"](), "guesses changed the text"
        them, *ours = rates(works, new, rounds).values()
        ratios.append([rate / them for rate in ours])
        line = "".join(f"{rate:12.1f}{rate / them:8.2f}" for rate in ours)
        print(f"{name:24}{them:14.1f}{line}", flush=True)
    means = "".join(f"{statistics.geometric_mean(column):20.2f}" for column in zip(*ratios, strict=True))
    print(f"{'geometric mean':38}{means}", flush=True)


def main() -> None:
    """All tables."""
    with threads() as n:
        print(f"{platform.platform()}, {os.cpu_count()} cores, {n} threads, load {os.getloadavg()[0]:.1f}")
        print(f"torch {torch.__version__}, transformers {transformers.__version__}; tokens per second\n")
        print(f"{'model':12}{'batch':>6}{'new':>6}{'transformers':>16}{'minilm':>12}{'ratio':>8}")
        for batch in (1, 12):
            race("reference", batch, SHAPES["reference"][1] - PROMPT, 2 * ROUNDS)
        for name, batch in (("chapter 7", 1), ("chapter 7", 8), ("larger", 1), ("larger", 8)):
            race(name, batch, NEW, ROUNDS)
        race("GPT-2 124M", 1, 32, 3)
        path = archive.unpack(CARDS["smollm2"], r"\.gguf$")
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        model, tokenizer = llama.load(path)
        fewer_bytes(theirs, model.eval(), tokenizer)
        fewer_passes(theirs, model, tokenizer)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
