"""What all tokenizers share: text is cut into pre-tokens, each is spelled in ids, and ids are looked up to get it back.

Not here: how a pre-token is spelled; see ``minilm.tokenizer``.
Reference: Radford et al. 2019, section 2.2 (the pattern).
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

import regex

from .tokenizer_file import TokenizerFile, write

PATTERN = "|".join(
    (
        r"'(?:[sdmt]|ll|ve|re)",  # English endings: 's 'd 'm 't 'll 've 're
        r" ?\p{L}+",  # a word: letters, and the space before them
        r" ?\p{N}+",  # a number, and the space before it
        r" ?[^\s\p{L}\p{N}]+",  # anything else but white space: punctuation, emoji, marks, control characters
        r"\s+(?!\S)",  # white space; where a word follows, all but its last character, which is the word's
        r"\s+",  # what is left of it: a line end or tab before a word, which takes only a space along
    )
)
"""GPT-2's pre-tokens (Radford et al. 2019). The alternatives are tried from first to last."""

DIGITS = PATTERN.replace(r" ?\p{N}+", r"\p{N}").replace(r"(?!\S)", r"(?![^\s\p{N}])")
"""The same once every digit has been cut off by itself, as SmolLM2 has it: a number no longer takes a space along."""

CHARACTER = r"[\s\S]"
"""The pre-tokens of ``Characters``: any one character, line ends included."""


class Vocabulary(ABC):
    """What the tokenizers share: a table of tokens, special tokens, and the way from text to pre-tokens to ids.

    A subclass says how to spell one pre-token (``_spell``) and how its file looks (``_file``).
    """

    def __init__(self, vocab: Mapping[bytes, int], specials: Mapping[str, int], pattern: str) -> None:
        """``vocab`` gives the id of each ordinary token; ids may leave gaps, but no two tokens share one."""
        self.vocab, self.specials, self.pattern = dict(vocab), dict(specials), pattern
        named = [(name.encode(), id) for name, id in specials.items()]
        self._bytes = {id: token for token, id in [*vocab.items(), *named]}
        if len(self._bytes) < len(vocab) + len(specials):
            raise ValueError("vocab and specials: two tokens have the same id")
        if taken := [token.decode() for token, _ in named if token in self.vocab or not token]:
            raise ValueError(f"specials: {taken[0]!r} is empty or an ordinary token; take a name such as <|endoftext|>")
        self.vocab_size = max(self._bytes, default=-1) + 1
        try:
            self._cut = regex.compile(pattern).findall
        except regex.error as error:
            raise ValueError(f"pattern: {pattern!r} is no regular expression of the regex package ({error})") from error
        names = sorted(self.specials, key=len, reverse=True)  # where two names fit, the longer one
        self._split = regex.compile(f"({'|'.join(map(regex.escape, names))})").split
        self._spell_often = functools.lru_cache(maxsize=2**16)(self._spell)  # most words come back

    @property
    def tokens(self) -> list[str]:
        r"""All tokens in the order of their ids, to be read; bytes that are no character alone look like ``\xe4``."""
        return [self._bytes.get(id, b"").decode(errors="backslashreplace") for id in range(self.vocab_size)]

    def token_bytes(self, id: int) -> bytes:
        """The bytes of the text a token stands for, its name for a special token. ValueError for an unknown id."""
        return self._lookup([id])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8, as half a character, become U+FFFD.

        Raises ValueError for an unknown id.
        """
        return b"".join(self._lookup(ids)).decode(errors="replace")

    def _lookup(self, ids: Iterable[int]) -> list[bytes]:
        try:
            return [self._bytes[id] for id in ids]
        except KeyError as error:
            last = self.vocab_size - 1
            raise ValueError(
                f"ids: {error} is no token; ids are ints from 0 to {last}, of a tensor: ids.tolist()"
            ) from None

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """The ids of ``text``.

        The name of a special token is plain text unless ``specials`` is true: who types ``<|endoftext|>`` into a form
        must not be able to end our document. Raises TypeError where ``text`` is not a str, and ValueError where it
        holds a lone surrogate, which is no character.
        """
        check_text(text)
        if not (specials and self.specials):
            return self._encode_plain(text)
        ids: list[int] = []
        for part in self._split(text):
            ids += [self.specials[part]] if part in self.specials else self._encode_plain(part)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        words = self._cut(text)
        if sum(map(len, words)) != len(text):
            raise ValueError(
                f"pattern: {self.pattern!r} passes over some of the text; add an alternative that takes it"
            )
        ids: list[int] = []
        for word in words:
            ids += self._spell_often(word) if len(word) < 64 else self._spell(word)
        return ids

    @abstractmethod
    def _spell(self, word: str) -> list[int]:
        """The ids of one pre-token."""

    @abstractmethod
    def _file(self) -> TokenizerFile:
        """What ``save`` writes."""

    def save(self, path: str | Path) -> None:
        """Write the JSON file that ``load`` and ``tokenizers.Tokenizer.from_file`` read; all of it, or nothing."""
        write(path, self._file())


def check_text(text: str) -> str:
    """``text``, if UTF-8 can write it."""
    if not isinstance(text, str):
        raise TypeError(f"text: a str is needed, not {type(text).__name__}; decode bytes first")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text: {text[error.start]!r} at position {error.start} is a lone surrogate, half a character; "
            "read the text with its right encoding, or replace it"
        ) from None
    return text
