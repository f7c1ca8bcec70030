r"""The form that a text must have, as an expression over bytes; above all JSON by a schema.

An expression is made of literal bytes, one byte of a set, one thing after another, alternatives, a thing repeated.
`steps` says what an expression can begin with and what is then left to come (its partial derivatives). That is all one
needs to read a text, or to write one, byte by byte; `grammar` gives the expression of a JSON schema.

JSON is written as ``json.dumps`` writes it, the properties in the order of the schema, all of them.

Not here: recursive forms, which no finite automaton knows; the other keywords of JSON Schema, refused by name.
References: Brzozowski 1964 and Antimirov 1996 (derivatives).
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

# Expressions


class Chain(NamedTuple):
    """One thing after another."""

    first: Any
    rest: Any


class Either(NamedTuple):
    """One of several."""

    ways: frozenset


class Repeat(NamedTuple):
    """A thing ``least`` to ``most`` times; the thing itself is never empty."""

    what: Any
    least: int
    most: int


Expression = bytes | frozenset | Chain | Either | Repeat
"""``bytes`` stand for themselves, a ``frozenset`` of numbers for one byte among them."""

NOTHING: Expression = frozenset()
"""What no text matches. The empty text is matched by ``b""``."""


def chain(*parts: Expression) -> Expression:
    """The parts one after another."""
    return reduce(lambda rest, first: _before(first, rest), reversed(parts), b"")


def _before(first: Expression, rest: Expression) -> Expression:
    if NOTHING in (first, rest):
        return NOTHING
    if b"" in (first, rest):
        return first or rest
    if isinstance(first, bytes) and isinstance(rest, bytes):
        return first + rest
    return Chain(first.first, _before(first.rest, rest)) if isinstance(first, Chain) else Chain(first, rest)


def either(*ways: Expression) -> Expression:
    """One of the alternatives."""
    flat = {one for way in ways for one in (way.ways if isinstance(way, Either) else [way]) if one != NOTHING}
    return Either(frozenset(flat)) if len(flat) > 1 else next(iter(flat), NOTHING)


def repeat(what: Expression, least: int, most: int) -> Expression:
    """``what``, which must not be empty, ``least`` to ``most`` times."""
    return Repeat(what, least, most) if most else b""


def nullable(expression: Expression) -> bool:
    """Whether nothing more need come: the empty text matches."""
    match expression:
        case Chain(first, rest):
            return nullable(first) and nullable(rest)
        case Either(ways):
            return any(map(nullable, ways))
        case Repeat(_, least, _):
            return least == 0
    return expression == b""


def steps(expression: Expression) -> list[tuple[frozenset[int], Expression]]:
    """What the expression can begin with, each with what is then left to come.

    >>> steps(chain(repeat(b"ab", 0, 2), b"!"))
    [(frozenset({97}), Chain(first=b'b', rest=Chain(first=Repeat(what=b'ab', least=0, most=1), rest=b'!'))),
     (frozenset({33}), b'')]
    """
    match expression:
        case bytes():
            return [(frozenset(expression[:1]), expression[1:])] if expression else []
        case Chain(first, rest):
            begun = [(one, chain(left, rest)) for one, left in steps(first)]
            return begun + steps(rest) if nullable(first) else begun
        case Either(ways):
            return [step for way in ways for step in steps(way)]
        case Repeat(what, least, most):
            again = repeat(what, max(least - 1, 0), most - 1)
            return [(one, chain(left, again)) for one, left in steps(what)]
    return [(expression, b"")] if expression else []


def matches(expression: Expression, text: bytes) -> bool:
    """Whether the whole text is of the form.

    >>> matches(either(b"yes", b"no"), b"no"), matches(either(b"yes", b"no"), b"n")
    (True, False)
    """
    for byte in text:
        expression = either(*(left for one, left in steps(expression) if byte in one))
    return nullable(expression)


def longest(expression: Expression) -> int:
    """The bytes of the longest text of the form."""
    match expression:
        case bytes():
            return len(expression)
        case Chain(first, rest):
            return longest(first) + longest(rest)
        case Either(ways):
            return max(map(longest, ways))
        case Repeat(what, _, most):
            return most * longest(what)
    return 1


# JSON


def one_of(*ranges: int | tuple[int, int]) -> Expression:
    """One byte that lies in a range, ends included, or is one of the numbers."""
    pairs = [(part, part) if isinstance(part, int) else part for part in ranges]
    return frozenset(byte for low, high in pairs for byte in range(low, high + 1))


MORE = one_of((0x80, 0xBF))  # the bytes of a character in UTF-8 after its first
CHARACTER = either(
    one_of((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E)),  # what is no quote, backslash or control character
    chain(b"\\", one_of(*b'"\\/bfnrt')),
    chain(one_of((0xC2, 0xDF)), MORE),
    chain(b"\xe0", one_of((0xA0, 0xBF)), MORE),
    chain(one_of((0xE1, 0xEC), 0xEE, 0xEF), MORE, MORE),
    chain(b"\xed", one_of((0x80, 0x9F)), MORE),
    chain(b"\xf0", one_of((0x90, 0xBF)), MORE, MORE),
    chain(one_of((0xF1, 0xF3)), MORE, MORE, MORE),
    chain(b"\xf4", one_of((0x80, 0x8F)), MORE, MORE),
)
"""A character of a JSON string; half a surrogate and the form \\uXXXX are left out."""

ZERO, DIGIT, LEADING = b"0", one_of(*b"0123456789"), one_of(*b"123456789")
WHOLE = either(ZERO, chain(LEADING, repeat(DIGIT, 0, 8)))
SIGN = either(b"", b"-")
LONGEST = {"maxLength": 64, "maxItems": 8}
"""Bounds where a schema has none: without one a model may write for ever."""


def _days(most: int) -> Expression:
    return either(*(b"%02d" % day for day in range(1, most + 1)))


def _date() -> Expression:
    """Years 1000 to 9999, months, and the days that they have; a leap year is a matter of its last digits."""
    fourth = [b"%02d" % year for year in range(4, 100, 4)]
    leap = either(chain(LEADING, DIGIT, either(*fourth)), chain(either(*fourth[2:]), b"00"))
    days = [*zip((1, 3, 5, 7, 8, 10, 12), [31] * 7, strict=True), *zip((4, 6, 9, 11), [30] * 4, strict=True), (2, 28)]
    any_year = chain(LEADING, repeat(DIGIT, 3, 3), either(*(chain(b"-%02d-" % m, _days(n)) for m, n in days)))
    return either(any_year, chain(leap, b"-02-29"))


KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "format"},
    "integer": {"minimum"},
    "number": {"minimum"},
    "boolean": set(),
    "null": set(),
}
"""What is understood of JSON Schema, beside ``enum`` and a list of types."""

ASIDE = {"type", "title", "description", "$schema"}
"""What any schema may have."""


def grammar(schema: Any) -> Expression:
    """The JSON texts that are valid by a schema, written in one way.

    Of numbers 9 digits before the point, and 6 after it, can be written. Raises ValueError for a type or keyword that
    is not understood: to pass over one would be to promise what is not kept.

    >>> expression = grammar({"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}})
    >>> matches(expression, b'{"age": 41}'), matches(expression, b'{"age": -1}'), matches(expression, b'{"age":41}')
    (True, False, False)
    """
    if not isinstance(schema, Mapping):
        raise ValueError(f"schema: {schema!r:.60} is no object: give one with a type, or an enum")
    for keyword, (holds, needed) in HOLDS.items():
        if keyword in schema and not holds(schema[keyword]):
            raise ValueError(f"schema: {keyword} is {schema[keyword]!r:.60}: give {needed}")
    if "enum" in schema:
        if unknown := sorted(schema.keys() - {"enum", *ASIDE}):
            raise ValueError(f"schema: {unknown[0]!r} beside an enum is not supported; leave it out")
        return either(*(_text(value) for value in schema["enum"]))
    kind = schema.get("type")
    known = set().union(*map(_known, kind if isinstance(kind, list) else [kind]))
    if unknown := sorted(schema.keys() - known):
        raise ValueError(f"schema: {unknown[0]!r} of the type {kind!r} is not supported; leave it out")
    if isinstance(kind, list):
        return either(*(grammar({k: v for k, v in schema.items() if k in _known(one)} | {"type": one}) for one in kind))
    match kind:
        case "object":
            if lost := sorted(set(schema.get("required", ())) - schema.get("properties", {}).keys()):
                raise ValueError(f"schema: required {lost[0]!r} is none of the properties; add it there")
            members = [chain(_text(name), b": ", grammar(one)) for name, one in schema.get("properties", {}).items()]
            return chain(b"{", *_separated(members), b"}")
        case "array":
            return _array(schema)
        case "string":
            return _string(schema)
        case "boolean":
            return either(b"true", b"false")
        case "null":
            return b"null"
    number = WHOLE if kind == "integer" else chain(WHOLE, either(b"", chain(b".", repeat(DIGIT, 1, 6))))
    return number if _bound(schema, "minimum", (0, None), None) == 0 else chain(SIGN, number)


def _texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


HOLDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (lambda value: isinstance(value, str) or (_texts(value) and len(value) > 0), "a name, or a list of names"),
    "enum": (lambda value: isinstance(value, list | tuple) and len(value) > 0, "a list of one value or more"),
    "properties": (lambda value: isinstance(value, Mapping), 'an object, as {"name": {"type": "string"}}'),
    "required": (_texts, "a list of names of properties"),
}
"""What the value of a keyword must be, and how to say so."""


def _known(kind: str | None) -> set[str]:
    if kind not in KEYWORDS:
        raise ValueError(f"schema: type is {kind!r}: choose one of {', '.join(KEYWORDS)}, or give an enum")
    return KEYWORDS[kind] | ASIDE


def _bound(schema: Mapping[str, Any], keyword: str, allowed: Collection, default: Any) -> Any:
    value = schema.get(keyword, default)
    if value not in allowed or (isinstance(allowed, range) and type(value) is not int):  # 64.0 and True count nothing
        whole = f"0 to {max(allowed)}, in whole numbers," if isinstance(allowed, range) else ""
        shown = whole or " or ".join(map(repr, allowed))
        raise ValueError(f"schema: {keyword} is {value!r}: {shown} is supported")
    return value


def _limits(schema: Mapping[str, Any], least: str, most: str) -> tuple[int, int]:
    upper = _bound(schema, most, range(1001), LONGEST[most])
    return _bound(schema, least, range(upper + 1), 0), upper


def _array(schema: Mapping[str, Any]) -> Expression:
    if "items" not in schema:
        raise ValueError("schema: an array lacks items; say what it holds")
    item, (least, most) = grammar(schema["items"]), _limits(schema, "minItems", "maxItems")
    more = repeat(chain(b", ", item), max(least - 1, 0), most - 1) if most else b""
    some = chain(item, more) if most else NOTHING
    return chain(b"[", some if least else either(b"", some), b"]")


def _string(schema: Mapping[str, Any]) -> Expression:
    if _bound(schema, "format", ("date", None), None):
        if schema.keys() & {"minLength", "maxLength"}:
            raise ValueError("schema: a date has a length of its own; leave minLength and maxLength out")
        return chain(b'"', _date(), b'"')
    return chain(b'"', repeat(CHARACTER, *_limits(schema, "minLength", "maxLength")), b'"')


def _separated(parts: Sequence[Expression]) -> Iterator[Expression]:
    for number, part in enumerate(parts):
        yield from ([b", "] if number else []) + [part]


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
