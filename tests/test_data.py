"""The book's corpora, byte for byte; a reader's own files, in all the states files are in."""

import hashlib
import json
import re
import subprocess
from collections import defaultdict
from itertools import combinations

import pytest

from minilm import data, files
from minilm.data import DataError, Document

# SHA-256 of each split's text: whatever changes one byte of a corpus, on any Python, changes the numbers of the book.
PINNED = {
    "shakespeare": {
        "train": "d5064174441a967ea609768f700983d2d18992142b31d6eaa46beccf6e6f9b68",
        "validation": "3fd1643f7e8adfeb78c7c1028727f96e4efd3f9622c1e370f8d248a74ae36d8c",
        "test": "e0be4a243004fb431dac4960ff6dcc193a4d15feada073745acb4f0861fd65ef",
    },
    "wikipedia": {
        "train": "254fd0cd80d2a47b0ea25e11c27a34fe5260235bb9f5f368e9801c0735e98b8a",
        "validation": "ca909dc0e3f7be3eb8277d39c5afdaf0ef493469ef959c0c2a757efcdd15fda2",
        "test": "888d15554ca004272b30991ffd878824c29a09d491007e2818028dffd8af0d91",
    },
    "kjv": {
        "train": "c81194a9c5b8bd709b0ca30d6e8b1c1f9b0e0c8c4cc2ae21511203aef21f69c8",
        "validation": "69f48d2e01d02e9813a2b6ccf35558ed79155706282c8692e1681a461e9f060d",
        "test": "d393334a52510bfb90af9c6d87c7b6ae282328ea1ce19dd0ade701a2b2cdfc63",
    },
    "ui": {
        "train": "80f477204eedc74c91dad66e3cc5abba32d089432f717c14056300c2be53856a",
        "validation": "3ee073218c47e7a7104b2285342df8804d041d870a4dbfe7e65ada6e432c5f47",
        "test": "738a2e12f8999be8fd849f85b85b1b61e5fe657f2d587175508db70045066ce4",
    },
}
LABELLED = {
    "rotten-tomatoes": "ca389508e61c637a0e7313c9573a70bfca54ea1e761204a39a3967991b230474",
    "imdb": "d0da50f9aaf787a5d9d7a3ebc04fbe342a6e83e736dece514d9d3d48ec2f7c34",
    "bbc-news": "82937ac3d2ea47ea16eaa1d60089e427316944734672f3f295bcd40646f4fce1",
}
SPLITS = ("train", "validation", "test")
corpora = pytest.mark.parametrize("name", PINNED)


@pytest.mark.data
@corpora
def test_a_corpus_is_the_same_bytes_everywhere(name):
    corpus = data.load(name)
    assert {split: hashlib.sha256(corpus.text(split).encode()).hexdigest() for split in SPLITS} == PINNED[name]
    assert data.verify(name) and data.fetch(name) == data.path(name)


@pytest.mark.data
@corpora
def test_the_card_states_the_measured_size(name):
    corpus, stated = data.load(name), data.card(name).size
    if name == "ui":
        counts = [len(data.load_parallel(name, split)) for split in SPLITS]
    else:
        counts = [len(corpus.text(split).split()) for split in SPLITS]
        assert f"{sum(len(getattr(corpus, split)) for split in SPLITS)} " in stated
        assert f"{sum(len(corpus.text(split).encode()) for split in SPLITS) / 1e6:.1f} MB" in stated
    assert "{:,} to train, {:,} to validate, {:,} to test".format(*counts) in stated


def runs(text, n):
    """All runs of n words, in an implementation of its own; a Chinese character counts as a word."""
    found = "".join(c.lower() if c.isalnum() or c == "_" else " " for c in re.sub("([\u3400-\u9fff])", r" \1 ", text))
    return {tuple(found.split()[i : i + n]) for i in range(max(len(found.split()) - n, 0) + 1)}


def shared(sides, n):
    """The greatest Jaccard similarity of two passages on different sides, by counting shared runs."""
    passages = [(place, runs(text, n)) for place, side in enumerate(sides) for text in side]
    owners, common = defaultdict(list), defaultdict(int)
    for i, (place, own) in enumerate(passages):
        for run in own:
            for j in owners[run]:
                common[j, i] += passages[j][0] != place
            owners[run].append(i)
    return max((both / len(passages[i][1] | passages[j][1]) for (i, j), both in common.items() if both), default=0)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name, passage", [("shakespeare", "\n\n"), ("wikipedia", "\n\n"), ("kjv", "\n")])
def test_splits_share_no_document_and_no_near_duplicate_passage(name, passage):
    corpus = data.load(name)
    sides = [getattr(corpus, split) for split in SPLITS]
    for one, other in combinations(sides, 2):
        assert not {document.title for document in one} & {document.title for document in other}
    passages = [{p for document in side for p in document.text.split(passage) if len(p.split()) >= 8} for side in sides]
    assert min(map(len, passages)) > 300
    assert shared(passages, 5) < 0.5


@pytest.mark.data
def test_pairs_leak_through_neither_language():
    sides = [data.load_parallel("ui", split) for split in SPLITS]
    assert shared([[english for english, _ in side] for side in sides], 2) < 0.5
    assert shared([[chinese for _, chinese in side] for side in sides], 3) < 0.5


@pytest.mark.data
def test_pairs_are_english_and_chinese():
    pairs = data.load_parallel("ui")
    assert len(pairs) == len(set(pairs)) == 2495
    assert all(
        re.search("[a-z]{2}", english, re.I) and re.search("[\u4e00-\u9fff]", chinese) for english, chinese in pairs
    )
    assert ("Autocompletion setting.", "自动补全设置。") in pairs


@pytest.mark.data
@pytest.mark.parametrize("name", ["shakespeare", "wikipedia", "kjv"])
def test_held_out_splits_are_a_tenth_each(name):
    corpus = data.load(name)
    sizes = [len(corpus.text(split)) for split in SPLITS]
    assert all(0.07 < size / sum(sizes) < 0.11 for size in sizes[1:])
    card = data.card(name)
    if card.test:
        assert sorted(card.test) == sorted(document.title for document in corpus.test)
        assert sorted(card.validation) == sorted(document.title for document in corpus.validation)


@pytest.mark.data
def test_the_other_texts_of_an_archive_stay_out():
    """The archive of Shakespeare holds Milton too, and the First Folio in old spelling."""
    titles = [document.title for split in SPLITS for document in getattr(data.load("shakespeare"), split)]
    assert len(titles) == len(set(titles)) == 42 and "HAMLET, PRINCE OF DENMARK" in titles
    text = data.load("shakespeare").text("train")
    assert text.isascii() and "Who's there?\n" in text and "Paradise Lost" not in text and "haue" not in text


@pytest.mark.data
def test_wiki_mark_up_is_gone():
    text = "\n".join(data.load("wikipedia").text(split) for split in SPLITS)
    residue = re.findall(r"\[\[|\]\]|\{\{|\}\}|''|</?[a-z]+[ />]|&[a-z]+;|https?:|File:|wikitable|bgcolor|==", text)
    assert residue == []
    assert len(re.findall(r"\( |\(\)| \)|\s,", text)) <= 2  # what a removed template leaves behind
    assert "Anarchism is a political philosophy" in text and "ἀναρχία" in text


@pytest.mark.data
def test_a_second_load_is_the_first_and_needs_no_pip(monkeypatch):
    first = data.load("ui")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called for a cached archive"))
    assert data.load("ui") == first


@pytest.mark.data
def test_a_damaged_copy_of_the_result_is_made_anew(monkeypatch, tmp_path):
    good = data.load("ui")
    content = data.fetch("ui").read_bytes()
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    files.write(data.path("ui"), content)
    data.load("ui")
    (copy,) = (tmp_path / "corpora").iterdir()
    copy.write_bytes(copy.read_bytes()[:1000])
    assert data.load("ui") == good
    copy.with_name("ui-0123456789abcdef.json").write_text("[]")  # left behind by an older version
    copy.unlink()
    assert data.load("ui") == good and list((tmp_path / "corpora").iterdir()) == [copy]


def test_unknown_names_list_the_known_ones():
    for call in (data.card, data.path, data.fetch, data.verify, data.load, data.load_parallel, data.load_labelled):
        with pytest.raises(DataError, match=r"'shakspere': choose one of shakespeare, wikipedia, "):
            call("shakspere")


def test_a_model_is_no_corpus():
    with pytest.raises(DataError, match=r"model, not a corpus.*fetch\('smollm2'\)"):
        data.load("smollm2")


def test_labels_belong_to_sets_that_have_them():
    with pytest.raises(DataError, match=r"labelled set, not a corpus.*load_labelled\('imdb'\)"):
        data.load("imdb")
    with pytest.raises(DataError, match=r"'kjv' is a corpus, without labels: choose one of rotten-tomatoes, imdb"):
        data.load_labelled("kjv")


@pytest.mark.parametrize("card", data.CARDS.values(), ids=data.CARDS)
def test_cards_are_complete(card):
    assert data.CARDS[card.name] is card
    assert re.fullmatch("[0-9a-f]{64}", card.sha256) and card.archive_bytes > 100_000
    name, version = card.package.split("==")
    assert card.file.lower().replace("-", "_").startswith(f"{name}_{version}".lower().replace("-", "_"))
    needed = ["title", "source", "licence", "size", "problems", "citation"]
    needed += ["cleaning", "split"] if card.kind in ("corpus", "labelled set") else []
    assert all(len(getattr(card, field)) >= 20 for field in needed)
    assert (card.name in data.RECIPES) == (card.kind == "corpus")
    assert (card.name in data.LABELLED) == (card.kind == "labelled set")


# Labelled texts


@pytest.mark.data
@pytest.mark.parametrize("name", ["rotten-tomatoes", pytest.param("imdb", marks=pytest.mark.slow), "bbc-news"])
def test_labelled_sets_are_as_their_cards_say(name):
    found = data.load_labelled(name)
    parts = [getattr(found, split) for split in SPLITS]
    counts, n_words = [len(part) for part in parts], sum(len(text.split()) for part in parts for text, _ in part)
    assert f"{sum(counts):,} " in found.card.size and f"{n_words:,} words" in found.card.size
    assert "{:,} to train, {:,} to validate, {:,} to test".format(*counts) in found.card.size
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    assert digest == LABELLED[name]
    for part in parts:
        assert {label for _, label in part} == set(range(len(found.card.classes)))
        assert not [text for text, _ in part if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]|<br|  ", text)]
    openings = [{text[:400].lower() for text, _ in part} for part in parts]
    assert sum(map(len, openings)) == sum(counts) == len(set.union(*openings))
    assert "never passed on" in found.card.licence


@pytest.mark.data
@pytest.mark.parametrize("name", ["rotten-tomatoes", pytest.param("imdb", marks=pytest.mark.slow)])
def test_reviews_are_balanced_lines(name):
    found = data.load_labelled(name)
    parts = [getattr(found, split) for split in SPLITS]
    for part in parts:
        assert abs(sum(label for _, label in part) / len(part) - 0.5) < 0.01
        assert not [text for text, _ in part if "\n" in text]
    if name == "rotten-tomatoes":
        assert shared([[text.lower() for text, _ in part if len(text.split()) >= 8] for part in parts], 5) < 0.5
    assert "rights are unclear" in found.card.licence


@pytest.mark.data
def test_news_have_headline_body_and_topic():
    found = data.load_labelled("bbc-news")
    for text, _ in found.train + found.validation + found.test:
        headline, *body = text.split("\n\n")
        assert 2 <= len(headline.split()) <= 9 and sum(len(p.split()) for p in body) > 80 and "\n" not in headline
    topics = {headline: found.card.classes[label] for text, label in found.test for headline in [text.split("\n")[0]]}
    assert (
        topics["Crude oil prices back above $50"] == "business"
        and topics["Tulu to appear at Caledonian run"] == "sports"
    )
    assert "copyright is the BBC's" in found.card.licence


@pytest.mark.data
@pytest.mark.slow
def test_no_news_repeat_others():
    found = data.load_labelled("bbc-news")
    assert shared([[text] for text, _ in found.train + found.validation + found.test], 5) < 0.5


# A reader's own text


def test_one_file_is_cut_at_line_ends(tmp_path):
    lines = [f"line {i}\n" for i in range(100)]
    (tmp_path / "own.txt").write_text("".join(lines), encoding="utf-8")
    corpus = data.load_text(tmp_path / "own.txt")
    assert corpus.card is None and corpus.test[0].title == "own.txt"
    parts = [corpus.text(split) for split in SPLITS]
    assert "".join(parts) == "".join(lines) and all(part.endswith("\n") for part in parts)
    assert [part.count("\n") for part in parts] == [80, 10, 10]


@pytest.mark.parametrize("n", [3, 10, 25])
def test_a_folder_is_joined_or_split_by_file(tmp_path, n):
    for i in range(n):
        (tmp_path / f"{i:02}.txt").write_text(f"file {i}: " + "words " * 50, encoding="utf-8")
    (tmp_path / "notes.md").write_bytes(b"\xff")  # not a .txt: not read
    corpus = data.load_text(tmp_path)
    if n < 10:
        assert corpus.text("train").startswith("file 0") and corpus.text("test").rstrip().endswith("words")
        assert data.read_text(tmp_path) == "".join(corpus.text(split) for split in SPLITS)
    else:
        counts = [len(getattr(corpus, split)) for split in SPLITS]
        assert counts == {10: [8, 1, 1], 25: [20, 2, 3]}[n]
        assert [d.title for split in SPLITS for d in getattr(corpus, split)] == [f"{i:02}.txt" for i in range(n)]


def test_hidden_copies_are_no_texts(tmp_path):
    for name in (".ipynb_checkpoints/my-checkpoint.txt", "my.txt", "sub/B.TXT", "sub/.c/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "._my.txt").write_bytes(b"\xff")  # macOS's, beside every file on a foreign disk
    assert [one.title for one in data.read_documents(tmp_path)] == ["my.txt", "sub/B.TXT"]
    assert data.read_text(tmp_path / ".ipynb_checkpoints") == ".ipynb_checkpoints/my-checkpoint.txt", (
        "asked for by name"
    )
    assert [one.title for one in data.read_documents(tmp_path / "sub" / ".c")] == ["d.txt"]


def test_the_state_of_a_folder_tells_what_changed(tmp_path):
    states = [data.state(tmp_path)]
    for name, text in (("a.txt", "one"), ("a.txt", "three"), ("sub/b.txt", "two"), ("a.txt", "seven")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        states.append(data.state(tmp_path))
        assert data.state(tmp_path) == states[-1]
    (tmp_path / "a.txt").unlink()
    states.append(data.state(tmp_path))
    assert len(set(states)) == len(states) and data.state(tmp_path / "gone") == ()


def test_marks_and_line_ends_are_made_uniform(tmp_path):
    (tmp_path / "dos.txt").write_bytes("\ufeffone\r\ntwo\rthree – 文\n".encode())
    assert data.read_text(tmp_path / "dos.txt") == "one\ntwo\nthree – 文\n"


@pytest.mark.parametrize(
    "content, reason",
    [
        ("caf\u00e9".encode("cp1252"), r"byte 0xe9 at offset 3.*iconv -f ENCODING -t UTF-8 .*own.txt"),
        ("\ufefftext".encode("utf-16-le"), r"byte 0xff at offset 0.*iconv -f UTF-16 -t UTF-8"),
        ("语言模型".encode("gb18030"), r"not UTF-8.*GB18030"),
        (b"\xef\xbb\xbf \r\n", "is empty"),
        (b"", "is empty"),
        (b"P\x00K\x03", "NUL"),
        (b"ab", "too short"),
    ],
)
def test_what_is_no_text_says_why(tmp_path, content, reason):
    file = tmp_path / "own.txt"
    file.write_bytes(content)
    for path in (file, tmp_path):
        with pytest.raises(DataError, match=reason) as caught:
            data.load_text(path)
        assert str(path) in str(caught.value)


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        data.read_text(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        data.read_text(tmp_path)


def test_text_joins_documents_and_knows_its_splits():
    corpus = data.Corpus(None, (Document("a", "one"), Document("b", "two")), (), (Document("c", "three"),))
    assert corpus.text() == "one\n\ntwo" and corpus.text("test") == "three" and corpus.text("train", "|") == "one|two"
    with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
        corpus.text("dev")


def test_a_card_is_plain_data():
    assert json.loads(json.dumps(data.card("kjv").__dict__))["name"] == "kjv"
