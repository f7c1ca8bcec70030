"""Writing from a source: headlines by a tuned SmolLM2, interface strings by a small T5; and what can be counted in it.

What is here serves both chapter 17 and ``minilm.applications``. A model is trained at its first call and kept; each
turns a list of texts into a list of texts.

Not here: decoding (``minilm.generate``), conversation (``minilm.chat``), metrics with references (``minilm.metrics``).
References: Hu et al. 2022 (LoRA); Raffel et al. 2020 (T5); Li et al. 2016 (distinct-n).
"""

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

from . import chat, data, evaluate, finetune, llama, lora, multitask, presets
from .batching import derived_seed
from .contract import LanguageModel
from .finetune import Example
from .generate import generate_batch
from .gpt import GPT
from .multitask import Translator
from .spans import sample_pairs
from .t5 import T5
from .tasks import Pair
from .tokenizer import BPE, Tokenizer
from .train import TrainConfig

# What can be counted in a text

WORD = re.compile(r"\d[\d.,]*\d|\w[\w'’-]*")
"""A word or a number."""


def grams(tokens: Sequence[Hashable], n: int) -> list[tuple]:
    """All runs of n tokens.

    >>> grams("abcd", 3)
    [('a', 'b', 'c'), ('b', 'c', 'd')]
    """
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def repeated(tokens: Sequence[Hashable], n: int = 4) -> float:
    """Share of n-grams that occurred earlier in the same text; one minus it is known as distinct-n.

    >>> repeated("to be or to be".split(), n=2)                 # "to be" comes twice, of four pairs
    0.25
    """
    found = grams(tokens, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def copied(tokens: Sequence[Hashable], known: Collection[tuple], n: int = 5) -> float:
    """Share of n-grams that are in ``known``, the set of `grams` of a text that a model has read.

    >>> copied("so to be or not".split(), set(grams("to be or not to be".split(), 3)), n=3)
    0.6666666666666666
    """
    found = grams(tokens, n)
    return sum(gram in known for gram in found) / len(found) if found else 0.0


def usually_small(texts: Iterable[str]) -> set[str]:
    """Words that a corpus writes with a small first letter more often than not; the others are probably names.

    >>> sorted(usually_small(["The old king saw Rome.", "Rome saw the king."]))
    ['king', 'old', 'saw']
    """
    seen = Counter(word for text in texts for word in WORD.findall(text))
    return {word for word, n in seen.items() if word.islower() and n > seen[word.capitalize()]}


def invented(text: str, source: str, small: Collection[str]) -> list[str]:
    """Names and numbers of a text that its source does not hold; ``small`` are the words that are no names.

    >>> invented("King of Rome wins 3 of 4", "The king won 4 battles.", small={"king", "of", "wins"})
    ['Rome', '3']
    """
    known = {word.lower() for word in WORD.findall(source)}
    told = (word for word in WORD.findall(text) if word[0].isupper() or word[0].isdigit())
    return [word for word in told if word.lower() not in known and word.lower() not in small]


def prices(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[float]:
    """Bits per byte of each text, each read after a line end, so that its first token is scored like the others.

    Raises ValueError for an empty text.
    """
    found, line_end = [], tokenizer.encode("\n")
    for place, text in enumerate(texts):
        if not text:
            raise ValueError(f"texts[{place}] is empty: there is nothing to score")
        ids = torch.tensor([*line_end, *tokenizer.encode(text)])
        nats = evaluate.nll(model, ids)[len(line_end) - 1 :]
        found.append(evaluate.bits_per_byte(nats, len(text.encode())))
    return found


# Headlines


ASK = "Write a headline for this news article.\n\n"
"""What stands before the opening of an article."""

OPENING = 60
"""Words of an article that a model is shown; news says first what is new."""

HEADLINES = TrainConfig(
    60, 4, 1e-3, weight_decay=0.0, warmup=5, schedule="linear", final=0.0, eval_every=20, dtype="auto"
)
"""How SmolLM2 is tuned to write headlines: some minutes."""


class Article(NamedTuple):
    """A news article."""

    title: str
    body: str


def article(text: str) -> Article:
    r"""Title and body of a text whose first line is its title.

    >>> article("Rain stops play\n\nIt rained.")
    Article(title='Rain stops play', body='It rained.')
    """
    title, _, body = text.partition("\n")
    return Article(title, body.strip())


def opening(body: str, words: int = OPENING) -> str:
    """The first words of a text, on one line."""
    return " ".join(body.split()[:words])


def headlines(
    model: LanguageModel, tokenizer: BPE, bodies: Sequence[str], shots: Sequence[Article] = (), batch_size: int = 20
) -> list[str]:
    """A headline for each article, decoded greedily: one line of at most 20 tokens.

    ``shots`` are articles with their titles, shown to the model as earlier turns of the conversation.
    """
    before = []
    for shot in shots:
        before += [{"role": "user", "content": ASK + opening(shot.body)}, {"role": "assistant", "content": shot.title}]
    asked = [[*before, {"role": "user", "content": ASK + opening(body)}] for body in bodies]
    prompts, written = [chat.encode(tokenizer, talk) for talk in asked], []
    for start in range(0, len(prompts), batch_size):
        how = {"temperature": 0.0, "stop": {tokenizer.specials[chat.END]}}
        written += generate_batch(model, prompts[start : start + batch_size], 20, **how)
    return [one_line(tokenizer.decode(ids)) for ids in written]


def one_line(text: str) -> str:
    r"""The first line of an answer, without the quotes or stars that a model puts around it.

    >>> one_line('"Rain stops play"\n\nThis headline ...')
    'Rain stops play'
    """
    first = text.strip().partition("\n")[0]
    return first.removeprefix("Headline:").strip(' "*#')


def headliner(seed: int = 0, run: TrainConfig = HEADLINES) -> tuple[GPT, BPE]:
    """SmolLM2 tuned with LoRA on the titles of the news in "bbc-news"; trained at the first call, kept afterwards.

    Only the adapter is kept, since the weights below it do not move.
    """
    model, tokenizer = llama.load("smollm2")
    with torch.random.fork_rng([]):
        torch.manual_seed(derived_seed(seed, "headlines"))
        lora.wrap(model, rank=8, alpha=16, names=("qkv", "out", "inner", "outer"))
    items = [headline(tokenizer, article(text)) for text, _ in data.load_labelled("bbc-news").train]
    stream = finetune.draws(items, finetune.examples, run.batch_size, seed)
    presets.fit(Adapter(model), stream, replace(run, seed=seed), "headlines")
    return lora.merge(model).eval(), tokenizer


def headline(tokenizer: BPE, one: Article) -> Example:
    """An article as a request, and its title as the answer."""
    return finetune.turn(tokenizer, ASK + opening(one.body), one.title)


class Adapter(nn.Module):
    """A model of which only the trainable weights are seen by whoever saves it; it computes what the model does."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.parts = nn.ParameterList(p for p in model.parameters() if p.requires_grad)
        self.whole = [model]  # in a list, so that its other weights do not count as this module's

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.whole[0](*inputs)


# Translation

PREFIX = "translate English to Chinese: "
"""What the model of interface strings reads first, as every T5 of this book."""

STRINGS = TrainConfig(200, 40, 0.01, warmup=20, schedule="linear", final=0.0, optimizer="muon", eval_every=50)
"""How the translator of interface strings is trained."""


def interface(seed: int = 0, run: TrainConfig = STRINGS) -> Translator:
    """A T5 of the size of chapter 11's, trained on the interface strings in "ui"; kept like `headliner`."""
    pairs = [Pair(PREFIX + english, chinese, "ui") for english, chinese in data.load_parallel("ui", "train")]
    units = multitask.tokenizer(pairs)
    stream = sample_pairs(*([units.encode(pair[side]) for pair in pairs] for side in (0, 1)), run.batch_size, seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(derived_seed(seed, "interface"))
        model = T5(replace(multitask.SHAPE, vocab_size=units.vocab_size))
    log = presets.fit(model, stream, replace(run, seed=seed), "t5-ui", *multitask.DECISIVE)
    return Translator(model, units, log)


@dataclass
class TranslationMemory:
    """What translators' programs do first: the translation of the most similar source that is known.

    Similarity is the cosine of TF-IDF vectors of runs of 2 to 4 characters, so that other endings do little harm.

    >>> memory = TranslationMemory([("Open file", "打开文件"), ("Close window", "关闭窗口")])
    >>> memory(["Open files"])
    ['打开文件']
    """

    pairs: Sequence[tuple[str, str]]

    def __post_init__(self):
        self.vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        self.known = self.vectors.fit_transform([source for source, _ in self.pairs])

    def nearest(self, texts: Sequence[str], k: int = 1) -> list[list[tuple[str, str]]]:
        """For each text the ``k`` known pairs whose sources are most similar, the best first."""
        likeness = (self.vectors.transform(texts) @ self.known.T).toarray()
        return [[self.pairs[i] for i in (-row).argsort(kind="stable")[:k]] for row in likeness]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return [best[0][1] for best in self.nearest(texts)]
