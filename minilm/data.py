"""Text to learn from: the book's corpora by name, or a reader's own files.

``load`` fetches, cleans and splits a corpus, the same bytes on every machine. Train, validation and test share no
document and no near-duplicate passage: a model that has seen the test set proves nothing. Where two passages on
different sides nearly agree, the one further from the test set goes, so the test set is never edited for it.

Not here: tokens (``minilm.tokenizer``). Reference: Lee et al. 2022, "Deduplicating training data makes language models
better".
"""

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import mwparserfromhell

from . import archive, cards, clean, duplicates, splits
from .archive import DataError, home
from .batching import batches, pad, padded, windows
from .cards import CARDS, Card
from .clean import Document
from .duplicates import jaccard, minhash, near_duplicates, shingles, words
from .files import write
from .splits import LEAK, SPLITS, block_side, leaks, side, split_text

__all__ = [
    "CARDS", "Card", "Corpus", "DataError", "Document", "Labelled", "batches", "card", "fetch", "home", "jaccard",
    "load", "load_labelled", "load_parallel", "load_text", "minhash", "near_duplicates", "pad", "padded", "path",
    "read_documents", "read_text", "shingles", "split_text", "state", "verify", "windows",
]  # fmt: skip

# What a corpus is made by, pins of the archives included. Taken at import: later the files may not be what runs.
SOURCES = [Path(__file__), *(Path(module.__file__) for module in (cards, clean, duplicates, splits))]
CODE = hashlib.sha256(mwparserfromhell.__version__.encode() + b"".join(map(Path.read_bytes, SOURCES))).hexdigest()[:16]


@dataclass(frozen=True)
class Corpus:
    """Documents in three splits; ``card`` is None for a reader's own text."""

    card: Card | None
    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]

    def text(self, split: str = "train", separator: str = "\n\n") -> str:
        """The documents of one split as one string."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
        return separator.join(document.text for document in getattr(self, split))


@dataclass(frozen=True)
class Labelled:
    """Texts with a class each, as pairs (text, class), in three splits; ``card.classes`` names the classes."""

    card: Card
    train: tuple[tuple[str, int], ...]
    validation: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]


def card(name: str) -> Card:
    """The card of a corpus or model; DataError lists the names there are."""
    if name not in CARDS:
        raise DataError(f"there is no corpus or model named {name!r}: choose one of {', '.join(CARDS)}")
    return CARDS[name]


def path(name: str) -> Path:
    """Where the archive lies, or would lie, in the cache."""
    return archive.cached(card(name))


def fetch(name: str) -> Path:
    """The verified archive in the cache, downloaded if need be; see ``minilm.archive.fetch``."""
    return archive.fetch(card(name))


def verify(name: str) -> bool:
    """Whether the cache holds the archive with its pinned bytes."""
    return archive.verify(card(name))


def load(name: str) -> Corpus:
    """A corpus of the book by name, cleaned and split. The first call takes seconds, later ones read a cached copy.

    The parallel corpus, "ui", has two documents in each split, "English" and "Chinese", aligned line by line.
    Raises DataError for an unknown name, for a model, and for whatever ``fetch`` raises.
    """
    known = card(name)
    if name not in RECIPES:
        remedy = "load_labelled" if name in LABELLED else "fetch"
        raise DataError(f"{name!r} is a {known.kind}, not a corpus: get it with {remedy}({name!r})")
    documents = _kept(known, lambda: _plain(RECIPES[name](known)))
    return Corpus(known, *(tuple(Document(*one) for one in part) for part in documents))


def load_labelled(name: str) -> Labelled:
    """A set of labelled texts of the book by name, cleaned and split; the first call fetches its archive.

    A split holds one class after the other, in the order of the source: shuffle before training. These texts are not
    free to be passed on (their cards say more), so they are fetched on demand only and stay in this user's cache.
    Raises DataError for the name of anything else, and for whatever ``fetch`` raises.
    """
    known = card(name)
    if name not in LABELLED:
        raise DataError(f"{name!r} is a {known.kind}, without labels: choose one of {', '.join(LABELLED)}")
    pairs = _kept(known, lambda: LABELLED[name](known))
    return Labelled(known, *(tuple((text, label) for text, label in part) for part in pairs))


Parts = list[list]
"""What each split holds, as it is kept on disk."""


def _kept(known: Card, make: Callable[[], Parts]) -> Parts:
    """What ``make`` gives, from a copy on disk if there is one made by the same code."""
    file = home() / "corpora" / f"{known.name}-{CODE}.json"
    with suppress(OSError, ValueError):
        return json.loads(file.read_bytes())
    archive.fetch(known)
    print(f"cleaning {known.name}", file=sys.stderr, flush=True)
    parts = make()
    with suppress(OSError):  # where nothing can be written, the next call cleans again
        write(file, json.dumps(parts, ensure_ascii=False).encode())
        for older in set(file.parent.glob(f"{known.name}-*.json")) - {file}:
            older.unlink(missing_ok=True)
    return parts


def _plain(corpus: Corpus) -> Parts:
    return [[astuple(document) for document in getattr(corpus, split)] for split in SPLITS]


def load_parallel(name: str = "ui", split: str | None = None) -> tuple[tuple[str, str], ...]:
    """The (English, Chinese) pairs of one split, or of all three where ``split`` is None."""
    corpus = load(name)
    parts = [getattr(corpus, one) for one in ([split] if split else SPLITS)]
    return tuple(pair for part in parts for pair in zip(*(text.text.split("\n") for text in part), strict=True))


def _documents(card: Card, pattern: str, read: Callable[[clean.Files], list[Document]], passage: str) -> Corpus:
    """A corpus of documents; ``passage`` separates the passages that are compared across splits."""
    documents = read(archive.members(card, pattern))
    parts = [[one for one in documents if side(one.title, card.validation, card.test) == split] for split in SPLITS]
    gone = leaks([[piece for one in part for piece in one.text.split(passage)] for part in parts])
    kept = ([_without(leaked, one, passage) for one in part] for part, leaked in zip(parts, gone, strict=True))
    return Corpus(card, *map(tuple, kept))


def _without(leaked: set[str], document: Document, passage: str) -> Document:
    kept = [piece for piece in document.text.split(passage) if piece not in leaked]
    return Document(document.title, passage.join(kept))


def _reviews(card: Card, source: str) -> Parts:
    """Reviews in splits by blocks of neighbours within a class; leaks are looked for in how texts open."""
    examples = clean.reviews(archive.members(card, r"\.csv$"), source)
    parts: Parts = [[], [], []]
    for label in range(len(card.classes)):
        for place, example in enumerate(one for one in examples if one[1] == label):
            parts[SPLITS.index(block_side(place))].append(example)
    gone = leaks([[text[: clean.OPENING] for text, _ in part] for part in parts])
    return [
        [one for one in part if one[0][: clean.OPENING] not in leaked] for part, leaked in zip(parts, gone, strict=True)
    ]


def _news(card: Card) -> Parts:
    """News in splits by the words of the headline; of articles that nearly repeat each other the last one stays."""
    articles = clean.news(archive.members(card, r"/bbcnews/data/.+\.txt$"))
    earlier = {i for i, _, _ in near_duplicates([text for text, _ in articles], LEAK)}
    parts: Parts = [[], [], []]
    for text, topic in (one for i, one in enumerate(articles) if i not in earlier):
        place = SPLITS.index(side(" ".join(words(text.split("\n")[0]))))
        parts[place].append((text, card.classes.index(topic)))
    return parts


def _pairs(card: Card, pattern: str) -> Corpus:
    """A corpus of pairs, drawn by the words of the English so that "Close tab" and "Close Tab…" stay together.

    A pair leaks through either language; strings are short, hence shingles of 2 English words and 3 characters.
    """
    pairs = clean.catalogue(archive.members(card, pattern))
    parts = [[pair for pair in pairs if side(" ".join(words(pair[0]))) == split] for split in SPLITS]
    english = leaks([[pair[0] for pair in part] for part in parts], n=2, least_words=1)
    chinese = leaks([[pair[1] for pair in part] for part in parts], n=3, least_words=1)
    kept = [[(e, c) for e, c in part if e not in english[i] and c not in chinese[i]] for i, part in enumerate(parts)]
    return Corpus(card, *map(_two_documents, kept))


def _two_documents(pairs: list[tuple[str, str]]) -> tuple[Document, Document]:
    english, chinese = ("\n".join(side) for side in zip(*pairs, strict=True))
    return Document("English", english), Document("Chinese", chinese)


RECIPES: dict[str, Callable[[Card], Corpus]] = {
    "shakespeare": partial(_documents, pattern="shksprdata/texts/.+_gut.txt$", read=clean.shakespeare, passage="\n\n"),
    "wikipedia": partial(_documents, pattern="/enwiki-latest-pages-articles1", read=clean.wikipedia, passage="\n\n"),
    "kjv": partial(_documents, pattern="/kjv.jsonl$", read=clean.kjv, passage="\n"),
    "ui": partial(_pairs, pattern="/LC_MESSAGES/.*.json$"),
}


LABELLED: dict[str, Callable[[Card], Parts]] = {
    "rotten-tomatoes": partial(_reviews, source="rotten_tomatoes"),
    "imdb": partial(_reviews, source="imdb"),
    "bbc-news": _news,
}
"""How the sets of labelled texts are made."""


# A reader's own text


def load_text(path: str | Path) -> Corpus:
    """A reader's own UTF-8 file, or folder of ``.txt`` files, as a corpus; it is not cleaned or deduplicated.

    A folder of ten files or more is split by file in the order of their names: the first eight tenths train, the next
    validate, the last test. Fewer files are joined and split like one, by ``split_text``.
    Raises DataError like ``read_text``, and for a text too short to split.
    """
    documents = read_documents(path)
    if len(documents) >= 10:
        cuts = [round(len(documents) * share) for share in (0.8, 0.9)]
        parts = [documents[: cuts[0]], documents[cuts[0] : cuts[1]], documents[cuts[1] :]]
    else:
        texts = split_text("\n\n".join(document.text for document in documents))
        parts = [[Document(Path(path).name, text)] for text in texts]
    if any(not document.text.strip() for part in parts for document in part):
        raise DataError(f"{path} is too short to split into train, validation and test: give a longer text")
    return Corpus(None, *map(tuple, parts))


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, or of all ``.txt`` files of a folder as `read_documents` finds them.

    A byte order mark goes, line ends become a line feed. Raises DataError for a missing path, an empty text or another
    encoding.
    """
    return "\n\n".join(document.text for document in read_documents(path))


def read_documents(path: str | Path) -> list[Document]:
    """A UTF-8 file, or all ``.txt`` files of a folder in the order of their names, each a document named after it.

    What is hidden in the folder is no text of the reader's: Jupyter keeps old copies in ``.ipynb_checkpoints``.
    Raises DataError like `read_text`.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: name a UTF-8 text file, or a folder of .txt files")
    if not path.is_dir():
        return [Document(path.name, _decoded(path))]
    inside = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.suffix.lower() == ".txt"]
    names = [name for name in inside if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise DataError(f"{path} holds no .txt file: rename the texts, or name one file")
    return [Document(str(name), _decoded(path / name)) for name in names]


def state(path: str | Path) -> tuple[tuple[str, int, int], ...]:
    """What tells whether a file, or a folder, was changed: names, times and sizes; empty where there is neither.

    >>> state("no such file")
    ()
    """
    path = Path(path)
    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        with suppress(OSError):  # none is there, or a training has just renamed it
            found.append((str(file), (seen := file.stat()).st_mtime_ns, seen.st_size))
    return tuple(found)


def _decoded(file: Path) -> str:
    """The text of one file; DataError with the remedy where it is not UTF-8 or holds nothing."""
    try:
        content = file.read_bytes()
        text = content.decode()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    except UnicodeDecodeError as error:
        utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding = "UTF-16" if utf16 else "ENCODING"
        hint = "" if utf16 else ", where ENCODING is for example WINDOWS-1252 or GB18030"
        raise DataError(
            f"{file} is not UTF-8 (byte 0x{content[error.start]:02x} at offset {error.start}): convert it with "
            f"`iconv -f {encoding} -t UTF-8 {file} > utf8.txt`{hint}"
        ) from error
    if not text.strip("\ufeff \t\r\n"):
        raise DataError(f"{file} is empty: give a file with text in it")
    if "\0" in text:
        raise DataError(f"{file} holds NUL bytes, so it is no UTF-8 text: export the text from its program first")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
