"""Splits: parts that make the whole, sides that do not depend on the company, leaks that are found."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.splits import block_side, leaks, side, split_text

shares = st.sampled_from([(0.8, 0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.25, 0.25, 0.25, 0.25), (1.0,)])


@given(st.text("ab \n文", max_size=300), shares)
def test_the_parts_are_the_text(text, fractions):
    parts = split_text(text, fractions)
    assert "".join(parts) == text and len(parts) == len(fractions)
    for part, share in zip(parts, fractions, strict=True):
        assert abs(len(part) - share * len(text)) <= min(fractions) * len(text) + 2


@given(st.lists(st.text("abc", max_size=9), min_size=200, max_size=300), shares)
def test_cuts_lie_at_the_nearest_line_end(lines, fractions):
    text = "".join(line + "\n" for line in lines)
    parts = split_text(text, fractions)
    assert all(part.endswith("\n") for part in parts)
    ends = [i + 1 for i, c in enumerate(text) if c == "\n"]
    target, cut = round(fractions[0] * len(text)), len(parts[0])
    assert abs(cut - target) == min(abs(end - target) for end in ends)


def test_a_text_without_line_ends_is_cut_between_characters():
    assert list(map(len, split_text("x" * 100))) == [80, 10, 10]
    assert list(map(len, split_text("title\n" + "x" * 94))) == [80, 10, 10]


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.2, -0.2), (1.0, 0.0)])
def test_fractions_must_make_a_whole(fractions):
    with pytest.raises(ValueError, match="sum to 1"):
        split_text("text", fractions)


def test_titles_fall_on_sides_like_draws():
    drawn = Counter(side(f"title {i}") for i in range(10_000))
    assert abs(drawn["validation"] - 1000) < 4 * 30 and abs(drawn["test"] - 1000) < 4 * 30
    assert drawn["train"] == 10_000 - drawn["validation"] - drawn["test"]


def test_lists_of_titles_decide_alone():
    assert [side(t, validation=["v"], test=["t"]) for t in ("v", "t", "Abacus")] == ["validation", "test", "train"]


def test_neighbours_of_a_list_stay_together():
    sides = [block_side(place) for place in range(2000)]
    assert Counter(sides) == {"train": 1400, "validation": 200, "test": 400}
    borders = [place for place in range(1, 2000) if sides[place] != sides[place - 1]]
    assert all(border % 50 == 0 for border in borders) and len(borders) == 3 * 4 - 1


def test_planted_leaks_are_found_on_the_side_further_from_the_test_set():
    """Passages of random words; some are copied into an earlier side with a word changed, which must be found."""
    rng = random.Random(0)
    fresh = [" ".join(f"w{rng.randrange(500)}" for _ in range(20)) for _ in range(300)]
    sides = [fresh[:200], fresh[200:250], fresh[250:]]

    def retyped(passage):
        words = passage.split()
        return " ".join([*words[:-1], "changed"]).upper()

    planted = [{retyped(p) for p in [*sides[1][:5], *sides[2][:5]]}, {retyped(p) for p in sides[2][10:15]}, set()]
    assert leaks(sides) == [set(), set(), set()]
    assert leaks([[*own, *more] for own, more in zip(sides, planted, strict=True)]) == planted


def test_short_passages_and_repeats_within_a_side_are_no_leaks():
    speech = "Ay, my good lord, I will."
    passage = "one two three four five six seven eight"  # as short as a leak can be
    assert leaks([[speech, passage, passage], [speech]]) == [set(), set()]
    assert leaks([[passage], [passage]]) == [{passage}, set()]
