"""Find the passages that a query asks for: by the words they share, by vectors of their meaning, and by both.

A `Library` holds passages and scores every one of them for every query: TF-IDF, BM25, MiniLM's vectors, or the ranks
of the last two added up. `ranks` says where the first right passage came, which ``minilm.metrics`` turns into marks.

Not here: an index for more passages than one product of matrices can score, and reading what was found
(``minilm.reading``). Letters: Q queries, N passages, D width.
References: Robertson & Zaragoza 2009 (BM25); Kamphuis et al. 2020 (its variants); Reimers & Gurevych 2019 (vectors);
Cormack et al. 2009 (fused ranks).
"""

import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import bm25s
import numpy as np
import regex
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from . import bert, data
from .data import Document
from .files import write
from .machine import threads
from .metrics import SINGLE

TOKENS = 128
"""MiniLM reads this much of a passage; it was trained on texts of this length."""

WORDS = 100
"""A longer paragraph becomes several passages."""

MOST = 16
"""Paragraphs of an article that the book searches: all of them would take MiniLM four times as long to read."""

WIDE_END = r"(?<=[。！？])[\"'”’」』》〉）)】\]]*+"
SENTENCE = regex.compile(
    r"(?<=[.!?])(?<!\b\p{Lu}\.)(?<!\b(?:St|Dr|Mr|Ms|vs|No)\.)(?<!\b(?:Mrs|e\.g|i\.e)\.)"
    r"(?:[\"'”’“»)\]]|\s»)*\s+(?=[\"'“‘„«(]?\s?[\p{Lu}0-9])"
    rf"|{WIDE_END}\s*+(?![。！？…，、；：])"
)
"""The gap between two sentences: after a full stop that ends no initial and no title, before a capital or a digit;
after a full stop of Chinese or Japanese anywhere, since no blank follows it."""

PART = regex.compile(rf"[{SINGLE}]|[^{SINGLE}]+")
"""A Chinese or Japanese character, or what stands between such."""


class Passage(NamedTuple):
    """A piece of a document that can be found, and cited by title and number of the paragraph."""

    title: str
    text: str
    paragraph: int = 1

    @property
    def source(self) -> str:
        """Where it stands."""
        return f"{self.title}, paragraph {self.paragraph}"


class Hit(NamedTuple):
    """A passage that was found, its score, and its place in the library."""

    passage: Passage
    score: float
    place: int


def sentences(text: str) -> list[str]:
    """A text cut into sentences by a rule, which is right most of the time.

    >>> sentences("Dr. Who met J. Smith in 1963. (He left.) Was it 3.5 p.m.? Yes")
    ['Dr. Who met J. Smith in 1963.', '(He left.)', 'Was it 3.5 p.m.?', 'Yes']
    >>> sentences("« C'était l'été. » Était-ce vrai ? „Ja.“ Ähnlich É. Zola.")
    ["« C'était l'été. »", 'Était-ce vrai ?', '„Ja.“', 'Ähnlich É. Zola.']
    >>> sentences("他问：“有猫吗？”有。")
    ['他问：“有猫吗？”', '有。']
    """
    cuts = [0, *(gap.end() for gap in SENTENCE.finditer(text)), len(text)]
    return [text[start:end].strip() for start, end in pairwise(cuts) if text[start:end].strip()]


def joined(texts: Iterable[str]) -> str:
    """Sentences as one text: with a blank after each, but for those that end as Chinese and Japanese ones do.

    >>> joined(["One.", "Two.", "猫。", "狗。"])
    'One. Two. 猫。狗。'
    """
    return "".join(text if regex.search(rf"{WIDE_END}$", text) else f"{text} " for text in texts).rstrip()


def n_words(text: str) -> int:
    """How many words a text has: what stands between blanks, or `apart`.

    >>> n_words("It isn't far - yes."), n_words("今天 GPT，下雨。")
    (5, 5)
    """
    return len(apart(text, text.split()))


def apart(text: str, runs: list[str]) -> list[str]:
    """The runs of characters that are the words of a text; in Chinese and Japanese each character is one by itself.

    These have no blanks between words. A text is theirs where more than a fifth of its letters are; a Chinese name in
    an English one is a word like any other.

    >>> apart("有猫。", ["有猫。"]), apart("Beijing (北京) is large", ["北京"])
    (['有', '猫'], ['北京'])
    """
    if 5 * len(regex.findall(rf"[{SINGLE}]", text)) <= sum(map(str.isalnum, text)):
        return runs
    return [part for run in runs for part in PART.findall(run) if any(map(str.isalnum, part))]


def passages(documents: Iterable[Document], most: int | None = None, words: int = WORDS) -> list[Passage]:
    r"""The paragraphs of documents, of each at most the first ``most``; a long one is cut between sentences.

    A passage holds ``words`` words or fewer (`n_words`), unless a single sentence is longer. Raises ValueError where
    nothing is left.

    >>> document = Document("A", "One two. Three four.\n\nFive six seven eight.")
    >>> [passage.text for passage in passages([document], words=3)]
    ['One two.', 'Three four.', 'Five six seven eight.']
    """
    found = []
    for document in documents:
        paragraphs = [part for part in re.split(r"\n\s*\n", document.text) if part.strip()][:most]
        for number, paragraph in enumerate(paragraphs, start=1):
            found += [Passage(document.title, piece, number) for piece in pieces(paragraph, words)]
    if not found:
        raise ValueError("documents hold no paragraph: give texts with words in them")
    return found


def pieces(paragraph: str, words: int = WORDS) -> list[str]:
    """A paragraph cut between sentences into pieces of at most so many words, where sentences allow it."""
    found: list[str] = []
    for sentence in sentences(paragraph):
        if found and n_words(both := joined([found[-1], sentence])) <= words:
            found[-1] = both
        else:
            found.append(sentence)
    return found


def wikipedia(most: int = MOST) -> list[Passage]:
    """The passages of the corpus "wikipedia", of every article the first ``most`` paragraphs."""
    corpus = data.load("wikipedia")
    return passages([*corpus.train, *corpus.validation, *corpus.test], most)


def read(path: str | Path) -> list[Passage]:
    """The passages of a reader's own UTF-8 file or folder of ``.txt`` files; titles are the names of the files."""
    return passages(data.read_documents(path))


def words(text: str) -> list[str]:
    """What BM25 and TF-IDF count: words in lower case, without those that stand in every text.

    In Chinese and Japanese characters are words one by one, as in `minilm.metrics.WORD`.

    >>> words("What's the capital of Åland?"), words("中国的首都")
    (['s', 'capital', 'åland'], ['中', '国', '的', '首', '都'])
    """
    return [word for word in counted(text) if word not in ENGLISH_STOP_WORDS]


def counted(text: str) -> list[str]:
    """All words of a text in lower case, without punctuation."""
    return apart(text, re.findall(r"\w+", text.lower()))


# The ways to find

Scores = Float[np.ndarray, "Q N"]
"""A score of every passage for every query; higher is better."""


class Library:
    """Passages, and the ways to find among them; what a way needs is made when it is first used.

    Raises ValueError for no passages.

    >>> library = Library([Passage("Paris", "The capital of France."), Passage("Bern", "A city by the river Aare.")])
    >>> library.search("Which river?", k=1, how="bm25")[0].passage.title
    'Bern'
    """

    def __init__(self, passages: Sequence[Passage]):
        if not passages:
            raise ValueError("passages is empty: there is nothing to search in")
        self.passages = list(passages)
        self.texts = [f"{passage.title}. {passage.text}" for passage in passages]

    def scores(self, queries: Sequence[str], how: str = "hybrid") -> Scores:
        """What `search` ranks by. Raises ValueError for an unknown way; ``HOW`` has the names."""
        if how not in HOW:
            raise ValueError(f"how={how!r}: choose one of {', '.join(HOW)}")
        return HOW[how](self, list(queries))

    def search(self, query: str, k: int = 5, how: str = "hybrid") -> list[Hit]:
        """The ``k`` passages with the highest scores, the best first. Raises ValueError for ``k`` below 1."""
        if k < 1:
            raise ValueError(f"k={k}: ask for 1 passage or more")
        scores = self.scores([query], how)[0]
        return [Hit(self.passages[i], float(scores[i]), int(i)) for i in np.argsort(-scores, kind="stable")[:k]]

    def tfidf(self, queries: Sequence[str]) -> Scores:
        """Cosines of weighted counts: (1 + log count) times the log of how rare a word is."""
        vectorizer, table = self._counted
        return (vectorizer.transform(queries) @ table.T).toarray()

    def bm25(self, queries: Sequence[str]) -> Scores:
        """Sums over the words of a query of rarity times a count that saturates; Lucene's form."""
        known = [[word for word in words(query) if word in self._index.vocab_dict] for query in queries]
        nothing = np.zeros(len(self.passages), dtype=np.float32)
        return np.stack([self._index.get_scores(query) if query else nothing for query in known]).astype(float)

    def dense(self, queries: Sequence[str]) -> Scores:
        """Cosines of MiniLM's vectors."""
        model, units = encoder()
        with threads():
            return bert.embed(model, units, queries, length=TOKENS).double().numpy() @ self.vectors.T

    def hybrid(self, queries: Sequence[str]) -> Scores:
        """The ranks that BM25 and MiniLM give, `fused`."""
        return fused(self.bm25(queries), self.dense(queries))

    @cached_property
    def vectors(self) -> Float[np.ndarray, "N D"]:
        """MiniLM's vectors of the passages."""
        return vectors(self.texts)

    @cached_property
    def _counted(self) -> tuple[TfidfVectorizer, object]:
        vectorizer = TfidfVectorizer(analyzer=words, sublinear_tf=True)
        return vectorizer, vectorizer.fit_transform(self.texts)

    @cached_property
    def _index(self) -> bm25s.BM25:
        index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        index.index([words(text) for text in self.texts], show_progress=False)
        return index


HOW: dict[str, Callable[[Library, list[str]], Scores]] = {
    "tfidf": Library.tfidf,
    "bm25": Library.bm25,
    "dense": Library.dense,
    "hybrid": Library.hybrid,
}
"""The ways to find, by name."""


def fused(*scores: Scores, constant: float = 60.0) -> Scores:
    """Reciprocal rank fusion: the sum over ways of ``1 / (constant + rank)``, since scores have no common unit.

    Passages with one score share the last of their ranks, so a way that found nothing has no say.

    >>> fused(np.array([[9.0, 5.0, 1.0]]), np.array([[0.1, 0.3, 0.2]]), constant=0.0).round(2)
    array([[1.33, 1.5 , 0.83]])
    """
    return sum(1 / (constant + rankdata(-one, method="max", axis=1)) for one in scores)


def ranks(scores: Scores, right: Bool[np.ndarray, "Q N"]) -> Float[np.ndarray, " Q"]:
    """For each query the rank of the first right passage, from 1; infinite where none is right.

    A tie counts against it. A score of minus infinity takes a passage out.

    >>> ranks(np.array([[3.0, 2.0, 2.0, 1.0]] * 2), np.array([[False, True, False, True], [False] * 4]))
    array([ 3., inf])
    """
    best = np.where(right, scores, -np.inf).max(1)
    ahead = ((scores >= best[:, None]) & ~right).sum(1)
    return np.where(best > -np.inf, 1.0 + ahead, np.inf)


# Vectors


@lru_cache(maxsize=1)
def encoder() -> tuple[bert.BERT, bert.WordPiece]:
    """MiniLM and its tokenizer, loaded once."""
    return bert.load("all-minilm")


def vectors(texts: Sequence[str], length: int = TOKENS) -> Float[np.ndarray, "N D"]:
    """MiniLM's vectors of many texts, computed once and read from the cache afterwards."""
    known = [data.card("all-minilm").sha256, str(length), *texts]
    file = data.home() / "vectors" / f"{hashlib.sha256(chr(0).join(known).encode()).hexdigest()[:16]}.npy"
    with suppress(OSError, ValueError):
        return np.load(file, allow_pickle=False)
    if len(texts) > 500:
        print(f"reading {len(texts):,} passages with MiniLM; kept for later calls", file=sys.stderr, flush=True)
    model, units = encoder()
    with threads():
        made = bert.embed(model, units, texts, length=length).double().numpy()
    content = io.BytesIO()
    np.save(content, made)
    with suppress(OSError):  # where nothing can be written, the next call computes them again
        write(file, content.getvalue())
    return made
