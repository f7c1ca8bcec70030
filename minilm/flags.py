"""A command line read off dataclasses: a field is a flag, its type the flag's type, its words the flag's help."""

import argparse
import ast
import dataclasses
import inspect
import typing
from collections.abc import Callable
from itertools import pairwise
from typing import Any


def flag(help: str, *, default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A dataclass field with the words that ``--help`` prints for it."""
    return dataclasses.field(default=default, metadata={"help": help, **options})


def parser(program: str, description: str, commands: dict[str, type]) -> argparse.ArgumentParser:
    """A parser with one sub-command for each dataclass; a field without a default is required."""
    top = argparse.ArgumentParser(program, description=description)
    group = top.add_subparsers(dest="command", required=True)
    for name, cls in commands.items():
        one = group.add_parser(name, help=cls.__doc__, description=cls.__doc__)
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if "flags_of" in field.metadata:
                add_overrides(one, field.metadata["flags_of"])
            else:
                add_flag(one, field, hints[field.name])
    return top


def add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field, hint: Any) -> None:
    """One field as one flag; ``X | None`` and ``list[X]`` are read as X."""
    options = dict(field.metadata)
    kind: Callable = next((t for t in typing.get_args(hint) if t is not type(None)), hint)
    if options.pop("positional", False):
        parser.add_argument(field.name, type=kind, **options)
    elif kind is bool:
        parser.add_argument("--" + field.name.replace("_", "-"), action="store_true", **options)
    else:
        required = field.default is dataclasses.MISSING
        default = {} if required else {"default": field.default}
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, required=required, **default, **options)


def add_overrides(parser: argparse.ArgumentParser, cls: type) -> None:
    """The fields of another dataclass as flags that replace what a preset says."""
    group = parser.add_argument_group("in place of what the preset says")
    hints = typing.get_type_hints(cls)
    for name, text in field_docs(cls).items():
        how: dict[str, Any] = {"type": next(iter(typing.get_args(hints[name])), hints[name])}
        if hints[name] is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif typing.get_origin(hints[name]) is tuple:
            how["nargs"] = len(typing.get_args(hints[name]))
        group.add_argument("--" + name.replace("_", "-"), help=text, default=argparse.SUPPRESS, **how)


def field_docs(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass, by the field's name."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    return {field.target.id: text.value.value for field, text in pairwise(body) if isinstance(field, ast.AnnAssign)}
