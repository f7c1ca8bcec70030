"""One model for several tasks: what it is trained on, and that a second call finds it in the cache."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from minilm import multitask, tasks
from minilm.multitask import LEAST, RUN, SHAPE, mixture, tokenizer, trained
from minilm.spans import END

TINY = replace(RUN, steps=3, batch_size=4, eval_every=3)


def test_small_tasks_are_repeated_and_nothing_held_out_is_in():
    mixed = mixture(["date"])
    assert set(mixed) == set(tasks.load("date")["train"]) and len(mixed) == len(set(mixed))
    some = tasks.load("date")["train"][:150]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "load", lambda name: {"train": some})
        times = Counter(mixture(["date"]))
    assert set(times.values()) == {14} and 14 * 150 >= LEAST > 13 * 150


def test_the_tokenizer_spells_anything():
    units = tokenizer(tasks.load("date")["train"][:500], vocab_size=400)
    assert units.encode("</s>", specials=True) == [END]
    assert units.decode(units.encode("date: 低 Ωé")) == "date: 低 Ωé"


def test_the_second_call_trains_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    shape = replace(SHAPE, d_model=16, n_layers=1, n_heads=2)
    first = trained(["date"], seed=1, run=TINY, shape=shape)
    assert "training t5-date" in capsys.readouterr().err and first.log[-1]["step"] == 3
    monkeypatch.setattr("minilm.trainer.Run.advance", None)
    second = trained(["date"], seed=1, run=TINY, shape=shape)
    for ours, again in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, again)
    assert second.log == first.log and not second.model.training
    other = multitask.T5(replace(shape, vocab_size=1024))
    assert not torch.equal(other.embedding.weight, first.model.embedding.weight)


def test_answers_are_marked_character_by_character(monkeypatch, tmp_path):
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    model = trained(["date"], run=TINY, shape=replace(SHAPE, d_model=16, n_layers=1, n_heads=2))
    found = model(["date: 4 mars 2024", "date: May 1, 1999"], max_new_tokens=5)
    assert len(found) == 2 and all(isinstance(text, str) for text in found)
    pairs = [tasks.Pair("date: 4 mars 2024", model(["date: 4 mars 2024"])[0], ""), tasks.Pair("date: 1", "no", "")]
    assert model.right(pairs) == [True, False]
