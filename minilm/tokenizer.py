r"""Text to ids and back: characters, words, and byte pair encoding (BPE) trained from scratch.

Every tokenizer cuts a text into *pre-tokens* with a regular expression, then spells each pre-token in ids; no token
crosses the border of a pre-token. All but ``Words(byte_fallback=False)`` and a BPE with gaps are lossless: the bytes of
the tokens are the bytes of the text, which is what bits per byte divides by. Files are those of the ``tokenizers``
library: it reads ours, and ``load`` reads its byte-level ones.

Not here: normalisation, WordPiece, Unigram, BPE dropout, offsets, padding (``minilm.data``).

References: Radford et al. 2019 (byte-level BPE, the pattern); Kudo & Richardson 2018 (byte fallback); ``minilm.bpe``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import regex

from .bpe import Pair, apply_merges, learn
from .tokenizer_file import ALPHABET, TokenizerFile, read
from .vocabulary import CHARACTER, DIGITS, PATTERN, Vocabulary, check_text

END = "<|endoftext|>"
"""GPT-2's name for the special token that ends a document."""

UNKNOWN = "<unk>"
"""The token of ``Words(byte_fallback=False)`` for every word that has none of its own."""


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the book asks of a tokenizer."""

    vocab_size: int

    @property
    def tokens(self) -> list[str]: ...
    def encode(self, text: str, specials: bool = False) -> list[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def token_bytes(self, id: int) -> bytes: ...
    def save(self, path: str | Path) -> None: ...


class Characters(Vocabulary):
    """One token for each character of the training text; a character it did not hold cannot be encoded.

    >>> characters = Characters.train("hello")
    >>> characters.tokens, characters.encode("hole")
    (['e', 'h', 'l', 'o'], [1, 3, 2, 0])
    """

    @classmethod
    def train(cls, text: str, specials: Iterable[str] = ()) -> "Characters":
        """The characters of ``text`` in the order of their code points, after the special tokens."""
        names = _number(specials)
        characters = sorted(set(check_text(text)))
        return cls({c.encode(): id for id, c in enumerate(characters, len(names))}, names, CHARACTER)

    def _spell(self, word: str) -> list[int]:
        return [self.vocab[word.encode()]]

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """The ids of ``text``, as in ``Vocabulary``. Raises ValueError for an unknown character as well."""
        try:
            return super().encode(text, specials)
        except KeyError as error:
            character = error.args[0].decode()
            raise ValueError(
                f"text: the character {character!r} at position {text.index(character)} was not in the training text; "
                "remove it, train on text that holds it, or use BPE, which can spell anything"
            ) from None

    def _file(self) -> TokenizerFile:
        return TokenizerFile(self.vocab, self.specials, merges=None, pattern=CHARACTER, byte_level=False)


class Words(Vocabulary):
    """One token for each frequent word; other words are spelled in bytes, or all become one unknown token.

    >>> words = Words.train(" to be or not to be", vocab_size=256 + 2)
    >>> [words.token_bytes(id) for id in words.encode(" to be me")]
    [b' to', b' be', b' ', b'm', b'e']

    Without byte fallback the text is lost, and with it the honesty of every measure per token or byte: a model need
    only learn to say "unknown". ``token_bytes`` of that token is therefore empty.

    >>> words = Words.train(" to be or not to be", vocab_size=1 + 2, byte_fallback=False)
    >>> words.decode(words.encode(" to be me"))
    ' to be<unk>'
    """

    def __init__(
        self, vocab: Mapping[bytes, int], specials: Mapping[str, int], unknown: int | None, pattern: str = PATTERN
    ) -> None:
        """``unknown`` is the id of the unknown token; where it is None, ``vocab`` must hold every byte."""
        super().__init__(vocab, specials, pattern)
        self.unknown = unknown
        self._byte_ids = [] if unknown is not None else _byte_ids(self.vocab)

    @classmethod
    def train(cls, text: str, vocab_size: int, byte_fallback: bool = True, specials: Iterable[str] = ()) -> "Words":
        """The most frequent words of ``text``, after the special tokens and the bytes or the unknown token.

        Words are GPT-2's pre-tokens, so a word holds the space before it. Where two are equally frequent, the one that
        sorts first wins. Raises ValueError where ``vocab_size`` leaves no place for what comes first.
        """
        names = _number(specials)
        base = [bytes([byte]) for byte in ALPHABET] if byte_fallback else [UNKNOWN.encode()]
        _check_size(vocab_size, len(names) + len(base))
        counts = Counter(word.encode() for word in regex.findall(PATTERN, check_text(text)))
        ranked = sorted(counts.keys() - base, key=lambda word: (-counts[word], word))
        tokens = [*base, *ranked]
        vocab = {token: id for id, token in enumerate(tokens[: vocab_size - len(names)], len(names))}
        return cls(vocab, names, None if byte_fallback else len(names))

    def token_bytes(self, id: int) -> bytes:
        """The bytes of the text a token stands for; none for the unknown token. ValueError for an unknown id."""
        return b"" if id == self.unknown else super().token_bytes(id)

    def _spell(self, word: str) -> list[int]:
        token = word.encode()
        if token in self.vocab:
            return [self.vocab[token]]
        return [self.unknown] if self.unknown is not None else [self._byte_ids[byte] for byte in token]

    def _file(self) -> TokenizerFile:
        fallback = self.unknown is None
        pattern = None if self.pattern == PATTERN else self.pattern
        merges = {} if fallback else None
        return TokenizerFile(self.vocab, self.specials, merges, pattern, whole=fallback, unknown=self.unknown)


class BPE(Vocabulary):
    r"""Byte-level BPE, the tokenizer of GPT-2 and of most models since: any text is spelled in at most its bytes.

    >>> bpe = BPE.train("low low low lower lower newest newest widest", vocab_size=270)
    >>> [bpe.tokens[id] for id in bpe.encode("lowest new 低")]
    ['low', 'est', ' new', ' ', '\\xe4', '\\xbd', '\\x8e']

    Which tokens a word gets depends on the whole word, so a text cannot be encoded in parts and joined:

    >>> bpe.encode("lowe") + bpe.encode("st") == bpe.encode("lowest")
    False
    """

    def __init__(
        self,
        vocab: Mapping[bytes, int],
        specials: Mapping[str, int],
        merges: Mapping[Pair, int],
        whole: bool = False,
        pattern: str = PATTERN,
        gaps: bool = False,
    ) -> None:
        """``merges`` maps pairs to new ids; the pairs stand in the order to merge them in.

        ``whole``: a pre-token that is a token is taken as it is, whether or not merges lead there. ``gaps``: a byte may
        lack a token; it is passed over, as the ``tokenizers`` library does, and the text is lost there.
        """
        super().__init__(vocab, specials, pattern)
        self.merges, self.whole = dict(merges), whole
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._byte_ids = _byte_ids(self.vocab, gaps)

    @classmethod
    def train(cls, text: str, vocab_size: int, specials: Iterable[str] = (END,), min_count: int = 1) -> "BPE":
        """Learn merges from ``text`` until the vocabulary is full or no pair occurs ``min_count`` times.

        Ids: the special tokens, the 256 bytes in the order of ``ALPHABET``, one for each merge; as in the
        ``tokenizers`` library, whose ``BpeTrainer`` learns the same merges. Special names in ``text`` are plain text.
        Raises ValueError where ``vocab_size`` leaves no place for the special tokens and the bytes.
        """
        names = _number(specials)
        vocab = {bytes([byte]): id for id, byte in enumerate(ALPHABET, len(names))}
        first = len(names) + len(vocab)
        _check_size(vocab_size, first)
        byte_ids = _byte_ids(vocab)
        counts = Counter(regex.findall(PATTERN, check_text(text)))
        words = {tuple(byte_ids[byte] for byte in word.encode()): count for word, count in counts.items()}
        merges = learn(words, vocab_size - first, first, min_count)
        tokens = {id: token for token, id in vocab.items()}
        for (left, right), id in merges.items():
            tokens[id] = tokens[left] + tokens[right]
        return cls({token: id for id, token in tokens.items()}, names, merges)

    @classmethod
    def from_ranks(
        cls, pattern: str, mergeable_ranks: Mapping[bytes, int], specials: Mapping[str, int] | None = None
    ) -> "BPE":
        """The tokenizer ``tiktoken.Encoding`` makes of the same ranks: id and rank of a token are one number.

        There any two neighbours merge whose bytes together are a token, so all such pairs are listed here. Their order
        within a token does not matter, since only one of them is ever met: bytes that no merge crosses are merged in
        the same way wherever they stand.

        >>> ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
        >>> BPE.from_ranks(PATTERN, ranks).encode("abcab")
        [257, 256]
        """
        merges = {}
        for token, rank in sorted(mergeable_ranks.items(), key=lambda item: item[1]):
            for cut in range(1, len(token)):
                if token[:cut] in mergeable_ranks and token[cut:] in mergeable_ranks:
                    merges[mergeable_ranks[token[:cut]], mergeable_ranks[token[cut:]]] = rank
        return cls(mergeable_ranks, specials or {}, merges, whole=True, pattern=pattern)

    def _spell(self, word: str) -> list[int]:
        token = word.encode()
        if self.whole and token in self.vocab:
            return [self.vocab[token]]
        ids = [id for byte in token if (id := self._byte_ids[byte]) is not None]
        return apply_merges(ids, self.merges, self.ranks)

    def _file(self) -> TokenizerFile:
        pattern = None if self.pattern in (PATTERN, DIGITS) else self.pattern
        digits = self.pattern == DIGITS
        return TokenizerFile(self.vocab, self.specials, self.merges, pattern, digits, self.whole)


def load(path: str | Path) -> Characters | Words | BPE:
    """The tokenizer in a file that ``save`` or the ``tokenizers`` library has written.

    Raises ValueError for a file that is damaged or of another kind, or needs what this book's tokenizers cannot do.
    """
    file = read(path)
    pattern = file.pattern or (DIGITS if file.digits else PATTERN)
    if not file.byte_level:
        return Characters(file.vocab, file.specials, pattern)
    if file.merges is None or (file.whole and not file.merges):
        return Words(file.vocab, file.specials, file.unknown, pattern)
    return BPE(file.vocab, file.specials, file.merges, whole=file.whole, pattern=pattern, gaps=True)


def _number(names: Iterable[str]) -> dict[str, int]:
    """Ids for special tokens, which come first."""
    if isinstance(names, str):
        raise TypeError(f"specials: a tuple of names is needed, not the text {names!r}; write ({names!r},)")
    return {name: id for id, name in enumerate(dict.fromkeys(names))}


def _check_size(vocab_size: int, least: int) -> None:
    if vocab_size < least:
        raise ValueError(f"vocab_size: {vocab_size} is too small; the tokens that must be there take {least}")


def _byte_ids(vocab: Mapping[bytes, int], gaps: bool = False) -> list[int | None]:
    """The id of each of the 256 bytes, without which not every text could be spelled; None for a gap."""
    ids = [vocab.get(bytes([byte])) for byte in range(256)]
    if None in ids and not gaps:
        raise ValueError(f"vocab: byte {ids.index(None):#04x} has no token; a byte-level tokenizer needs all 256")
    return ids
