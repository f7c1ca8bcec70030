"""A reader's own examples in a file: one JSON object a line, a table, or plain lines of text.

Not here: what is made of them (``minilm.applications``).
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import data
from .data import DataError

Example = str | dict[str, Any]
"""Values by the names of fields, or a text alone."""


def read(path: str | Path) -> list[Example]:
    """The examples in a file: ``.jsonl``, one JSON object a line; ``.csv`` with a header; ``.txt``, one text a line.

    Blank lines are passed over. Raises DataError for a file that cannot be read or holds no example, and names the
    first line that is none.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise DataError(f"{path}: examples come in files named *{', *'.join(READERS)}: rename or convert it")
    try:
        examples = READERS[path.suffix](data.read_text(path))
    except ValueError as error:
        raise DataError(f"{path}, {error}") from error
    if not examples:
        raise DataError(f"{path} holds no example: give one or more")
    return examples


def plain(text: str) -> list[Example]:
    r"""Lines of text.

    >>> plain("one\n\n two \n")
    ['one', 'two']
    """
    return [line.strip() for line in text.split("\n") if line.strip()]


def jsonl(text: str) -> list[Example]:
    r"""A JSON object on each line. ValueError names the first line that is none.

    >>> jsonl('{"text": "one"}\n\n{"text": "two"}')
    [{'text': 'one'}, {'text': 'two'}]
    """
    found: list[Example] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is no JSON ({error}): write one object on each line") from error
        if not isinstance(one, dict):
            raise ValueError(f'line {number} is {line!r:.40}, no JSON object: write {{"text": ...}}')
        found.append(one)
    return found


def table(text: str) -> list[Example]:
    r"""The rows of a CSV table by the names in its first line, without the blanks around a cell.

    What separates the cells is the first of comma, semicolon and tab that the first line holds: spreadsheets write
    semicolons where numbers have a decimal comma. ValueError names the first line that is none.

    >>> table('text, label\n"good, really", positive')
    [{'text': 'good, really', 'label': 'positive'}]
    >>> table('text;label\ngood, really;positive')
    [{'text': 'good, really', 'label': 'positive'}]
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # a cell may hold a book; others keep theirs
    first = text.strip().partition("\n")[0]
    mark = next((mark for mark in ",;\t" if mark in first), ",")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=mark)
    filled = (row for row in rows if any(map(str.strip, row)))
    found: list[Example] = []
    try:
        header = [name.strip() for name in next(filled, [])]
        if not all(header) or len(set(header)) < len(header):
            raise ValueError(
                f"line {rows.line_num} is {','.join(header)!r:.60}: name every column there, each differently"
            )
        for row in filled:
            if len(row) != len(header):
                counts = f"line {rows.line_num} has {len(row)} cells, the header {len(header)}"
                raise ValueError(f'{counts}: put a cell that holds {mark!r} or a line end in quotes, "like{mark} this"')
            found.append(dict(zip(header, map(str.strip, row), strict=True)))
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num} is no CSV ({error}): double the quotes inside quotes") from error
    return found


READERS: dict[str, Callable[[str], list[Example]]] = {".jsonl": jsonl, ".csv": table, ".txt": plain}
"""How a file is read, by the end of its name."""
