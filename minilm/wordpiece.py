r"""WordPiece, the tokenizer of BERT: tidy the text, cut it into words, spell each word with the longest known pieces.

Unlike the tokenizers of ``minilm.tokenizer`` it loses text: case, accents and the kind of white space are gone, and a
word that cannot be spelled becomes ``[UNK]``. So a text can be classified and found with it, but what a model pays for
its tokens is no price for the bytes of the text.

Not here: how a vocabulary is chosen (as in ``minilm.bpe``, or by the likelihood that a merge gains).
References: Schuster & Nakajima 2012; Wu et al. 2016; Devlin et al. 2019. Same ids as BertTokenizer of transformers.
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import regex
from torch import Tensor

from . import files
from .batching import pad
from .vocabulary import check_text

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Padding; what cannot be spelled; the start of every row; the end of each text in it; a hidden token."""

INSIDE = "##"
"""Marks a piece that continues a word."""

LONGEST = 100
"""Characters of the longest word that is spelled."""

IDEOGRAPH = r"\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002b81f\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
"""Chinese characters, each a word of its own (with the library's gap); Japanese syllables and Korean are not."""

PUNCTUATION = r"\p{P}$+<=>^`|~"
"""What Unicode calls punctuation, and all of ASCII that is no letter, digit or blank."""


def tidy(text: str, lower: bool = True) -> str:
    r"""The text as BERT sees it: no control characters, blanks around Chinese characters, no accents, no capitals.

    >>> tidy("Élan\tvital\x00: 語言")
    'elan vital:  語  言 '
    """
    text = regex.sub(r"[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]", "", text)
    text = regex.sub(rf"([{IDEOGRAPH}])", r" \1 ", regex.sub(r"\s", " ", text))
    if not lower:
        return text
    bare = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return "".join(c.lower() for c in bare)


def words(text: str) -> list[str]:
    """The words of a tidy text: white space separates them, and every punctuation mark is one.

    >>> words("it isn't $5.")
    ['it', 'isn', "'", 't', '$', '5', '.']
    """
    return regex.findall(rf"[{PUNCTUATION}]|[^\s{PUNCTUATION}]+", text)


def pieces(word: str, vocab: Mapping[str, int]) -> list[str]:
    """``word`` spelled from the left, each time with the longest piece there is; empty where it cannot be spelled.

    >>> vocab = {"un": 0, "una": 1, "##ff": 2, "##aff": 3, "##able": 4}
    >>> pieces("unaffable", vocab), pieces("unaffably", vocab)
    (['una', '##ff', '##able'], [])
    """
    found: list[str] = []
    start = 0
    while start < len(word):
        prefix = INSIDE if start else ""
        fits = (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab)
        if (end := next(fits, None)) is None:
            return []
        found.append(prefix + word[start:end])
        start = end
    return found


class WordPiece:
    """A list of tokens, the id of each being its place, and the way from texts to the rows that BERT reads.

    >>> tokenizer = WordPiece([*SPECIALS, "un", "##aff", "##able", "!"])
    >>> tokenizer.encode("Unaffable!"), tokenizer.encode("affable")
    ([5, 6, 7, 8], [1])
    >>> ids, mask = tokenizer.batch(["Unaffable!", "!"])
    >>> [tokenizer.tokens[id] for id in ids[1]], mask[1].tolist()
    (['[CLS]', '!', '[SEP]', '[PAD]', '[PAD]', '[PAD]'], [True, True, True, False, False, False])
    """

    def __init__(self, tokens: Sequence[str], lower: bool = True) -> None:
        """Raises ValueError for a special token that is missing, or a token that occurs twice."""
        self.tokens, self.lower = list(tokens), lower
        self.vocab = {token: id for id, token in enumerate(tokens)}
        if missing := [name for name in SPECIALS if name not in self.vocab]:
            raise ValueError(f"tokens: {missing[0]} is missing; a vocabulary of BERT holds {', '.join(SPECIALS)}")
        if len(self.vocab) < len(self.tokens):
            raise ValueError("tokens: one of them occurs twice, so its id is ambiguous; list each token once")
        self.specials = {name: self.vocab[name] for name in SPECIALS}
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = self.specials.values()
        self._spell = functools.lru_cache(maxsize=2**16)(self._spelled)  # most words come back

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """The ids of ``text``, without the frame that `row` puts around it.

        With ``specials`` the name of a special token, as ``[MASK]``, means that token; else it is plain text.
        Raises what ``vocabulary.check_text`` raises.
        """
        names = "|".join(map(regex.escape, SPECIALS))
        ids: list[int] = []
        for part in regex.split(f"({names})", check_text(text)) if specials else [check_text(text)]:
            if specials and part in self.specials:
                ids.append(self.specials[part])
            else:
                ids += [id for word in words(tidy(part, self.lower)) for id in self._spell(word)]
        return ids

    def _spelled(self, word: str) -> list[int]:
        found = pieces(word, self.vocab) if len(word) <= LONGEST else []
        return [self.vocab[piece] for piece in found] or [self.unknown_id]

    def row(
        self, text: str, second: str | None = None, length: int = 512, specials: bool = False
    ) -> tuple[list[int], list[int]]:
        """``[CLS] text [SEP]``, or ``[CLS] text [SEP] second [SEP]``, of at most ``length`` ids; and their types.

        The type is 1 from the second text on, else 0. What is too long is cut at the end of the last text; ValueError
        where the first of two leaves no room for the second.
        """
        first = [self.cls_id, *self.encode(text, specials), self.sep_id]
        if second is None:
            first = [*first[: length - 1], self.sep_id] if len(first) > length else first
            return first, [0] * len(first)
        if len(first) > length - 2:
            raise ValueError(f"text: its {len(first)} ids leave a second text no room in {length}: cut it first")
        rest = [*self.encode(second, specials)[: length - len(first) - 1], self.sep_id]
        return first + rest, [0] * len(first) + [1] * len(rest)

    def batch(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None, length: int = 512, specials: bool = False
    ) -> tuple[Tensor, ...]:
        """Texts as `row` frames them, padded: ids (B, T) and the mask (B, T), True where a token stands.

        With ``seconds``, as many texts again, their types (B, T) as well. Raises ValueError for no texts.
        """
        others: Sequence[str | None] = [None] * len(texts) if seconds is None else seconds
        framed = [self.row(*pair, length, specials) for pair in zip(texts, others, strict=True)]
        mask = pad([[1] * len(ids) for ids, _ in framed], 0).bool()
        tensors = pad([ids for ids, _ in framed], self.pad_id), mask
        return tensors if seconds is None else (*tensors, pad([types for _, types in framed], 0))

    def save(self, path: str | Path) -> None:
        """Write ``vocab.txt``, a token a line, as BERT's own files are."""
        files.write(path, "".join(f"{token}\n" for token in self.tokens).encode())


def load(path: str | Path, lower: bool = True) -> WordPiece:
    """The tokenizer of a ``vocab.txt``. Raises ValueError where that is no vocabulary of BERT."""
    return read(Path(path).read_bytes(), lower)


def read(content: bytes, lower: bool = True) -> WordPiece:
    """The tokenizer whose ``vocab.txt`` holds these bytes."""
    return WordPiece(content.decode().removesuffix("\n").split("\n"), lower)
