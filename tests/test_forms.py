"""Forms against Python's `re`, and the grammar of a schema against `json` and `jsonschema`, both ways."""

import calendar
import datetime
import json
import random
import re

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minilm import forms
from minilm.forms import NOTHING, chain, either, grammar, longest, matches, nullable, repeat, steps

LETTERS = st.sampled_from([b"a", b"b", b"ab", b"ba"])


def pairs():
    """Forms, each with the regular expression that Python has for it."""
    base = LETTERS.map(lambda text: (text, text.decode())) | st.just((frozenset(b"ab"), "[ab]"))

    def larger(children):
        two = st.tuples(children, children)
        counts = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(sorted)
        return (
            two.map(lambda p: (chain(p[0][0], p[1][0]), p[0][1] + p[1][1]))
            | two.map(lambda p: (either(p[0][0], p[1][0]), f"(?:{p[0][1]}|{p[1][1]})"))
            | st.tuples(children.filter(lambda p: not nullable(p[0])), counts).map(
                lambda p: (repeat(p[0][0], *p[1]), f"(?:{p[0][1]}){{{p[1][0]},{p[1][1]}}}")
            )
        )

    return st.recursive(base, larger, max_leaves=6)


@given(pairs(), st.lists(st.text("abc", max_size=6), max_size=20))
def test_forms_are_regular_expressions(pair, texts):
    form, pattern = pair
    for text in ["", "a", "b", "ab", "abab", *texts]:
        assert matches(form, text.encode()) == bool(re.fullmatch(pattern, text)), (form, pattern, text)


@given(pairs(), st.randoms())
def test_every_way_through_a_form_ends(pair, random):
    """Whatever is begun can be finished, within the stated length."""
    form, left, text = pair[0], pair[0], b""
    while ways := steps(left):
        if nullable(left) and random.random() < 0.3:
            break
        some, left = random.choice(ways)
        assert some and left != NOTHING
        text += bytes([random.choice(sorted(some))])
    assert nullable(left) and matches(form, text) and len(text) <= longest(form)


def test_what_cannot_be_is_taken_out():
    assert chain(b"a", NOTHING) == chain(NOTHING, b"a") == either(NOTHING, NOTHING) == NOTHING
    assert either(b"a", NOTHING, b"a") == b"a" and chain(b"", b"a", b"b", b"") == b"ab"
    assert repeat(b"a", 0, 0) == b"" and not steps(b"") and not matches(NOTHING, b"")


# JSON

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "day": {"type": "string", "format": "date"},
        "number": {"type": ["integer", "null"], "minimum": 0},
        "share": {"type": "number"},
        "kind": {"enum": ["a", "é", 3, None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "in": {"type": "object", "properties": {"x": {"type": "string"}}},
    },
    "required": ["name", "day"],
    "additionalProperties": False,
}
CHARACTERS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
VALUES = st.fixed_dictionaries(
    {
        "name": CHARACTERS,
        "day": st.dates(datetime.date(1000, 1, 1)).map(str),
        "number": st.none() | st.integers(0, 999_999_999),
        "share": st.integers(-(10**6), 10**6).map(lambda n: n / 8),
        "kind": st.sampled_from(["a", "é", 3, None]),
        "tags": st.lists(st.booleans(), min_size=1, max_size=3),
        "in": st.fixed_dictionaries({"x": CHARACTERS}),
    }
)


@settings(max_examples=30)  # each is read byte by byte, three times
@given(VALUES)
def test_valid_values_as_json_writes_them_are_of_the_form(value):
    text = json.dumps({name: value[name] for name in SCHEMA["properties"]}, ensure_ascii=False)
    assume("\x7f" not in text)
    assert matches(grammar(SCHEMA), text.encode())
    assert not matches(grammar(SCHEMA), text[:-1].encode()) and not matches(grammar(SCHEMA), (text + " ").encode())


@pytest.mark.parametrize("seed", range(30))
def test_what_is_of_the_form_is_valid(seed):
    rng, left, text = random.Random(seed), grammar(SCHEMA), b""
    while not nullable(left):
        some, left = rng.choice(steps(left))
        text += bytes([rng.choice(sorted(some))])
    jsonschema.validate(json.loads(text.decode()), SCHEMA, format_checker=jsonschema.FormatChecker())


def test_dates_are_those_of_the_calendar():
    form = grammar({"type": "string", "format": "date"})
    one, day = datetime.date(1899, 12, 1), datetime.timedelta(1)
    while one.year < 1901:  # 1900 is no leap year
        assert matches(form, f'"{one}"'.encode())
        one += day
    years = [*range(1000, 1009), *range(1896, 1909), *range(1996, 2009), 2100, 2200, 2300, 2400, *range(9992, 10000)]
    leap = [y for y in years if matches(form, f'"{y}-02-29"'.encode())]
    assert leap == [y for y in years if calendar.isleap(y)]
    for text in ("2023-02-29", "2023-02-30", "2023-04-31", "2023-13-01", "2023-00-10", "2023-1-1", "0999-01-01"):
        assert not matches(form, f'"{text}"'.encode())


def test_every_character_and_nothing_else():
    form = grammar({"type": "string", "maxLength": 1})
    for code in [*range(0x20, 0x800), *range(0x800, 0x110000, 97), 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]:
        if not 0xD800 <= code < 0xE000 and chr(code) not in '"\\\x7f':
            assert matches(form, f'"{chr(code)}"'.encode()), hex(code)
    for bad in (b'"\x80"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\n"', b'"""', b'"\\"', b'"ab"'):
        assert not matches(form, bad)
    assert json.loads('"\\n"') == "\n" and matches(form, b'"\\n"') and matches(form, b'""')


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "integer"}, ["0", "-7", "123456789"], ["01", "1.0", "", "-", "1234567890"]),
        ({"type": "integer", "minimum": 0}, ["0", "7"], ["-7", "-0"]),
        ({"type": "number"}, ["1.5", "-0.25", "3"], ["1.", ".5"]),
        ({"type": "array", "items": {"enum": [1]}, "maxItems": 2}, ["[]", "[1]", "[1, 1]"], ["[1,1]", "[1, 1, 1]"]),
        ({"type": "array", "items": {"enum": [1]}, "maxItems": 0}, ["[]"], ["[1]"]),
        ({"type": "object"}, ["{}"], ["{ }"]),
        ({"type": ["string", "null"], "maxLength": 2}, ['"ab"', "null"], ['"abc"', "nul"]),
    ],
)  # fmt: skip
def test_kinds_by_hand(schema, right, wrong):
    form = grammar(schema)
    assert all(matches(form, text.encode()) for text in right) and not any(matches(form, t.encode()) for t in wrong)


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({}, "type is None: choose one of object"),
        ({"type": "set"}, "type is 'set'"),
        ({"type": "string", "pattern": "a+"}, "'pattern' of the type 'string' is not supported"),
        ({"type": "string", "format": "email"}, "format is 'email'"),
        ({"type": "integer", "minimum": 5}, "minimum is 5"),
        ({"type": "string", "maxLength": -1}, "maxLength is -1: 0 to 1000"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "minLength is 5: 0 to 4"),
        ({"type": "object", "properties": {"x": {"type": "array", "items": {"$ref": "#"}}}}, "type is None"),
    ],
)
def test_what_cannot_be_promised_is_refused(schema, match):
    with pytest.raises(ValueError, match=match):
        grammar(schema)


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ([1], "is no object"),
        ({"type": "object", "properties": {"a": True}}, "is no object"),
        ({"type": "object", "required": ["a"]}, "required 'a'"),
        ({"enum": ["a"], "pattern": "b"}, "beside an enum"),
        ({"type": "string", "format": "date", "maxLength": 3}, "a date has a length"),
        ({"type": "object", "properties": ["name", "age"]}, r"properties is \['name', 'age'\]: give an object"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": True}, "required is True: give a list"),
        ({"type": "object", "required": [["a"]]}, "required is .* give a list"),
        ({"enum": 5}, "enum is 5: give a list of one value or more"),
        ({"enum": []}, r"enum is \[\]: give a list"),
        ({"enum": "abc"}, "enum is 'abc': give a list"),
        ({"type": {"a": 1}}, "type is .*: give a name"),
        ({"type": []}, r"type is \[\]: give a name"),
        ({"type": ["string", {}]}, "give a name, or a list of names"),
        ({"type": "string", "maxLength": 64.0}, "maxLength is 64.0: 0 to 1000, in whole numbers"),
        ({"type": "array", "items": {"type": "null"}, "minItems": True}, "minItems is True: 0 to 8, in whole"),
    ],
)
def test_what_would_pass_over_a_wish_is_refused(schema, match):
    with pytest.raises(ValueError, match=match):
        grammar(schema)


def test_a_union_takes_each_keyword_to_its_type():
    with pytest.raises(ValueError, match="'pattern'"):
        grammar({"type": ["string", "null"], "pattern": "a"})
    assert forms.LONGEST["maxLength"] == 64
