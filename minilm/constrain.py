"""Constrained decoding: a model may only write what can still become a text of the wanted form.

`Constraint` turns an expression of ``minilm.forms`` into a finite automaton, a state at a time, and asks in every state
which *tokens* lead on. Every state can be finished, so a model that obeys ends with a text of the form, whatever its
weights are. `extract` has a model write JSON by a schema. The form is right then; whether the values are is another
matter.

Not here: the form itself (``minilm.forms``), and how a token is drawn among those allowed (``minilm.generate``).
Reference: Willard & Louf 2023 (automata over tokens).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from . import chat
from .contract import LanguageModel
from .forms import NOTHING, Expression, either, grammar, longest, nullable, steps
from .generate import generate_batch
from .prompting import turns
from .vocabulary import Vocabulary


class Constraint:
    """For `minilm.generate.generate`: of the ids written so far, which tokens may come next.

    ``stop`` ids may come where the text is complete; where nothing else may, they must. A text cut off before that is
    not of the form: leave room for ``longest(expression)`` tokens.

    >>> from minilm.tokenizer import BPE
    >>> units = BPE.train("no not nothing", 259, ("<stop>",))
    >>> may = Constraint(either(b"no", b"not"), units, stop={0})
    >>> [units.tokens[id] for id in may([]).nonzero().flatten()]
    ['n', 'no']
    >>> [units.tokens[id] for id in may(units.encode("no")).nonzero().flatten()]
    ['<stop>', 't']
    """

    def __init__(self, expression: Expression, tokenizer: Vocabulary, stop: Collection[int] = ()):
        self.stop, self.tokenizer = list(stop), tokenizer
        self.states = [NOTHING, expression]
        self.numbers = {state: number for number, state in enumerate(self.states)}
        self.table = np.zeros((64, 256), dtype=np.int32)  # the next state by state and byte; 0 is the end of all hope
        self.made = 0
        self.sizes = np.zeros(tokenizer.vocab_size, dtype=np.int64)  # special tokens are no text, so they stay empty
        for token, id in tokenizer.vocab.items():
            self.sizes[id] = len(token)
        self.bytes = np.zeros((tokenizer.vocab_size, self.sizes.max()), dtype=np.uint8)
        for token, id in tokenizer.vocab.items():
            self.bytes[id, : len(token)] = list(token)
        self.mask = lru_cache(maxsize=4096)(self._mask)

    def __call__(self, ids: Sequence[int]) -> Bool[Tensor, " V"]:
        """The tokens that may follow. Raises ValueError for ids that the form does not allow."""
        state = 1
        for byte in b"".join(map(self.tokenizer.token_bytes, ids)):
            state = int(self._rows(state + 1)[state, byte])
        if state == 0:
            raise ValueError(f"ids: {self.tokenizer.decode(ids)!r} cannot become a text of the form")
        return self.mask(state)

    def _mask(self, state: int) -> Bool[Tensor, " V"]:
        """The tokens that lead from a state to one that is not hopeless: all are walked at once, byte by byte."""
        alive, at = np.flatnonzero(self.sizes), np.full(len(self.sizes), state)
        for place in range(self.bytes.shape[1]):
            alive = alive[self.sizes[alive] > place]
            at[alive] = self._rows(int(at.max()) + 1)[at[alive], self.bytes[alive, place]]
            alive = alive[at[alive] > 0]
            if not len(alive):
                break
        allowed = torch.from_numpy((at > 0) & (self.sizes > 0))
        allowed[self.stop] = nullable(self.states[state])
        if not allowed.any():
            raise ValueError("no token may come next: give stop ids, and a tokenizer that has all bytes")
        return allowed

    def _rows(self, n: int) -> np.ndarray:
        """The table with its first ``n`` rows, made where they are missing."""
        for state in range(self.made, n):
            if state == len(self.table):
                self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            lefts: list[list[Expression]] = [[] for _ in range(256)]
            for some, left in steps(self.states[state]):
                for byte in some:
                    lefts[byte].append(left)
            self.table[state] = [self._number(tuple(left)) for left in lefts]
        self.made = max(self.made, n)
        return self.table

    def _number(self, lefts: tuple[Expression, ...]) -> int:
        """The number of the state in which one of several things is left to come."""
        state = either(*lefts)
        if state not in self.numbers:
            self.numbers[state] = len(self.states)
            self.states.append(state)
        return self.numbers[state]


# Text to data


ASK = "Extract the data from the text. Answer with a JSON object with the keys {keys} only."
"""What stands before each text in `extract`."""

ROOM = 2**14
"""Tokens of all answers together that a cache has room for: those of SmolLM2 take 0.75 GB."""


def extract(
    model: LanguageModel,
    tokenizer: Vocabulary,
    texts: Sequence[str],
    schema: Mapping[str, Any],
    shots: Sequence[tuple[str, Any]] = (),
    free: bool = False,
    batch_size: int = 16,
) -> list[str]:
    """What a model that can chat writes for each text: JSON by a schema of an object, decoded greedily.

    ``shots`` are texts with their values, shown as earlier turns. With ``free`` nothing holds the model to the form.
    At most ``batch_size`` texts are answered at once, fewer where the longest answer is long: it must have room.
    Raises ValueError for a schema that `minilm.forms.grammar` refuses.
    """
    expression, stop = grammar(schema), {tokenizer.specials[chat.END]}
    ask = ASK.format(keys=", ".join(schema.get("properties", {})))
    solved = [(text, json.dumps(value, ensure_ascii=False)) for text, value in shots]
    prompts = [chat.encode(tokenizer, turns(text, solved, ask)) for text in texts]
    how: dict[str, Any] = {"temperature": 0.0, "stop": stop}
    how |= {} if free else {"allowed": Constraint(expression, tokenizer, stop)}
    written, room = [], 100 if free else longest(expression) + 1
    batch_size = max(1, min(batch_size, ROOM // room))
    for start in range(0, len(prompts), batch_size):
        written += generate_batch(model, prompts[start : start + batch_size], room, **how)
    return [tokenizer.decode(ids) for ids in written]


def checked(text: str, schema: Mapping[str, Any]) -> Any:
    """The value of a JSON text, None where it is no JSON or not valid by the schema, formats included.

    >>> checked('{"age": 41}', {"properties": {"age": {"type": "integer"}}}), checked('Age: 41', {})
    ({'age': 41}, None)
    """
    import jsonschema  # here, as it takes seconds where the grammar of all web addresses is installed beside it

    try:
        value = json.loads(text)
        jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    except (ValueError, RecursionError, jsonschema.ValidationError):
        return None
    return value
