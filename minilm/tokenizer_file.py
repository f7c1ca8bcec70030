"""The tokenizer files of the ``tokenizers`` library (``tokenizer.json``), as far as this book's tokenizers go.

``write`` and ``read`` turn a ``TokenizerFile`` into such a file and back, so that the library reads our files and we
read its byte-level BPE (GPT-2's and SmolLM2's, for two). Whatever would change ids and is not supported is refused by
name.

Not here: normalizers, WordPiece, Unigram, templates that add tokens, the SentencePiece style of byte fallback.
Reference: https://huggingface.co/docs/tokenizers (the format is what its ``Tokenizer.to_str`` writes).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files
from .bpe import Pair

_printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_others = [byte for byte in range(256) if byte not in _printable]
ALPHABET = {**{byte: chr(byte) for byte in _printable}, **{byte: chr(256 + n) for n, byte in enumerate(_others)}}
"""GPT-2's way to write bytes in JSON: one printable character each (the space is Ġ), in the order of their ids."""
_BYTES = {**dict.fromkeys(range(256), "\uffff"), **{ord(character): byte for byte, character in ALPHABET.items()}}

_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_AFFIXES = {"continuing_subword_prefix": None, "end_of_word_suffix": None}
_BPE = {"type": "BPE", "dropout": None, "unk_token": None, **_AFFIXES, "fuse_unk": False, "byte_fallback": False}
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@dataclass(frozen=True)
class TokenizerFile:
    """What a tokenizer file says."""

    vocab: dict[bytes, int]
    """The id of each ordinary token."""
    specials: dict[str, int]
    """The id of each special token."""
    merges: dict[Pair, int] | None
    """BPE: the new id for each pair, in the order of ranks. None for a plain list of tokens ("WordLevel")."""
    pattern: str | None = None
    """The regular expression that cuts pre-tokens. None for GPT-2's, which the library has built in."""
    digits: bool = False
    """GPT-2's pattern is used on what is left once every digit has been cut off by itself."""
    whole: bool = False
    """A pre-token that is a token is taken as it is, whether or not merges lead there ("ignore_merges")."""
    unknown: int | None = None
    """The id for all that is not in a plain list of tokens."""
    byte_level: bool = True
    """Tokens are written in ``ALPHABET``; otherwise they are whole characters, written as they are."""


def write(path: str | Path, file: TokenizerFile) -> None:
    """Write ``file`` at ``path``: all of it, or, should anything fail, nothing."""
    files.write(path, json.dumps(_layout(file), ensure_ascii=False, indent=1).encode())


def _layout(file: TokenizerFile) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": file.pattern}, "behavior": "Isolated", "invert": False}
    pre_tokenizer: dict[str, Any] = _BYTE_LEVEL if file.pattern is None else split
    if file.digits:
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]}
    elif file.byte_level and file.pattern is not None:
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, {**_BYTE_LEVEL, "use_regex": False}]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": name, **_ADDED} for name, id in file.specials.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": _BYTE_LEVEL if file.byte_level else {"type": "Fuse"},
        "model": _model(file),
    }


def _model(file: TokenizerFile) -> dict[str, Any]:
    spell = show if file.byte_level else bytes.decode
    names = {id: spell(token) for token, id in file.vocab.items()} | {id: name for name, id in file.specials.items()}
    vocab = {names[id]: id for id in sorted(names)}
    if len(vocab) < len(names):
        raise ValueError("specials: a special token is written like an ordinary one; choose another name")
    if file.merges is None:
        return {"type": "WordLevel", "vocab": vocab, "unk_token": names.get(file.unknown, "<unk>")}
    merges = [[names[left], names[right]] for left, right in file.merges]
    return {**_BPE, "ignore_merges": file.whole, "vocab": vocab, "merges": merges}


def show(token: bytes) -> str:
    r"""A token as the files of byte-level tokenizers write it.

    >>> show(b" caf\xc3\xa9")
    'ĠcafÃ©'
    """
    return "".join(ALPHABET[byte] for byte in token)


def unshow(name: str) -> bytes:
    """The bytes of a token that `show` has written; ValueError for anything else."""
    try:
        return name.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"vocabulary: {name!r} is not written in bytes, as ByteLevel asks: {name[error.start]!r}"
        ) from None


def read(path: str | Path) -> TokenizerFile:
    """Read a file that ``write`` or the ``tokenizers`` library has written.

    Raises ValueError for what is not JSON, no tokenizer file, or one that needs what is not supported, and says which.
    """
    try:
        layout = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON, or cut short ({error}); save the tokenizer again") from error
    try:
        return _parse(layout)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a file of the tokenizers library ({type(error).__name__}: {error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(layout: dict[str, Any]) -> TokenizerFile:
    model, special_tokens = layout["model"], layout["added_tokens"]
    _refuse_others("", layout, normalizer=None, truncation=None, padding=None)
    _refuse_others("model.", model, dropout=None, continuing_subword_prefix="", end_of_word_suffix="")
    _refuse_others("model.", model, byte_fallback=False)
    for added in special_tokens:
        _refuse_others("added_tokens.", added, single_word=False, lstrip=False, rstrip=False)
        if not added["special"]:
            raise _unsupported("added_tokens.special", False)
    _refuse_others("post_processor.", layout["post_processor"] or {}, type="ByteLevel")
    digits = layout["pre_tokenizer"] == {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]}
    pattern, byte_level = (None, True) if digits else _parse_pre_tokenizer(layout["pre_tokenizer"])
    _refuse_others("decoder.", layout["decoder"] or {"type": "none"}, type="ByteLevel" if byte_level else "Fuse")
    specials = {added["content"]: added["id"] for added in special_tokens}
    ids = model["vocab"]
    if not all(isinstance(id, int) and id >= 0 for id in [*ids.values(), *specials.values()]):
        raise TypeError("an id is no whole number")
    vocab = {unshow(name) if byte_level else name.encode(): id for name, id in ids.items() if name not in specials}
    kind = model.get("type", "BPE")  # GPT-2's own file, older than the library's other models, does not name it
    if kind == "WordLevel":
        return TokenizerFile(vocab, specials, None, pattern, False, False, ids.get(model["unk_token"]), byte_level)
    if kind != "BPE" or not byte_level:
        raise _unsupported("model.type", kind if byte_level else f"{kind} without ByteLevel")
    _refuse_others("model.", model, unk_token=None)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = {(ids[left], ids[right]): ids[left + right] for left, right in pairs}
    return TokenizerFile(vocab, specials, merges, pattern, digits, model.get("ignore_merges", False))


def _parse_pre_tokenizer(step: Any) -> tuple[str | None, bool]:
    """The pattern that cuts pre-tokens (None for GPT-2's), and whether they are then written in bytes."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get("use_regex", True):
            return None, True
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern, False
        case {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", **rest}]} if not (
            rest.get("add_prefix_space", True) or rest.get("use_regex", True)
        ):
            return _parse_pre_tokenizer(split)[0], True
    raise _unsupported("pre_tokenizer", step)


def _refuse_others(where: str, given: dict[str, Any], **supported: Any) -> None:
    """ValueError where a field is set to anything but null, false, empty or what is ``supported``."""
    for name, value in supported.items():
        if given.get(name) and given[name] != value:
            raise _unsupported(where + name, given[name])


def _unsupported(field: str, value: Any) -> ValueError:
    return ValueError(f"{field}: {value!r} is not supported here; read this file with the tokenizers library")
