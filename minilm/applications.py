"""What language models are for, as one table: each application of the book, to be used on a reader's own examples.

``load`` gives the tool for a task, ``run`` also marks its answers where the right ones are known, ``read`` takes the
examples from a file. The command line does the same: ``python -m minilm evaluate MODEL --task TASK --file FILE``.
`APPLICATIONS` is the table: all tasks with their models, fields and options.

Not here: what does a task (``minilm.tools``), and what marks it (``minilm.metrics``).
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import summary, tools
from .examples import Example, read
from .metrics import Estimate
from .tools import Answer
from .vocabulary import check_text

__all__ = ["APPLICATIONS", "Application", "Tool", "load", "read", "run"]


@dataclass(frozen=True)
class Application:
    """A task as its user sees it."""

    name: str
    does: str
    fields: tuple[str, ...]
    """what an example holds; the first can stand for the whole"""
    reference: str | None
    """the field of the right answer, where an example has one"""
    models: tuple[str, ...]
    """what can do it, the default first"""
    make: Callable[..., Answer]
    """of a model's name and options, what answers; at the first call it may be fetched or trained"""
    measures: Callable[[list[Any], list[Any]], dict[str, Estimate]] | None = None
    """marks of all outputs, given the references"""
    labels: Callable[..., list[str]] | None = None
    """of its options, all that can be said, where that is known before"""
    any_model: bool = False
    """whether a folder, a .gguf file or a preset will do as well"""

    @property
    def options(self) -> tuple[str, ...]:
        """What `load` takes beside the model."""
        return tuple(inspect.signature(self.make).parameters)[1:]


@dataclass(frozen=True)
class Tool:
    """An application with one of its models: examples in, as many outputs out."""

    application: Application
    model: str
    answer: Answer
    labels: Sequence[str] | None = None
    """all that can be said; None where nobody knows"""

    def __call__(self, examples: Sequence[Example]) -> list[Any]:
        """The output for each example. Raises ValueError where an example lacks a field, or a text is none."""
        return self.answer(self.checked(examples))

    def checked(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The examples by the names of their fields. Raises ValueError where one lacks a field, or a text is none."""
        if isinstance(examples, str | Mapping) or not len(examples):
            raise ValueError(f"examples is {examples!r:.60}: give a list of one or more")
        name, fields = self.application.name, self.application.fields
        found = [dict(one) if isinstance(one, Mapping) else {fields[0]: one} for one in examples]
        for place, one in enumerate(found):
            for field in fields:
                if not isinstance(one.get(field), str) or not one[field].strip():
                    problem = f"is {one[field]!r:.60}" if field in one else f"is missing beside {', '.join(one)}"
                    raise ValueError(f"examples[{place}]: {field!r} {problem}; {name} needs a text there")
            for field in ("passage", "title"):
                if not isinstance(one.get(field) or "", str):
                    raise ValueError(f"examples[{place}]: {field!r} is {one[field]!r:.60}; give a text, or nothing")
            try:  # now, and not when all is done and the answers are to be written
                check_text(json.dumps(one, ensure_ascii=False, default=str))
            except ValueError as error:
                raise ValueError(f"examples[{place}]: {error}") from error
        return found

    def references(self, examples: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The right answers; none where no example has one.

        Raises ValueError where some lack it, where it is of a wrong kind, or nothing that the tool can say.
        """
        field, name = self.application.reference, self.application.name
        right = [one.get(field) for one in examples]
        lacking = [place for place, value in enumerate(right) if value is None or value == ""]
        if len(lacking) == len(right):
            return []
        if lacking:
            raise ValueError(f"examples[{lacking[0]}] has no {field!r}, which others have: give all of them, or none")
        for place, value in enumerate(right):
            several = value if name == "answer" and isinstance(value, list) and value else [value]
            if not all(isinstance(one, Mapping if field == "data" else str) for one in several):
                kind = "an object" if field == "data" else "a text"
                raise ValueError(f"examples[{place}]: {field!r} is {value!r:.60}; {name} needs {kind} there")
            if self.labels is not None and value not in self.labels:
                says = f"{self.model} says one of {', '.join(self.labels)}"
                raise ValueError(f"examples[{place}]: {field!r} is {value!r:.60}, and {says}: write it as there")
        return right


def load(task: str, model: str | None = None, **options: Any) -> Tool:
    """The tool for a task; without ``model``, by the first that `APPLICATIONS` names.

    Raises ValueError for a task, a model or an option that there is not, and DataError where data cannot be fetched.

    >>> load("sing")                                                                        # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: there is no task 'sing': choose one of sentiment, topics, ...
    """
    if task not in APPLICATIONS:
        raise ValueError(f"there is no task {task!r}: choose one of {', '.join(APPLICATIONS)}")
    application = APPLICATIONS[task]
    model = model or application.models[0]
    if model not in application.models and not application.any_model:
        raise ValueError(f"{task} is not done by {model!r}: choose one of {', '.join(application.models)}")
    for option in options.keys() - set(application.options):
        known = ", ".join(application.options) or "none"
        raise ValueError(f"{task} has no option {option!r}: its options are {known}")
    labels = application.labels(**options) if application.labels else None
    return Tool(application, model, application.make(model, **options), labels)


def run(task: str, examples: Sequence[Example], model: str | None = None, **options: Any) -> dict[str, Any]:
    """What a tool makes of the examples: ``outputs``, and ``measures`` with intervals where all have a right answer.

    Raises what `load` and `Tool` raise, before anything is answered.
    """
    tool = load(task, model, **options)
    given = tool.checked(examples)
    right = tool.references(given)
    outputs = tool.answer(given)
    result = {"task": task, "model": tool.model, "examples": len(given), "outputs": outputs}
    if right and tool.application.measures:
        result["measures"] = tool.application.measures(outputs, right)
    return result


SMOLLM2 = ("smollm2",)
APPLICATIONS = {
    one.name: one
    for one in (
        Application("sentiment", "says whether a text is for or against what it speaks of", ("text",), "label",
                    ("bag-of-words", "lexicon", "all-minilm", *SMOLLM2), tools.sentiment, tools.classified,
                    tools.verdicts, any_model=True),
        Application("topics", "chooses one of some labels for a text", ("text",), "label",
                    ("all-minilm", "bag-of-words", *SMOLLM2), tools.topics, tools.classified,
                    tools.choices, any_model=True),
        Application("extract", "writes what a text says as JSON of a given form", ("text",), "data",
                    SMOLLM2, tools.extract, tools.extracted, any_model=True),
        Application("search", "finds the passages that a query asks for, in Wikipedia or in a folder", ("query",),
                    "title", ("hybrid", "dense", "bm25", "tfidf"), tools.search, tools.found),
        Application("answer", "answers a question, from a passage, Wikipedia, a folder or memory",
                    ("question",), "answer", ("span-reader", *SMOLLM2), tools.answer, tools.answered, any_model=True),
        Application("summarise", "takes the sentences that stand for a text, or writes a headline", ("text",),
                    "summary", (*summary.HOW, *SMOLLM2, "headlines"), tools.summarise, tools.overlap,
                    any_model=True),
        Application("translate", "puts an English phrase into French or Chinese", ("text",),
                    "translation", ("t5",), tools.translate, tools.translated),
        Application("continue", "goes on where a text ends", ("prompt",), "continuation", SMOLLM2, tools.go_on,
                    tools.replied, any_model=True),
        Application("chat", "answers a message", ("message",), "answer", SMOLLM2, tools.converse, tools.replied,
                    any_model=True),
    )
}  # fmt: skip
"""Every application by its name."""
