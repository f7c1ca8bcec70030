"""Ways to find passages: against formulas written out, scikit-learn, and ranks counted by hand."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from minilm import bert, data, metrics, retrieval
from minilm.data import Document
from minilm.retrieval import (
    HOW,
    Library,
    Passage,
    fused,
    joined,
    n_words,
    passages,
    pieces,
    ranks,
    sentences,
    vectors,
    words,
)

TEXTS = [
    "The red fox jumps over the fence, and a red hen runs.",
    "Hens lay eggs; foxes eat hens and eggs.",
    "A steam engine turns heat into motion.",
    "Engines, engines, engines: the red engine is fast.",
]
LIBRARY = Library([Passage(f"T{i}", text) for i, text in enumerate(TEXTS)])
QUERIES = ["red engine", "what do foxes eat?", "fence fence"]


def bm25_by_hand(query, text, texts, k1=1.5, b=0.75):
    bags = [Counter(words(other)) for other in texts]
    bag, mean = Counter(words(text)), sum(other.total() for other in bags) / len(texts)
    total = 0.0
    for word in words(query):
        n = sum(word in other for other in bags)
        rarity = math.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
        total += rarity * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean))
    return total


def test_bm25_is_its_formula():
    expected = [[bm25_by_hand(query, text, LIBRARY.texts) for text in LIBRARY.texts] for query in QUERIES]
    np.testing.assert_allclose(LIBRARY.bm25(QUERIES), expected, atol=1e-6)
    assert not LIBRARY.bm25(["unheard of"]).any() and not LIBRARY.bm25(["the of"]).any()


def test_tfidf_is_its_formula():
    vocabulary = sorted({word for text in LIBRARY.texts for word in words(text)})
    bags = [Counter(words(text)) for text in LIBRARY.texts]
    rarity = {w: 1 + math.log((1 + len(bags)) / (1 + sum(w in bag for bag in bags))) for w in vocabulary}
    weigh = lambda bag: [(1 + math.log(bag[w])) * rarity[w] if bag[w] else 0.0 for w in vocabulary]
    expected = cosine_similarity([weigh(Counter(words(query))) for query in QUERIES], list(map(weigh, bags)))
    np.testing.assert_allclose(LIBRARY.tfidf(QUERIES), expected, atol=1e-12)


@given(arrays(float, (2, 3, 7), elements=st.integers(0, 5).map(float)), st.integers(0, 100))
def test_fused_ranks_are_counted(scores, constant):
    made = fused(*scores, constant=float(constant))
    for q in range(3):
        for n in range(7):
            places = [(one[q] >= one[q, n]).sum() for one in scores]
            assert made[q, n] == pytest.approx(sum(1 / (constant + place) for place in places))


@given(arrays(float, (4, 6), elements=st.integers(0, 4).map(float)), arrays(bool, (4, 6)))
def test_ranks_are_counted_and_ties_count_against(scores, right):
    for q, rank in enumerate(ranks(scores, right)):
        if not right[q].any():
            assert rank == math.inf
        else:
            order = sorted(range(6), key=lambda i: (-scores[q, i], right[q, i]))
            assert rank == 1 + next(place for place, n in enumerate(order) if right[q, n])


def test_ranks_agree_with_sklearn_where_one_is_right():
    rng = np.random.default_rng(0)
    scores, right = rng.normal(size=(50, 20)), np.eye(20, dtype=bool)[rng.integers(0, 20, 50)]
    found = ranks(scores, right)
    assert (1 / found).mean() == pytest.approx(label_ranking_average_precision_score(right, scores))
    scores[0] = np.where(right[0], -np.inf, scores[0])
    assert ranks(scores, right)[0] == math.inf, "a passage that was taken out is not found"


def test_search_sorts_and_names_the_passage():
    hits = LIBRARY.search("red engine", k=3, how="bm25")
    assert [hit.place for hit in hits] == np.argsort(-LIBRARY.bm25(["red engine"])[0], kind="stable")[:3].tolist()
    assert hits[0].passage.title == "T3" and hits[0].score >= hits[1].score >= hits[2].score
    with pytest.raises(ValueError, match="choose one of tfidf, bm25, dense, hybrid"):
        LIBRARY.search("red", how="magic")
    with pytest.raises(ValueError, match="nothing to search"):
        Library([])


@given(st.lists(st.text("ab .!A(", min_size=1), max_size=5), st.integers(1, 6))
def test_pieces_lose_nothing_and_fit(parts, limit):
    paragraph = " ".join(" ".join(parts).split())
    made = pieces(paragraph, limit)
    assert " ".join(made) == paragraph
    assert all(len(piece.split()) <= limit or len(sentences(piece)) == 1 for piece in made)


def test_passages_know_their_paragraph(tmp_path):
    documents = [Document("A", "one\n\n \n\ntwo two\n\nthree"), Document("B", "four")]
    made = passages(documents, most=2)
    assert [(one.title, one.text, one.paragraph) for one in made] == [
        ("A", "one", 1),
        ("A", "two two", 2),
        ("B", "four", 1),
    ]
    assert made[1].source == "A, paragraph 2"
    with pytest.raises(ValueError, match="no paragraph"):
        passages([Document("empty", " \n\n ")])
    (tmp_path / "note.txt").write_text("A line.\n\nAnother.", encoding="utf-8")
    assert [one.source for one in retrieval.read(tmp_path)] == ["note.txt, paragraph 1", "note.txt, paragraph 2"]
    with pytest.raises(data.DataError, match="does not exist"):
        retrieval.read(tmp_path / "nothing")


@pytest.mark.data
def test_vectors_are_computed_once(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "home", lambda: tmp_path)
    first = vectors(TEXTS)
    np.testing.assert_allclose(first, bert.embed(*retrieval.encoder(), TEXTS).double().numpy(), atol=0.01)
    monkeypatch.setattr(bert, "embed", None)
    assert np.array_equal(vectors(TEXTS), first)
    with pytest.raises(TypeError):
        vectors(TEXTS[:2])


@pytest.mark.data
def test_meaning_is_found_without_a_word_in_common():
    hits = {how: LIBRARY.search("chickens and their predators", k=1, how=how)[0].place for how in HOW}
    assert hits["dense"] == 1 and LIBRARY.bm25(["chickens and their predators"]).max() == 0


CHINESE = "今天下雨。小明在家！“他有一只猫吗？”有，他说：“是的。”，真的。"


def test_chinese_is_cut_into_sentences_and_joined_again():
    found = sentences(CHINESE)
    assert found == ["今天下雨。", "小明在家！", "“他有一只猫吗？”", "有，他说：“是的。”，真的。"]
    assert joined(found) == CHINESE and sentences("真的？！好。") == ["真的？！", "好。"]
    assert joined(["It rained.", "今天下雨。", "Yes."]) == "It rained. 今天下雨。Yes."


@given(st.lists(st.sampled_from("他有一只猫。！？，”“ねこ"), max_size=60).map("".join), st.integers(1, 12))
def test_pieces_of_chinese_lose_nothing_and_fit(paragraph, limit):
    made = pieces(paragraph, limit)
    assert "".join(made) == paragraph
    count = lambda text: sum(c in "他有一只猫ねこ" for c in text)
    assert all(count(piece) <= limit or len(sentences(piece)) == 1 for piece in made)


def test_chinese_is_found_by_its_characters():
    library = Library(
        passages([Document("甲", "今天下雨。小明在家。他有一只猫。" * 30), Document("乙", "北京是中国的首都。")])
    )
    assert len(library.passages) > 4 and all(n_words(one.text) <= retrieval.WORDS for one in library.passages)
    for how in ("bm25", "tfidf"):
        for query, title in {"猫": "甲", "首都": "乙", "中国的首都是哪里": "乙"}.items():
            hit = library.search(query, k=1, how=how)[0]
            assert hit.passage.title == title and hit.score > 0


@given(st.text("中文ねこヒ，。 ", max_size=20))
def test_words_of_chinese_are_those_of_metrics(text):
    assert words(text) == metrics.WORD.findall(text)
    assert n_words(text) == len(words(text) or text.split()), "marks alone are no Chinese"


@given(st.text("ab'-. ,é_9", max_size=40))
def test_words_of_languages_with_blanks_stand_between_them(text):
    assert n_words(text) == len(text.split()) and joined(sentences(text)) == " ".join(sentences(text))
