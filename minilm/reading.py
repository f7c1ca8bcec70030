"""Answering questions: from a model's memory, from a passage, and from passages that were searched for, with sources.

`SpanReader` marks the answer in a passage: MiniLM with a `SpanHead`, trained in a minute on questions that a rule makes
of Wikipedia. `ask` lets a model that has learnt to chat answer, with a passage before it or without, and says how sure
it was. `look_up` searches a library first, reads what it finds, and names the passage that the answer comes from.

Not here: the search (``minilm.retrieval``) and the questions (``minilm.questions``).
Letters: B batch, T time.
References: Devlin et al. 2019, section 4.2 (spans); Chen et al. 2017 (search, then read); Lewis et al. 2020 (retrieval
and generation).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import regex
import torch
from jaxtyping import Float
from torch import Tensor, nn

from . import bert, chat, data, presets, questions, retrieval
from .batching import derived_seed, pad
from .contract import Batch, LanguageModel
from .finetune import draws
from .generate import Reader
from .heads import SpanHead, best_span, frozen
from .machine import threads
from .questions import Question, Span
from .retrieval import Library, Passage, passages
from .tokenizer import Tokenizer
from .train import TrainConfig
from .wordpiece import PUNCTUATION, WordPiece

LENGTH = 224
"""Most tokens of a question and its passage together."""

SHORT = 50
"""Words of the passages that the reader is trained on, to save time; it reads longer ones."""

SCALE = 20.0
"""MiniLM was trained with the softmax of 20 times the cosines."""

FROZEN = 3
"""The lowest blocks stay as they are: with all in motion, a training as short as this one learns half as much."""

RUN = TrainConfig(120, 16, 5e-4, weight_decay=0.01, warmup=12, schedule="linear", final=0.0, betas=(0.9, 0.999),
                  eval_every=120)  # fmt: skip


class Answer(NamedTuple):
    """What was answered, how sure the model was, and the passage that it comes from, if it does."""

    text: str
    score: float
    passage: Passage | None = None


# Spans


class Row(NamedTuple):
    """A question and a passage as BERT reads them."""

    ids: list[int]
    types: list[int]
    places: list[tuple[int, int]]
    """where in the passage each token of it stands"""

    @property
    def first(self) -> int:
        """The first token of the passage."""
        return self.types.index(1)

    def tokens(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and the last token of what stands from ``start`` to ``end``; None where that was cut off."""
        inside = [i for i, place in enumerate(self.places, self.first) if start < place[1] and place[0] < end]
        return (inside[0], inside[-1]) if inside else None


def row(units: WordPiece, question: str, passage: str, length: int = LENGTH) -> Row:
    """``[CLS] question [SEP] passage [SEP]``, and where each token of the passage stands in it.

    A piece of a word stands where the word does, so an answer always consists of whole words. A question may take half
    of the row; what is too long is cut at the end.
    """
    words = [(match.span(), units.encode(match[0])) for match in regex.finditer(WORD, passage)]
    tokens = [(place, id) for place, ids in words for id in ids]
    asked = [units.cls_id, *units.encode(question)[: length // 2], units.sep_id]
    tokens = tokens[: length - len(asked) - 1]
    ids = [*asked, *(id for _, id in tokens), units.sep_id]
    return Row(ids, [0] * len(asked) + [1] * (len(tokens) + 1), [place for place, _ in tokens])


WORD = rf"[{PUNCTUATION}]|[^\s{PUNCTUATION}]+"
"""A word or a mark, as the tokenizer cuts them."""


def batch(units: WordPiece, some: Sequence[Question]) -> Batch:
    """Questions with the first and the last token of their answers as targets (B, 2).

    Raises ValueError where an answer is not in what the row holds of its passage.
    """
    rows, spans = [row(units, one.question, one.passage.text) for one in some], []
    for one, made in zip(some, rows, strict=True):
        if (span := made.tokens(one.start, one.end)) is None:
            raise ValueError(f"the answer {one.answer!r} lies outside the row of {one.question!r}: cut the passage")
        spans.append(span)
    return Batch(_inputs(units, rows), torch.tensor(spans))


def _inputs(units: WordPiece, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    mask = pad([[1] * len(one.ids) for one in rows], 0).bool()
    types = pad([[*one.types[:-1], 0] for one in rows], 0)  # the last mark belongs to neither: it is no answer
    return pad([one.ids for one in rows], units.pad_id), mask, types


class SpanReader:
    """Finds in a passage the words that answer a question; there is always an answer, right or wrong."""

    def __init__(self, model: nn.Module, units: WordPiece):
        self.model, self.units = model, units

    @torch.no_grad()
    def __call__(
        self, asked: Sequence[str], texts: Sequence[Passage], kinds: bool = True, batch_size: int = 32
    ) -> list[Answer]:
        """The likeliest answer to each question in its passage; the score is its log-probability, given the passage.

        With ``kinds`` only dates answer *when*, only numbers *how many*, and else names (`questions.fitting`), wherever
        the passage has such; without, any words in a row.
        """
        rows = [row(self.units, question, text.text) for question, text in zip(asked, texts, strict=True)]
        found: list[Answer] = [Answer("", -math.inf)] * len(rows)
        order = sorted((i for i in range(len(rows)) if rows[i].places), key=lambda i: len(rows[i].ids))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            with threads():
                logits = self.model(*_inputs(self.units, [rows[i] for i in places])).log_softmax(-1)
            for i, scores in zip(places, logits, strict=True):
                spans = questions.fitting(asked[i], texts[i].text, questions.READ) if kinds else []
                first, last = _choice(rows[i], scores, spans)
                begin, end = rows[i].places[first - rows[i].first][0], rows[i].places[last - rows[i].first][1]
                found[i] = Answer(texts[i].text[begin:end], float(scores[0, first] + scores[1, last]), texts[i])
        return found


def _choice(made: Row, scores: Float[Tensor, "2 T"], spans: Sequence[Span]) -> tuple[int, int]:
    """The best of the spans, as tokens; where there is none in the row, the best of all."""
    tokens = [both for span in spans if (both := made.tokens(span.start, span.end))]
    whole = lambda both: float(scores[0, both[0]] + scores[1, both[1]])
    return max(tokens, key=whole) if tokens else tuple(best_span(scores[None])[0].tolist())


@lru_cache(maxsize=1)
def span_reader(run: TrainConfig = RUN, seed: int = 0) -> SpanReader:
    """The book's reader: trained at the first call, on the training articles alone, read from the cache afterwards."""
    encoder, units = bert.load("all-minilm", dropout=0.0)
    made = questions.made(passages(data.load("wikipedia").train, retrieval.MOST, SHORT), seed)
    made = [one for one in made if len(units.encode(f"{one.question} {one.passage.text}")) <= LENGTH - 3]
    model = SpanHead(encoder, dropout=0.0)
    for part in (model.encoder.embedding, *model.encoder.stack.blocks[:FROZEN]):
        frozen(part)
    with torch.random.fork_rng([]):
        torch.manual_seed(derived_seed(seed, "weights"))
    stream = draws(made, lambda some: batch(units, some), run.batch_size, seed)
    presets.fit(model, stream, run, "span-reader", questions, retrieval)
    return SpanReader(model, units)


# A model that chats


def prompt(question: str, passage: str | None = None) -> str:
    """What a model is asked: the question alone, or a passage with it.

    >>> prompt("Who was it?")
    'Who was it?'
    """
    if passage is None:
        return question
    return f"{passage}\n\nAnswer in a few words, from the text above: {question}"


def ask(
    model: LanguageModel, units: Tokenizer, messages: Sequence[str], max_new_tokens: int = 20, batch_size: int = 32
) -> list[Answer]:
    """Greedy answers of a model that has learnt to chat, each to a conversation of its own.

    The score is the log-probability of the whole answer as far as it was written. Messages of similar length are
    answered together.
    """
    prompts = [chat.encode(units, [{"role": "user", "content": text}]) for text in messages]
    order, found = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), {}
    with threads():
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            written = _greedy(model, [prompts[i] for i in places], max_new_tokens, units.specials[chat.END])
            found |= {i: Answer(units.decode(ids), score) for i, (ids, score) in zip(places, written, strict=True)}
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def _greedy(model: LanguageModel, prompts: list[list[int]], room: int, end: int) -> list[tuple[list[int], float]]:
    """The likeliest token at each step until ``end``, and the sum of their log-probabilities, that of the end included.

    As `generate_batch` at temperature 0; that one does not say how likely its tokens were.
    """
    reader, rows = Reader(model, prompts, room), list(range(len(prompts)))
    texts, scores = [[] for _ in prompts], [0.0] * len(prompts)
    for _ in range(room):
        best = reader.logits().log_softmax(-1).max(-1)
        for row, token, score in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True):
            texts[row].append(token)
            scores[row] += score
        alive = [i for i, row in enumerate(rows) if texts[row][-1] != end]
        if not alive:
            break
        if len(alive) < len(rows):
            reader.select(alive)
            rows = [rows[i] for i in alive]
        reader.append([texts[row][-1] for row in rows])
    return [([id for id in text if id != end], score) for text, score in zip(texts, scores, strict=True)]


# Search, then read


def read(asked: Sequence[str], texts: Sequence[Passage], reader: SpanReader | None = None) -> list[Answer]:
    """The likeliest answer to each question in its passage, which may be of any length.

    What a row has no room for is cut into passages, and these are a library in which to `look_up` the answer: then it
    comes with the passage that it was found in, and that passage's number as its paragraph.
    """
    reader = reader or span_reader()
    rows = [row(reader.units, question, text.text, LENGTH + 1) for question, text in zip(asked, texts, strict=True)]
    fits = [len(made.ids) <= LENGTH for made in rows]
    pairs = [(question, text) for question, text, fit in zip(asked, texts, fits, strict=True) if fit]
    short = iter(reader([question for question, _ in pairs], [text for _, text in pairs]))

    def long(question: str, text: Passage, room: int) -> Answer:
        some = passages([data.Document(text.title, text.text)])
        shelf = Library([one._replace(text=part) for one in some for part in bert.cut(reader.units, one.text, room)])
        return look_up([question], shelf, reader, len(shelf.passages), "dense")[0]

    rooms = (LENGTH - made.first + 1 for made in rows)  # the last mark is in the frame of both
    every = zip(asked, texts, rooms, fits, strict=True)
    return [next(short) if fit else long(question, text, room) for question, text, room, fit in every]


def look_up(
    asked: Sequence[str], library: Library, reader: SpanReader | None = None, k: int = 3, how: str = "hybrid"
) -> list[Answer]:
    """Answers from a library: the likeliest span of the ``k`` passages that the search finds, and its source.

    How likely a span is has two factors: the passage, given the question, by the softmax that MiniLM was trained with,
    and the span, given the passage. Raises ValueError for k below 1, and what `Library.scores` raises.
    """
    if k < 1:
        raise ValueError(f"k={k}: read at least 1 passage")
    reader = reader or span_reader()
    found = np.argsort(-library.scores(asked, how), axis=1, kind="stable")[:, :k]
    near = SCALE * np.take_along_axis(library.dense(asked), found, axis=1)
    pairs = [(question, library.passages[i]) for question, row in zip(asked, found, strict=True) for i in row]
    read = reader(*map(list, zip(*pairs, strict=True)))
    likely = np.array([answer.score for answer in read]).reshape(near.shape) + near
    best = likely.argmax(1)
    return [read[q * near.shape[1] + i]._replace(score=float(likely[q, i])) for q, i in enumerate(best.tolist())]
