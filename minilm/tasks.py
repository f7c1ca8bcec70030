"""Text-to-text tasks whose right answers are known exactly: translation, dates, questions.

Nearly every pair is made from CLDR, the Unicode project's vetted data on languages, which Babel brings along: names,
counted units, relative times, dates and lists in any two languages. A prefix says which task it is, as in T5. Hashes
decide what is held out, so it never changes: phrases, whole templates, names. Blank space of any width is one space.

Not here: the model (``minilm.t5``), and any text that a person wrote for the purpose.
References: Unicode CLDR, https://cldr.unicode.org; Raffel et al. 2020, section 2.4 (prefixes).
"""

import json
from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from random import Random
from typing import NamedTuple

from babel import Locale, dates, lists, numbers, units

from . import archive
from .cards import CARDS
from .splits import SPLITS, side

PREFIXES = {
    "fr": "translate English to French: ",
    "zh": "translate English to Chinese: ",
    "date": "date: ",
    "capital": "question: ",
}
"""What stands before the source of each task."""

LOCALES = ("en", "fr", "de", "es", "it", "pt", "nl", "ru", "zh", "ja")
"""The languages that dates are read in."""

FOREIGN = ("da", "ca", "ro")
"""Languages of dates that no model is trained on."""

HELD_TEMPLATES = frozenset({"list of four", "countries with or", "months ago", "it full", "de long"})
"""Templates that only validation and test hold; each part that its target needs occurs in some training template."""

UNITS = (
    "acceleration-meter-per-square-second angle-degree digital-megabyte digital-gigabyte digital-kilobit "
    "electric-ampere electric-volt energy-calorie frequency-hertz frequency-megahertz graphics-pixel "
    "light-lumen mass-gram mass-kilogram mass-pound mass-tonne power-watt pressure-bar pressure-hectopascal "
    "speed-kilometer-per-hour speed-meter-per-second speed-mile-per-hour temperature-celsius "
    "temperature-fahrenheit"
).split()
"""Measures with a name in English, French and Chinese; elsewhere Babel falls back to a code, as in "7 length-mile"."""

DAYS = {"second": 1 / 86400, "minute": 1 / 1440, "hour": 1 / 24, "day": 1, "week": 7, "month": 30, "year": 365}
"""Units of relative times, in Babel's days."""

FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
"""The dates that occur."""


class Pair(NamedTuple):
    """A source with its prefix, its one right answer, and what a model that met neither has to cope with."""

    source: str
    target: str
    template: str
    stratum: str = "phrase"
    """what is new to the model: the phrase only, or the template, a name, the language"""
    names: tuple[str, ...] = ()
    """English names in the source"""


Splits = dict[str, tuple[Pair, ...]]
"""Pairs by the name of the split."""


def load(task: str) -> Splits:
    """The pairs of a task ("fr", "zh", "date" or "capital") with its prefix, split for good.

    >>> pairs = load("fr")
    >>> pairs["train"][0].source, pairs["train"][0].target
    ('translate English to French: Afar', 'afar')
    >>> sorted({pair.stratum for pair in pairs["test"]}), {pair.stratum for pair in pairs["train"]}
    (['name', 'phrase', 'template'], {'phrase'})
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}: choose one of {', '.join(TASKS)}")
    return TASKS[task]()


# Names


class Name(NamedTuple):
    """A language, a country or a currency: where a `Locale` keeps it, its code, its English name, and its split."""

    kind: str
    code: str
    english: str
    split: str


@lru_cache
def names(language: str) -> tuple[Name, ...]:
    """What has a name in English and in ``language``: a fifth is held out, and all languages with three-letter codes.

    Those are the rarer ones, which a text would seldom mention. An English name with two meanings, such as Nauru, is
    left out.
    """
    english, other = Locale.parse("en"), Locale.parse(language)
    money = {
        one for code in english.territories if len(code) == 2 for one in numbers.get_territory_currencies(code, LAST)
    }
    found: dict[str, Name] = {}
    twice = set()
    for kind in ("languages", "territories", "currencies"):
        here, there = getattr(english, kind), getattr(other, kind)
        for code in sorted(here.keys() & there.keys() & (money if kind == "currencies" else here.keys())):
            name = here[code]
            rare = kind == "languages" and len(code) == 3
            plain = code.isalpha() and not set("()（）") & {*name, *there[code]} and len(code) <= 3
            if plain and not name.startswith(("Pseudo", "Unknown", "Outlying")):
                twice |= {name} & found.keys()
                found[name] = Name(kind, code, name, SPLITS[1 + len(found) % 2] if rare else side(name))
    return tuple(name for name in found.values() if name.english not in twice)


# Phrases in two languages

Render = Callable[[Locale], str]
"""A phrase that can be said in any language."""


class Draw:
    """What phrases are made of, drawn at random.

    Of names only those of the training split, as words occur in a text: few often, most of them rarely. The one at rank
    r of a random order has a weight of 1 / (r + 3).
    """

    def __init__(self, language: str, seed: int):
        self.random = Random(f"{language} {seed}")
        kinds: dict[str, list[Name]] = {}
        for name in names(language):
            if name.split == "train":
                kinds.setdefault(name.kind, []).append(name)
        self.known = {kind: self.random.sample(some, len(some)) for kind, some in kinds.items()}
        self.weights = {kind: [1 / (rank + 3) for rank in range(len(some))] for kind, some in kinds.items()}

    def names(self, kind: str, n: int) -> list[Name]:
        """At most ``n`` names, all different."""
        return list(dict.fromkeys(self.random.choices(self.known[kind], self.weights[kind], k=n)))

    def number(self) -> int:
        """A number, most often a small one."""
        return self.random.choices((self.random.randint(2, 31), self.random.randint(2, 999), 1), (8, 3, 1))[0]


def _list(draw: Draw) -> tuple[str, list[Name], Render]:
    kind, style = draw.random.choice(["languages", "territories"]), draw.random.choice(["standard", "standard", "or"])
    some = draw.names(kind, draw.random.choices((2, 3, 4), (5, 4, 1))[0])
    template = "countries with or" if (kind, style) == ("territories", "or") else "list"
    say = lambda locale: lists.format_list([getattr(locale, kind)[name.code] for name in some], style, locale)
    return "list of four" if len(some) == 4 else template, some, say


def _relative(draw: Draw) -> tuple[str, list[Name], Render]:
    unit, n = draw.random.choice(list(DAYS)), draw.number() * draw.random.choice([1, -1])
    how = {"granularity": unit, "threshold": 1e9, "add_direction": True}
    template = "months ago" if unit == "month" and n < 0 else "relative"
    return template, [], lambda locale: dates.format_timedelta(timedelta(n * DAYS[unit]), locale=locale, **how)


def _date(draw: Draw) -> tuple[str, list[Name], Render]:
    day, style = _some_day(draw.random), draw.random.choice(["full", "full", "long"])
    return "date", [], lambda locale: dates.format_date(day, style, locale)


def _unit(draw: Draw) -> tuple[str, list[Name], Render]:
    n, unit = draw.number(), draw.random.choice(UNITS)
    return "unit", [], lambda locale: units.format_unit(n, unit, locale=locale)


def _money(draw: Draw) -> tuple[str, list[Name], Render]:
    n, some = draw.number(), draw.names("currencies", 1)
    return "money", some, lambda locale: f"{n} {numbers.get_currency_name(some[0].code, n, locale)}"


MAKERS = {_list: 5, _relative: 2, _date: 3, _unit: 2, _money: 2}
"""What draws a phrase (its template, the names in it, how to say it), and how often."""


@lru_cache
def translations(language: str, n: int = 24_000, seed: int = 0) -> Splits:
    """Every name by itself, and what is left of ``n`` random phrases once repeated ones are dropped.

    A phrase of a held-out template is never trained on; a held-out name stands in no phrase.
    """
    draw, english, other = Draw(language, seed), Locale.parse("en"), Locale.parse(language)
    found: dict[str, dict[str, Pair]] = {split: {} for split in SPLITS}

    for kind, code, name, split in names(language):
        if kind != "currencies":
            what = "name", "phrase" if split == "train" else "name", (name,)
            found[split][name] = Pair(PREFIXES[language] + name, getattr(other, kind)[code], *what)
    for maker in draw.random.choices(list(MAKERS), list(MAKERS.values()), k=n):
        template, some, say = maker(draw)
        source = _plain(say(english))
        split, stratum = side(source), "template" if template in HELD_TEMPLATES else "phrase"
        if (
            source not in found[split]
            and (stratum, split) != ("template", "train")
            and (maker is not _list or some[1:])
        ):
            what = template, stratum, tuple(name.english for name in some)
            found[split][source] = Pair(PREFIXES[language] + source, _plain(say(other)), *what)
    return {split: tuple(pairs.values()) for split, pairs in found.items()}


# Dates


@lru_cache
def written_dates(n: int = 12_000, seed: int = 0) -> Splits:
    """Dates as people of ten languages write them, and in ISO 8601: "4 mars 2024" is 2024-03-04.

    Only forms that say which number is the month: "3/4/24" does not. A date is held out in all languages at once.
    """
    random = Random(f"dates {seed}")
    found: dict[str, dict[str, Pair]] = {split: {} for split in SPLITS}
    for _ in range(n):
        day, language = _some_day(random), random.choice([*LOCALES * 6, *FOREIGN])
        style = random.choice(["full", "long", "medium"])
        text, template = _plain(dates.format_date(day, style, language)), f"{language} {style}"
        stratum = "language" if language in FOREIGN else "template" if template in HELD_TEMPLATES else "phrase"
        split = side(day.isoformat())
        if any(map(str.isalpha, text)) and (stratum == "phrase" or split != "train"):
            found[split].setdefault(text, Pair(PREFIXES["date"] + text, day.isoformat(), template, stratum))
    return {split: tuple(pairs.values()) for split, pairs in found.items()}


# Questions


@lru_cache
def capitals(least: int = 1_000_000) -> Splits:
    """Questions for the capitals of the countries of ``least`` people or more, from the archive "countries".

    A tenth of the countries each is held out to validate and to test: their capitals stand nowhere in the training
    pairs, so nothing but chance can find them.
    """
    found: dict[str, dict[str, Pair]] = {split: {} for split in SPLITS}
    for _, content in archive.members(CARDS["countries"], r"\.json$"):
        country = json.loads(content)
        if isinstance(country, dict) and country.get("population", 0) >= least and "capital" in country:
            name, split = country["name"], side(country["name"])
            source, stratum = f"What is the capital of {name}?", "phrase" if split == "train" else "name"
            found[split][source] = Pair(PREFIXES["capital"] + source, country["capital"], "capital", stratum, (name,))
    return {split: tuple(pairs.values()) for split, pairs in found.items()}


def _some_day(random: Random) -> date:
    return FIRST + timedelta(random.randrange((LAST - FIRST).days + 1))


def _plain(text: str) -> str:
    return " ".join(text.split())


TASKS: dict[str, Callable[[], Splits]] = {
    "fr": lambda: translations("fr"),
    "zh": lambda: translations("zh"),
    "date": written_dates,
    "capital": capitals,
}
"""What `load` calls."""
