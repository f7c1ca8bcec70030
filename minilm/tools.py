"""The tools of the book's applications: from the name of a model to what answers examples; and how answers are marked.

Each function named like a task gives an `Answer` for a model and its options. What the tools are made of, models and
libraries of passages, is loaded once and shared.

Not here: the table of tasks (``minilm.applications``), and how a method works, which its own module says.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import regex
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from . import (
    bert,
    chat,
    constrain,
    data,
    heads,
    metrics,
    models,
    multitask,
    prompting,
    reading,
    retrieval,
    summary,
    tasks,
    writing,
)
from .generate import generate_batch
from .machine import threads
from .metrics import Estimate
from .multitask import Translator
from .retrieval import Library, Passage

Answer = Callable[[list[dict[str, Any]]], list[Any]]
"""A tool at work: one output for each example."""

BATCH = 8
"""Texts that a language model continues at once."""


@lru_cache(maxsize=2)
def translator(of: str = "phrases") -> Translator:
    """The T5 of chapter 11, or with "strings" that of chapter 17 for interfaces; trained at the first call."""
    return multitask.trained() if of == "phrases" else writing.interface()


def library(folder: str | Path | None = None) -> Library:
    """The passages of a file or a folder of texts, read anew where they changed; without one, those of "wikipedia"."""
    return _library(folder, () if folder is None else data.state(folder))


@lru_cache(maxsize=2)
def _library(folder: str | Path | None, state: tuple) -> Library:
    return Library(retrieval.wikipedia() if folder is None else retrieval.read(folder))


@lru_cache(maxsize=2)
def bag_of_words(name: str) -> Pipeline:
    """Logistic regression on the words and pairs of words of a labelled set; seconds to train."""
    texts, labels = zip(*data.load_labelled(name).train, strict=True)
    bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(bag, LogisticRegression(C=10, max_iter=2000)).fit(texts, labels)


@lru_cache(maxsize=2)
def fine_tuned(name: str) -> heads.Classifier:
    """MiniLM fine-tuned on a labelled set, as in chapter 10; minutes to train, at the first call ever."""
    return bert.classifier(name)[0]


# Classes


def sentiment(model: str) -> Answer:
    """For or against: by a word list, by film reviews (their words, or a fine-tuned encoder), or by asking a model.

    The encoder reads a long text in pieces and takes the mean of what it makes of them.
    """
    classes = verdicts()
    if model == "lexicon":
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # reads its word list from disk

        tone = SentimentIntensityAnalyzer().polarity_scores
        return lambda examples: [classes[tone(one["text"])["compound"] > 0] for one in examples]
    if model == "bag-of-words":
        return lambda examples: [classes[c] for c in bag_of_words("rotten-tomatoes").predict(_texts(examples))]
    if model == "all-minilm":
        units = retrieval.encoder()[1]
        logits = partial(bert.averaged, partial(bert.logits, fine_tuned("rotten-tomatoes"), units), units)
        return lambda examples: [classes[c] for c in logits(_texts(examples)).argmax(1)]
    return prompted(model, classes, ("Review", "Sentiment"), prompting.CONTENT_FREE)


def topics(model: str, labels: Sequence[str] | str | None = None) -> Answer:
    """One of ``labels`` (a sequence, or names with commas between them; without it the topics of the BBC's news).

    The encoder reads a long text in pieces, as `sentiment` does.
    """
    usual, labels = data.card("bbc-news").classes, choices(labels)
    if model == "bag-of-words":
        if set(labels) != set(usual):
            raise ValueError(f"labels={labels!r}: bag-of-words has learnt {', '.join(usual)}; choose another model")
        return lambda examples: [usual[c] for c in bag_of_words("bbc-news").predict(_texts(examples))]
    if model == "all-minilm":
        encoder, units = retrieval.encoder()
        embed = partial(bert.embed, encoder, units, length=retrieval.TOKENS)
        vectors = partial(bert.averaged, embed, units, length=retrieval.TOKENS)
        return lambda examples: [labels[c] for c in (vectors(_texts(examples)) @ vectors(labels).T).argmax(1)]
    return prompted(model, labels, ("Text", "Topic"))  # texts that say nothing do not help here: chapter 15


def verdicts() -> list[str]:
    """What `sentiment` may say."""
    return list(data.card("rotten-tomatoes").classes)


def choices(labels: Sequence[str] | str | None = None) -> list[str]:
    """What `topics` may say. Raises ValueError for labels that leave no choice."""
    labels = data.card("bbc-news").classes if labels is None else labels
    labels = [one.strip() for one in labels.split(",")] if isinstance(labels, str) else list(labels)
    if len(labels) < 2 or not all(labels):
        raise ValueError(f"labels={labels!r}: give two or more names, such as sport,politics")
    return labels


def prompted(model: str, labels: Sequence[str], names: tuple[str, str], neutral: Sequence[str] = ()) -> Answer:
    """Labels by their scores after a prompt without examples, calibrated where ``neutral`` texts are given."""
    judge = prompting.Prompted(*models.load(model), labels, partial(prompting.few_shot, names=names), neutral)

    def answers(examples: list[dict[str, Any]]) -> list[str]:
        with threads():
            return [labels[c] for c in judge(_texts(examples)).argmax(1)]

    return answers


def _texts(examples: list[dict[str, Any]]) -> list[str]:
    return [one["text"] for one in examples]


def classified(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """How often the class is right, and F1 over the classes."""
    return {"accuracy": metrics.accuracy(outputs, references), "f1": metrics.f1(outputs, references)}


# Text to data


def extract(model: str, schema: Mapping[str, Any] | str | Path | None = None) -> Answer:
    """JSON by ``schema``, an object or the file that holds one; None where the model wrote something else."""
    if schema is None:
        raise ValueError("extract needs the option schema: a JSON schema of an object, or the file that holds it")
    if not isinstance(schema, Mapping):
        try:
            schema, file = json.loads(data.read_text(schema)), schema
        except ValueError as error:
            raise ValueError(f"schema={schema}: the file is no JSON ({error}); write a JSON schema there") from error
        if not isinstance(schema, Mapping):
            raise ValueError(f"schema={file}: the file holds no JSON object; write a JSON schema there")
    constrain.grammar(schema)  # raises ValueError before anything is loaded
    written = partial(constrain.extract, *models.load(model))
    return lambda examples: [constrain.checked(one, schema) for one in written(_texts(examples), schema)]


def extracted(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """How often the output is valid, how often it is the right object, and how many of its values are right."""
    pairs = list(zip(outputs, references, strict=True))
    has = lambda out, key, value: isinstance(out, Mapping) and key in out and out[key] == value
    values = [np.mean([has(out, *one) for one in ref.items()]) if ref else float(out == ref) for out, ref in pairs]
    mean = partial(metrics.estimate, lambda marks, axis=-1: marks.mean(axis))
    valid = [float(out is not None) for out in outputs]
    return {"valid": mean(valid), "exact": mean([float(out == ref) for out, ref in pairs]), "values": mean(values)}


# Search and questions


def search(model: str, folder: str | Path | None = None, k: int = 10) -> Answer:
    """The best ``k`` passages of Wikipedia or of ``folder``, each with its title, text and score."""
    shelf = library(folder)
    return lambda examples: [hits(shelf, one["query"], k, model) for one in examples]


def hits(shelf: Library, query: str, k: int, how: str) -> list[dict[str, Any]]:
    """The best ``k`` passages of a library, as they are shown."""
    show = lambda hit: {"title": hit.passage.title, "text": hit.passage.text, "score": hit.score}
    return [show(hit) for hit in shelf.search(query, k, how)]


def found(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """How early a passage of the right title comes; one that is not among the hits counts as never found."""
    fits = lambda hit, title: hit["title"] == title and hit["score"] != 0  # at 0 no word is shared: found by luck
    first = lambda hits, title: next((r for r, hit in enumerate(hits, start=1) if fits(hit, title)), math.inf)
    ranks = [first(hits, title) for hits, title in zip(outputs, references, strict=True)]
    return {"recall@1": metrics.recall_at(ranks, 1), "recall@5": metrics.recall_at(ranks, 5), "mrr": metrics.mrr(ranks)}


def answer(model: str, folder: str | Path | None = None) -> Answer:
    """An example's own ``passage`` is read, by the span reader in pieces where it is long.

    Where it has none, the span reader searches, and others know by heart.
    """
    if folder is not None and model != "span-reader":
        raise ValueError(f"folder={str(folder)!r}: only span-reader searches it; {model} answers by heart")
    passage = lambda one: (one.get("passage") or "").strip()

    def spans(examples: list[dict[str, Any]]) -> list[reading.Answer]:
        given = [one for one in examples if passage(one)]
        texts = [Passage(one.get("title") or "", one["passage"]) for one in given]
        reader = reading.span_reader()
        read = iter(reading.read([one["question"] for one in given], texts, reader))
        asked = [one["question"] for one in examples if not passage(one)]
        looked = iter(reading.look_up(asked, library(folder), reader) if asked else [])
        return [next(read if passage(one) else looked) for one in examples]

    def spoken(examples: list[dict[str, Any]]) -> list[reading.Answer]:
        asked = [reading.prompt(one["question"], passage(one) or None) for one in examples]
        return reading.ask(*models.load(model), asked)

    def show(answer: reading.Answer) -> dict[str, Any]:
        return {"answer": answer.text} | (answer.passage._asdict() if answer.passage else {})

    answers = spans if model == "span-reader" else spoken
    return lambda examples: [show(answer) for answer in answers(examples)]


def answered(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """How often the answer is the right one, and how many words they share."""
    said = [one["answer"] for one in outputs]
    return {"exact match": metrics.exact_match(said, references), "token f1": metrics.token_f1(said, references)}


# Writing


def summarise(model: str, most: int | None = None) -> Answer:
    """Sentences of the text with ``most`` words (80) or fewer; or a headline, by a language model or one tuned for it.

    Raises ValueError for ``most`` below 1, and where it says nothing.
    """
    if most is not None and most < 1:
        raise ValueError(f"most={most}: a summary has 1 word or more")
    if model in summary.HOW:
        return lambda examples: [summary.summarise(text, most or 80, model) for text in _texts(examples)]
    if most is not None:
        raise ValueError(f"most={most}: only {', '.join(summary.HOW)} count words; {model} writes a headline")
    writer = writing.headliner() if model == "headlines" else models.load(model)
    return lambda examples: writing.headlines(*writer, _texts(examples))


def overlap(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """ROUGE: the words, the pairs of words and the longest sequence of words shared with the reference."""
    return {kind: metrics.rouge(outputs, references, kind) for kind in ("rouge1", "rouge2", "rougeL")}


def source(text: str, to: str) -> str:
    """A text as the T5 expects it: on one line, after a prefix. ValueError for a language that it has not learnt."""
    if to not in PREFIXES:
        raise ValueError(f"to={to!r}: choose one of {', '.join(PREFIXES)}, which the models have learnt")
    return PREFIXES[to] + " ".join(text.split())


PREFIXES = {"fr": tasks.PREFIXES["fr"], "zh": tasks.PREFIXES["zh"], "ui": writing.PREFIX}
"""What stands before a text: to be put into French, into Chinese, or into Chinese as part of an interface."""


def translate(model: str, to: str = "fr") -> Answer:
    """French (``to="fr"``), Chinese (``to="zh"``), or Chinese for the strings of an interface (``to="ui"``)."""
    source("", to)
    of = "strings" if to == "ui" else "phrases"
    return lambda examples: translator(of)([source(text, to) for text in _texts(examples)])


def translated(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """How often the translation is the reference, and how much of it is there."""
    cut = "zh" if any(regex.search(r"\p{Han}", text) for text in references) else "13a"
    exact = metrics.accuracy(outputs, references)
    return {"exact": exact, "chrf": metrics.chrf(outputs, references), "bleu": metrics.bleu(outputs, references, cut)}


def go_on(model: str, max_new_tokens: int = 60, temperature: float = 0.0, seed: int = 0) -> Answer:
    """What comes after a prompt."""
    units = models.load(model)[1]
    how = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    return lambda examples: _written(model, [units.encode(one["prompt"]) for one in examples], how)


def converse(
    model: str, system: str | None = None, max_new_tokens: int = 120, temperature: float = 0.0, seed: int = 0
) -> Answer:
    """The answer to a message; ``system`` says how the assistant is to behave."""
    units = models.load(model)[1]
    how = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    first = [] if system is None else [{"role": "system", "content": system}]
    turn = lambda one: chat.encode(units, [*first, {"role": "user", "content": one["message"]}])
    return lambda examples: _written(model, [turn(one) for one in examples], how)


def _written(name: str, prompts: list[list[int]], how: dict[str, Any]) -> list[str]:
    """What a model writes after each prompt."""
    model, units = models.load(name)
    stop = {id for name, id in getattr(units, "specials", {}).items() if name == chat.END}
    texts: list[str] = []
    with threads():
        for start in range(0, len(prompts), BATCH):
            part = how | {"seed": how["seed"] + start}  # or texts of one prompt would return with every batch
            texts += map(units.decode, generate_batch(model, prompts[start : start + BATCH], stop=stop, **part))
    return texts


def replied(outputs: list[Any], references: list[Any]) -> dict[str, Estimate]:
    """How many words, and runs of characters, are shared with the reference."""
    return {"token f1": metrics.token_f1(outputs, references), "chrf": metrics.chrf(outputs, references)}
