"""One T5 for several tasks at once, which only their prefixes tell apart: how it is trained, kept and marked.

Not here: the tasks (``minilm.tasks``) and the model (``minilm.t5``).
Reference: Raffel et al. 2020, sections 2.4 (one format for all tasks) and 3.5.2 (how much of each).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from . import presets, spans, t5, tasks
from .batching import derived_seed
from .spans import END, SPECIALS, sample_pairs
from .t5 import T5, answers
from .tasks import Pair
from .tokenizer import BPE
from .train import Record, TrainConfig
from .transformer import Config

TASKS = ("fr", "zh", "date", "capital")
"""What the book's model learns."""

DECISIVE = (spans, t5, tasks)
"""The modules on which a trained T5 depends, beside those of any trained model."""

LEAST = 2_000
"""A task with fewer pairs is repeated until it has as many, or nothing of it would be learnt."""

SHAPE = Config(1, context=64, d_model=128, n_layers=2, n_heads=4, norm="rms", eps=1e-6, activation="relu",
               positions="relative", bias=False)  # fmt: skip
RUN = TrainConfig(700, 80, 0.01, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=100)


@dataclass(frozen=True)
class Translator:
    """A T5 with its tokenizer: texts in, texts out."""

    model: T5
    tokenizer: BPE
    log: list[Record]

    def __call__(self, sources: Sequence[str], max_new_tokens: int = 48) -> list[str]:
        """The greedy answer to each source, which starts with a prefix."""
        ids = [self.encode(source) for source in sources]
        return [self.tokenizer.decode(text) for text in answers(self.model, ids, max_new_tokens)]

    def encode(self, source: str) -> list[int]:
        """The ids of a source, with the `END` that the model expects."""
        return [*self.tokenizer.encode(source), END]

    def right(self, pairs: Sequence[Pair]) -> list[bool]:
        """For each pair whether the answer is the reference, character for character."""
        found = self([pair.source for pair in pairs])
        return [text == pair.target for text, pair in zip(found, pairs, strict=True)]


def mixture(names: Iterable[str] = TASKS) -> list[Pair]:
    """The training pairs of several tasks, those of small ones several times."""
    mixed = []
    for name in names:
        pairs = tasks.load(name)["train"]
        mixed += pairs * -(-LEAST // len(pairs))
    return mixed


def tokenizer(pairs: Iterable[Pair], vocab_size: int = 1024) -> BPE:
    """BPE on both sides of the pairs, each text once; one vocabulary for all languages, as in T5."""
    texts = dict.fromkeys(text for pair in pairs for text in (pair.source, pair.target))
    return BPE.train("\n".join(texts), vocab_size, SPECIALS)


def trained(names: Sequence[str] = TASKS, seed: int = 0, run: TrainConfig = RUN, shape: Config = SHAPE) -> Translator:
    """The model of chapter 11: trained at the first call, read from the cache afterwards."""
    pairs = mixture(names)
    units = tokenizer(pairs)
    sources, targets = ([units.encode(text) for text in side] for side in list(zip(*pairs, strict=True))[:2])
    stream = sample_pairs(sources, targets, run.batch_size, seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(derived_seed(seed, "weights"))
        model = T5(replace(shape, vocab_size=units.vocab_size))
    log = presets.fit(model, stream, replace(run, seed=seed), f"t5-{'-'.join(names)}", *DECISIVE)
    return Translator(model, units, log)
