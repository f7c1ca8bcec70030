"""What a request to the demo may hold: its fields, how each is checked, and what is said where one is wrong.

Whatever arrives, the answer is a form in which every value is as promised, or a `Problem` that names the field, the
value and what to give in its place.

Not here: the web (``minilm.serve``).
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from . import chat
from .vocabulary import check_text

MOST_BYTES = 2**16
"""Of a request."""

MOST_TOKENS = 1024
"""That a model reads and writes for one request."""

Check = Callable[[Any], Any]
"""Gives a value back; ValueError says what to give in its place."""

Form = dict[str, tuple[Check, Any]]
"""The fields of a request: how each is checked, and what stands in for one that is left out (...: nothing can)."""


class Problem(Exception):
    """Why a request is not served: an HTTP status, what is wrong and what to do; the field and its value, if any."""

    def __init__(self, status: int, message: str, field: str | None = None, value: Any = None):
        super().__init__(message)
        self.status = status
        quoted = isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
        quoted = quoted and len(repr(value)) <= 80
        self.said = {"error": {"message": message, "field": field, "value": value if quoted else None}}


def fields(body: bytes, form: Form) -> dict[str, Any]:
    """The fields that a request in JSON gives, checked, and the usual values of the others. Raises Problem.

    >>> form = {"k": (number(1, 9), 5), "how": (choice(["bm25", "dense"]), "bm25")}
    >>> fields(b'{"k": 3}', form)
    {'k': 3, 'how': 'bm25'}
    >>> fields(b'{"k": 30}', form)
    Traceback (most recent call last):
    minilm.request.Problem: k: give a whole number from 1 to 9
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the request is no JSON ({error}): send an object such as {{...}}") from error
    if not isinstance(given, dict):
        raise Problem(400, "the request is no JSON object: send one such as {...}")
    for field in given.keys() - form.keys():
        raise Problem(422, f"there is no field of this name: the fields are {', '.join(form)}", field, given[field])
    return {field: checked(field, given.get(field, usual), check) for field, (check, usual) in form.items()}


def checked(field: str, value: Any, check: Check) -> Any:
    """What ``check`` gives for the value of a field; its ValueError as a Problem."""
    if value is ...:
        raise Problem(422, f"{field} is missing: give it", field)
    try:
        return check(value)
    except ValueError as error:
        raise Problem(422, f"{field}: {error}", field, value) from error


def fits(field: str, length: int, new: int = 0) -> None:
    """Whether a model may read ``length`` tokens and write ``new`` ones for one request. Raises Problem."""
    if length + new > MOST_TOKENS:
        more = f", and {new} new ones are asked for" if new else ""
        remedy = f"together at most {MOST_TOKENS} are possible: shorten the text"
        raise Problem(422, f"{field} has {length} tokens{more}; {remedy}", field)


# Checks


def text(value: Any) -> str:
    """A text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("give a text that is not blank")
    return check_text(value)


def number(low: int | float, high: int | float, whole: bool = True) -> Check:
    """A number from ``low`` to ``high``."""

    def check(value: Any) -> int | float:
        if type(value) not in ((int,) if whole else (int, float)) or not low <= value <= high:
            raise ValueError(f"give a {'whole ' * whole}number from {low} to {high}")
        return value if whole else float(value)

    return check


def choice(names: Sequence[str]) -> Check:
    """One of some names."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"choose one of {', '.join(names)}")
        return value

    return check


def messages(value: Any) -> list[dict[str, str]]:
    """A conversation, whose last message is the user's."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError('give a list such as [{"role": "user", "content": "Hello"}]')
    chat.render(value)
    for one in value:
        check_text(one["content"])
    if value[-1]["role"] != "user" or not value[-1]["content"].strip():
        raise ValueError("end with a message of the user, which is to be answered")
    return value


def ids(value: Any) -> list[int]:
    """Ids of tokens."""
    if not isinstance(value, list) or not value or not all(type(id) is int and 0 <= id < 2**31 for id in value):
        raise ValueError("give a list of token ids, one or more")
    return value


SAMPLING: Form = {
    "max_new_tokens": (number(1, 512), 200),
    "temperature": (number(0, 5, whole=False), 0.7),
    "top_p": (number(0.01, 1, whole=False), 0.9),
    "seed": (number(0, 2**31), 0),
}
"""How a text is drawn, as `minilm.generate.generate` calls it."""
