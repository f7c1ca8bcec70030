"""The references are right, and what is held out is nowhere in the training pairs."""

import os
import re
import subprocess
import sys
from datetime import date, datetime

import pytest

from minilm import tasks
from minilm.tasks import FOREIGN, HELD_TEMPLATES, PREFIXES, TASKS, UNITS, names


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_source_and_a_source_has_one_answer(task):
    pairs = tasks.load(task)
    sources = [pair.source for split in pairs.values() for pair in split]
    assert len(sources) == len(set(sources)) > (100 if task == "capital" else 5_000)
    assert all(source.startswith(PREFIXES[task]) for source in sources)
    assert all(pair.target and pair.target == " ".join(pair.target.split()) for one in pairs.values() for pair in one)


@pytest.mark.parametrize("language", ["fr", "zh"])
def test_held_out_names_and_templates_are_never_trained_on(language):
    pairs, held = tasks.load(language), {name.english for name in names(language) if name.split != "train"}
    train = pairs["train"]
    assert len(held) > 400
    assert not held & {name for pair in train for name in pair.names}
    assert not held & {part for pair in train for part in _parts(pair.source.removeprefix(PREFIXES[language]))}
    assert not HELD_TEMPLATES & {pair.template for pair in train} and {pair.stratum for pair in train} == {"phrase"}
    for split in ("validation", "test"):
        assert {pair.stratum for pair in pairs[split]} == {"phrase", "template", "name"}
        assert all((pair.template in HELD_TEMPLATES) == (pair.stratum == "template") for pair in pairs[split])
    unseen = {split: {n for pair in pairs[split] if pair.stratum == "name" for n in pair.names} for split in pairs}
    assert not unseen["validation"] & unseen["test"] and min(len(unseen["validation"]), len(unseen["test"])) > 200


def _parts(source: str) -> list[str]:
    """The items of a list, which is where a name stands alone."""
    return re.split(", and |, or | and | or |, ", source)


@pytest.mark.parametrize(
    ("task", "source", "target"),
    [
        ("fr", "Germany", "Allemagne"),
        ("fr", "France", "France"),
        ("zh", "Germany", "德国"),
        ("zh", "Abkhazian", "阿布哈西亚语"),
    ],
)
def test_names_everybody_knows(task, source, target):
    found = {pair.source: pair.target for split in tasks.load(task).values() for pair in split}
    assert found[PREFIXES[task] + source] == target


def test_numbers_survive_translation():
    digits = lambda text: sorted(part for part in "".join(c if c.isdigit() else " " for c in text).split())
    for language in ("fr", "zh"):
        for pair in tasks.load(language)["test"]:
            if pair.template in ("unit", "money", "relative"):
                assert digits(pair.source) == digits(pair.target), pair


def test_chinese_is_chinese():
    """No fallback to Babel's codes: "7 length-mile"."""
    assert not [pair for pair in tasks.load("zh")["train"] if any(c.isascii() and c.isalpha() for c in pair.target)]
    assert all("-" in unit for unit in UNITS)


def test_dates_agree_with_the_calendar():
    by_template = {}
    for split in tasks.load("date").values():
        for pair in split:
            by_template.setdefault(pair.template, []).append(pair)
    patterns = {"en full": "%A, %B %d, %Y", "en long": "%B %d, %Y", "en medium": "%b %d, %Y", "zh long": "%Y年%m月%d日"}
    for template, pattern in patterns.items():
        assert len(by_template[template]) > 100
        for pair in by_template[template]:
            read = datetime.strptime(pair.source.removeprefix(PREFIXES["date"]), pattern).date()
            assert read == date.fromisoformat(pair.target)


def test_dates_are_held_out_in_all_languages():
    pairs = tasks.load("date")
    held = {pair.target for split in ("validation", "test") for pair in pairs[split]}
    assert not held & {pair.target for pair in pairs["train"]}
    assert not {pair.template.split()[0] for pair in pairs["train"]} & set(FOREIGN)
    assert not [pair for pair in pairs["train"] if pair.source.removeprefix(PREFIXES["date"])[0:4].count("/")]


def test_capitals():
    pairs = tasks.load("capital")
    known = {pair.names[0]: pair.target for split in pairs.values() for pair in split}
    assert {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima"}.items() <= known.items() and len(known) > 150
    assert {pair.stratum for split in ("validation", "test") for pair in pairs[split]} == {"name"}
    assert "question: What is the capital of France?" in {pair.source for pair in pairs["train"]}


def test_every_process_makes_the_same_pairs():
    code = "from minilm.tasks import *; print(translations('fr', 500), written_dates(500))"
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    runs = [subprocess.run([sys.executable, "-c", code], env=seed, capture_output=True, check=True) for seed in seeds]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout) > 10_000


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task='de': choose one of fr, zh, date, capital"):
        tasks.load("de")
