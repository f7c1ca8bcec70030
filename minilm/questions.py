"""Questions whose answers stand in a passage: some that were written for it, and thousands that a rule makes.

The form is SQuAD's: a question, a passage, and the place in it where the answer begins. `written` reads the file of
this package, questions on the held-out articles of the corpus "wikipedia"; it holds no text of these but the answers.
`made` takes something out of a sentence, a date, a number or a name, and asks for it with the words left over.

Not here: who answers them (``minilm.reading``).
References: Rajpurkar et al. 2016 (the form); Lewis et al. 2019 (training questions from sentences with a gap);
Richardson et al. 2013 (words in common as a baseline).
"""

import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from . import data
from .retrieval import Passage, pieces, sentences

FILE = Path(__file__).with_suffix(".jsonl")
"""The written questions, one a line: title, number of the paragraph, question, answer, and where that begins."""

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
COUNTED = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|hundred"
WORD = r"[A-Z]\w*(?:[-'’](?!s\b)\w+)*"
KINDS = {
    "date": rf"(?:\d{{1,2}} )?(?:{MONTHS})(?: \d{{1,2}})?,? \d{{4}}|\b(?:1\d|20)\d\d\b(?![,.]\d)"
    r"|\b\d+(?:st|nd|rd|th) century",
    "number": rf"\b\d[\d,.]*\d(?: million| billion| km| m| years|%)?|\b\d%?|\b(?:{COUNTED})\b",
    "name": rf"{WORD}(?:(?: of| of the| de| and)? {WORD}){{0,4}}|(?<=\")\w[^\"]{{2,38}}\w(?=[,.]?\")",
}
"""What an answer looks like, by kind; what fits an earlier kind is none of a later one."""

CAPITALS = "".join(filter(str.isupper, map(chr, range(2**16))))
READ = {kind: pattern.replace("[A-Z]", f"[{CAPITALS}]") for kind, pattern in KINDS.items()}
"""The same with the capitals of all scripts: for what is read. The rule keeps to `KINDS`, or its questions would change
and with them the reader that is trained on them."""

ASKS = {
    "year": ("When", "When", "In which year", "What year"),
    "day": ("When", "When", "On which day", "On what date"),
    "century": ("When", "In which century"),
    "number": ("How many", "How many", "How much", "How far", "How often"),
    "name": ("Who", "Who", "What", "What", "Which", "In which"),
    "place": ("Where", "In which place", "In which country", "Which"),
}
"""How a rule asks."""


class Question(NamedTuple):
    """A question, the passage that answers it, and where in its text the answer stands."""

    question: str
    passage: Passage
    start: int
    end: int

    @property
    def answer(self) -> str:
        """The answer, letter for letter."""
        return self.passage.text[self.start : self.end]


class Span(NamedTuple):
    """A piece of a text that could be an answer."""

    start: int
    end: int
    kind: str


def written() -> list[Question]:
    """The questions of the file, each with the piece of the corpus that holds its answer."""
    corpus = data.load("wikipedia")
    articles = {one.title: one.text.split("\n\n") for one in (*corpus.validation, *corpus.test)}
    found = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        begins = 0
        for piece in pieces(articles[row["title"]][row["paragraph"] - 1]):
            start = row["start"] - begins
            if 0 <= start < len(piece):
                passage = Passage(row["title"], piece, row["paragraph"])
                found.append(Question(row["question"], passage, start, start + len(row["answer"])))
            begins += len(piece) + 1
    return found


def candidates(text: str, kinds: Mapping[str, str] = KINDS) -> list[Span]:
    """What in a text could be an answer: dates, numbers, and names that do not merely begin a sentence.

    ``kinds`` says what they look like: `KINDS` or `READ`.

    >>> text = "In 1898 Marie Curie found two elements in Paris."
    >>> [(text[span.start : span.end], span.kind) for span in candidates(text)]
    [('1898', 'date'), ('two', 'number'), ('Marie Curie', 'name'), ('Paris', 'name')]
    """
    found: list[Span] = []
    for kind, pattern in kinds.items():
        for match in re.finditer(pattern, text):
            start, end = match.span()
            opens = kind == "name" and " " not in match[0] and re.search(r"(?:^|[.!?] )$", text[:start])
            empty = match[0].lower() in ENGLISH_STOP_WORDS and kind == "name"
            if not opens and not empty and not any(start < other.end and other.start < end for other in found):
                found.append(Span(start, end, kind))
    return found


def wanted(question: str) -> str:
    """The kind of answer that a question asks for.

    >>> wanted("When was Bern founded?"), wanted("How many people live there?"), wanted("Who leads it?")
    ('date', 'number', 'name')
    """
    asked = question.lower()
    if re.search(r"\bwhen\b|\b(?:which|what) (?:year|day|century|date)\b", asked):
        return "date"
    return "number" if re.search(r"\bhow (?:many|much|far|long|often|old|likely|high|large)\b", asked) else "name"


def fitting(question: str, text: str, kinds: Mapping[str, str] = KINDS) -> list[Span]:
    """The `candidates` of the kind that a question asks for; all of them where there is none of it."""
    spans, kind = candidates(text, kinds), wanted(question)
    return [span for span in spans if span.kind == kind] or spans


def made(passages: Iterable[Passage], seed: int = 0, each: int = 2) -> list[Question]:
    """Questions that a rule makes of passages, at most ``each`` of one, in random order.

    >>> passage = Passage("Radium", "In the winter of 1898 it was found by Marie Curie. The metal glows.")
    >>> for one in made([passage], seed=2):
    ...     print(one.question, "|", one.answer)
    Who winter of 1898 it was found by Radium? | Marie Curie
    When Radium In the winter of was found Curie? | 1898
    """
    rng = random.Random(f"questions {seed}")
    found = []
    for passage in passages:
        spans = candidates(passage.text)
        for span in rng.sample(spans, min(each, len(spans))):
            asked = _asked(passage, span, rng)
            if len(asked.split()) >= 5:
                found.append(Question(asked, passage, span.start, span.end))
    rng.shuffle(found)
    return found


def _asked(passage: Passage, span: Span, rng: random.Random) -> str:
    """A question for a span: the words around it in its sentence, most of them, after a word that asks."""
    start = 0
    for sentence in sentences(passage.text):
        start = passage.text.index(sentence, start)
        if span.end <= start + len(sentence):
            break
    before = re.findall(r"[\w'’-]+", passage.text[start : span.start])[-REACH:]
    after = re.findall(r"[\w'’-]+", passage.text[span.end : start + len(sentence)])[:REACH]
    asks = rng.choice(ASKS[_form(span.kind, passage.text[span.start : span.end], before[-1:])])
    if asks == "How many":
        asks, after = " ".join([asks, *after[:1]]), after[1:]
    around = before + after if rng.random() < 0.7 else after + before
    kept = [word for word in around if rng.random() < (0.4 if word.lower() in ENGLISH_STOP_WORDS else 0.8)]
    subject = [passage.title] if passage.title not in " ".join(kept) and rng.random() < 0.7 else []
    place = rng.choice((0, len(kept)))
    return " ".join([asks, *kept[:place], *subject, *kept[place:]]) + "?"


def _form(kind: str, answer: str, before: list[str]) -> str:
    """Which way of asking suits an answer, given the word before it."""
    if kind == "date":
        return "century" if "century" in answer else "day" if re.search(MONTHS, answer) else "year"
    return "place" if kind == "name" and before and before[0].lower() in ("in", "at", "from", "near", "to") else kind


REACH = 8
"""Words on either side of the answer that a question is made of."""
