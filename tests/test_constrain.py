"""Tokens that may come next against trying them all; texts of models without sense against `jsonschema`."""

import json

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import randomised

from minilm import chat
from minilm.constrain import Constraint, checked, extract
from minilm.forms import chain, either, grammar, longest, matches, repeat
from minilm.generate import generate, generate_batch
from minilm.gpt import GPT
from minilm.tokenizer import BPE
from minilm.transformer import Config

SAMPLE = '{"name": "Ann", "age": 41, "ages": [1, 2]} {"name": "Änne", "age": 7} yes yes no nothing 2014-05-06 "a, b"'
UNITS = BPE.train(SAMPLE * 2, 330, (chat.START, chat.END))
STOP = UNITS.specials[chat.END]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "day": {"type": "string", "format": "date"},
        "age": {"type": ["integer", "null"], "minimum": 0},
        "kind": {"enum": ["yes", "no", "日本"]},
    },
    "required": ["name", "day", "age", "kind"],
}
FORM = grammar(SCHEMA)
MAY = Constraint(FORM, UNITS, {STOP})


class Noise:
    """A language model without sense: each token has random odds of what comes after it."""

    vocab_size, context = UNITS.vocab_size, 1

    def __init__(self, seed):
        self.table = torch.randn(V := UNITS.vocab_size, V, generator=torch.Generator().manual_seed(seed)) * 5

    def __call__(self, ids):
        return self.table[ids]


def finite(words):
    """A form of a few words, and the words."""
    return either(*(word.encode() for word in words)), words


@given(st.lists(st.text("aeno y", min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
def test_allowed_are_the_tokens_that_begin_a_rest(words):
    form, words = finite(words)
    may = Constraint(form, UNITS, {STOP})
    for word in words:
        ids = UNITS.encode(word)
        for n in range(len(ids) + 1):
            done = UNITS.decode(ids[:n])
            rests = [other[len(done) :].encode() for other in words if other.startswith(done)]
            expected = {id for token, id in UNITS.vocab.items() if any(rest.startswith(token) for rest in rests)}
            expected |= {STOP} if b"" in rests else set()
            assert set(may(ids[:n]).nonzero().flatten().tolist()) == expected


@given(st.integers(0, 10**6))
def test_a_model_without_sense_writes_what_is_valid(seed):
    form, may = FORM, MAY
    ids = generate(Noise(seed), [5], longest(form) + 1, temperature=1.0, seed=seed, stop={STOP}, allowed=may)
    text = UNITS.decode(ids)
    assert matches(form, text.encode())
    jsonschema.validate(json.loads(text), SCHEMA, format_checker=jsonschema.FormatChecker())
    assert checked(text, SCHEMA) == json.loads(text)


def test_without_the_constraint_it_does_not():
    texts = [generate(Noise(seed), [5], 40, seed=seed, stop={STOP}) for seed in range(5)]
    assert [checked(UNITS.decode(ids), SCHEMA) for ids in texts] == [None] * 5


def test_rows_of_a_batch_keep_their_own_state():
    torch.manual_seed(0)
    model = randomised(GPT(Config(UNITS.vocab_size, context=300, d_model=16, n_layers=1, n_heads=2))).eval()
    form = grammar(SCHEMA)
    may = Constraint(form, UNITS, {STOP})
    how = {"temperature": 0.0, "stop": {STOP}, "allowed": may}
    prompts = [UNITS.encode(text) for text in ("no", "Ann, 41", '{"name": "')]
    together = generate_batch(model, prompts, longest(form) + 1, **how)
    assert together == [generate(model, prompt, longest(form) + 1, **how) for prompt in prompts]
    assert all(matches(form, UNITS.decode(ids).encode()) for ids in together)
    ones = torch.ones(UNITS.vocab_size, dtype=torch.bool)
    free = generate(model, prompts[0], 20, seed=3)
    assert generate(model, prompts[0], 20, seed=3, allowed=lambda ids: ones) == free


def test_tokens_keep_their_odds():
    """Among the tokens that may come, the model's probabilities are scaled, not changed."""
    yes, no = UNITS.encode("yes"), UNITS.encode("no")
    assert len(yes) == len(no) == 1
    logits = torch.zeros(UNITS.vocab_size)
    logits[yes], logits[no], logits[7] = 2.0, 1.0, 30.0
    call = lambda ids: logits.expand(*ids.shape, -1)
    model = type(
        "Fixed", (), {"vocab_size": UNITS.vocab_size, "context": None, "__call__": lambda self, ids: call(ids)}
    )()
    may = lambda ids: torch.zeros(UNITS.vocab_size, dtype=torch.bool).index_fill(0, torch.tensor(yes + no), True)
    drawn = [generate(model, [5], 1, seed=seed, allowed=may)[0] for seed in range(2000)]
    share = drawn.count(yes[0]) / len(drawn)
    assert set(drawn) == set(yes + no) and abs(share - 1 / (1 + 2.718281828**-1)) < 0.04


def test_special_tokens_are_no_text():
    form = repeat(chain(frozenset(b"<|im_endstar>")), 1, 12)
    may = Constraint(form, UNITS, ())
    allowed = set(may([]).nonzero().flatten().tolist())
    assert not allowed & set(UNITS.specials.values()) and UNITS.encode("<")[0] in allowed


def test_what_went_wrong_is_named():
    may = Constraint(either(b"yes", b"no"), UNITS, {STOP})
    with pytest.raises(ValueError, match="'ye1' cannot become a text of the form"):
        may(UNITS.encode("ye1"))
    assert may(UNITS.encode("no")).nonzero().flatten().tolist() == [STOP]
    with pytest.raises(ValueError, match="no token may come next: give stop ids"):
        Constraint(b"no", UNITS, ())(UNITS.encode("no"))


@pytest.mark.parametrize(
    "text", ["", "{", "41", '{"age": "41"}', '{"age": NaN}', "[" * 10**5, '```json\n{"age": 1}```']
)
def test_what_is_not_valid_is_none(text):
    assert checked(text, {"type": "object", "properties": {"age": {"type": "integer"}}}) is None


def test_a_date_that_does_not_exist_is_none():
    schema = {"properties": {"day": {"type": "string", "format": "date"}}}
    assert checked('{"day": "2023-02-28"}', schema) and checked('{"day": "2023-02-30"}', schema) is None


def test_extract_is_valid_for_every_text_whatever_the_model():
    torch.manual_seed(1)
    model = randomised(GPT(Config(UNITS.vocab_size, context=600, d_model=16, n_layers=1, n_heads=2))).eval()
    texts = ["Ann is 41.", "no", "Änne"]
    shot = ("Bo is 7.", {"name": "Bo", "day": "2014-05-06", "age": 7, "kind": "no"})
    written = extract(model, UNITS, texts, SCHEMA, shots=[shot], batch_size=2)
    assert len(written) == 3 and all(checked(text, SCHEMA) for text in written)
    free = extract(model, UNITS, texts, SCHEMA, shots=[shot], free=True)
    assert not any(checked(text, SCHEMA) for text in free)


def test_long_answers_are_written_a_few_at_once(monkeypatch):
    """An array may be long, so its cache is; what is written is the same."""
    torch.manual_seed(1)
    model = randomised(GPT(Config(UNITS.vocab_size, context=900, d_model=16, n_layers=1, n_heads=2))).eval()
    schema = {"type": "object", "properties": {"x": {"type": "array", "items": {"type": "integer"}, "maxItems": 20}}}
    texts = ["Ann is 41.", "no", "Änne", "yes", "no"]
    together = extract(model, UNITS, texts, schema)
    monkeypatch.setattr("minilm.constrain.generate_batch", lambda model, prompts, *more, **how: (
        sizes.append(len(prompts)) or generate_batch(model, prompts, *more, **how)))  # fmt: skip
    for room, most in ((longest(grammar(schema)) * 2 + 2, 2), (1, 1)):
        sizes = []
        monkeypatch.setattr("minilm.constrain.ROOM", room)
        assert extract(model, UNITS, texts, schema) == together
        assert sum(sizes) == 5 and max(sizes) == most
