"""Cleaning, on mark-up and files written for the purpose."""

import bz2
import json

import pytest

from minilm import clean

LONG = "This sentence has enough words to be kept as a paragraph of prose."


def article(source, title="T", ns=0, extra=""):
    source = source.replace("&", "&amp;").replace("<", "&lt;")
    return f"<page><title>{title}</title><ns>{ns}</ns>{extra}<revision><text>{source}</text></revision></page>"


def dump(*pages):
    content = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{"".join(pages)}</mediawiki>'
    return [("dump.bz2", bz2.compress(content.encode()))]


def wikipedia(*pages):
    return clean.wikipedia(dump(*pages))


def prose(source):
    """The paragraphs made of a source, with filler around it that takes the article over the least length."""
    filler = f"{LONG}\n\n" * 10
    (document,) = wikipedia(article(f"{source}\n\n{filler}"))
    return document.text.removesuffix("\n\n".join([LONG] * 10)).removesuffix("\n\n")


@pytest.mark.parametrize(
    "source, expected",
    [
        (f"[[Link]] and [[Page|words]]. {LONG}", f"Link and words. {LONG}"),
        (f"'''Bold''' and ''Iliad'''s. {LONG}", f"Bold and Iliad's. {LONG}"),
        (f"[https://example.org A site] and [https://example.org]. {LONG}", f"A site and. {LONG}"),
        (f"Said.<ref name=x>{{{{cite book|title=T}}}}</ref> More.<ref name=x/> {LONG}", f"Said. More. {LONG}"),
        (f"T ({{{{IPAc-en|a}}}}; from Greek {{{{lang|grc|ἀναρχία}}}}). {LONG}", f"T (from Greek ἀναρχία). {LONG}"),
        (f"T ({{{{IPAc-en|a}}}}) is {{{{convert|5|km|mi}}}} away. {LONG}", f"T is 5 km away. {LONG}"),
        (f"Paris (or Lutetia), 1&nbsp;km<sup>2</sup>. {LONG}", f"Paris (or Lutetia), 1 km2. {LONG}"),
        (f"It is {{{{as of|2010}}}} [[wikt:so|so]]. {LONG}", f"It is as of 2010 so. {LONG}"),
        (f"Cafe\u0301. {LONG}", f"Café. {LONG}"),
        (f"One line\ncontinues. {LONG}<!-- hidden -->", f"One line continues. {LONG}"),
        (f"[[File:a.jpg|thumb|A [[cat]].]]\n{LONG}\n[[Category:Cats]]\n[[fr:Chat]]", LONG),
        (f"== History ==\n{LONG}\n* item one\n** item two\n: indented", LONG),
        (f"{{{{Infobox|name={LONG}}}}}\n{{| class=wikitable\n|-\n| {LONG}\n|}}\n{LONG}", LONG),
        (f"{LONG}\n\n== See also ==\n{LONG}\n=== More ===\n{LONG}\n== Life ==\n{LONG}", f"{LONG}\n\n{LONG}"),
        ("Too short to keep.", ""),
        (f"Broken {{| style=x {LONG}", ""),
    ],
)
def test_mark_up_goes_and_words_stay(source, expected):
    assert prose(source) == expected


def test_only_articles_are_taken_sorted_by_title():
    whole = f"{LONG}\n\n" * 10
    redirect = article(whole, "R", extra='<redirect title="A" />')
    documents = wikipedia(article(whole, "B"), redirect, article(whole, "Talk:A", ns=1), article(LONG, "Short"),
                          article(whole, "A"))  # fmt: skip
    assert [document.title for document in documents] == ["A", "B"]


def test_plays_keep_lines_and_lose_bylines():
    text = "THE PLAY\n\nby William Shakespeare\n\n\n\n\nAct I.  \n\n\n  Ham.\nTo be,\n   or not\t\n\n\n"
    (document,) = clean.shakespeare([("p_gut.txt", text.encode())])
    assert document == clean.Document("THE PLAY", "Act I.\n\n  Ham.\nTo be,\n   or not")


def test_verses_are_lines_and_chapters_paragraphs():
    verses = [("Ruth", 1, 1, "Now it came "), ("Ruth", 1, 2, "And the name"), ("Ruth", 2, 1, "And Naomi"),
              ("Joel", 1, 1, "The word")]  # fmt: skip
    lines = [json.dumps({"book": b, "chapter": c, "verse": v, "text": t}) for b, c, v, t in verses]
    documents = clean.kjv([("kjv.jsonl", "\n".join(lines).encode())])
    assert documents[0] == clean.Document("Ruth", "Now it came\nAnd the name\n\nAnd Naomi")
    assert documents[1] == clean.Document("Joel", "The word")


def test_catalogue_keeps_what_is_translated_prose():
    strings = {
        "": {"language": "zh_CN"},
        "Menu\4&Save\n  all": ["保存全部(&S)"],
        "Save all": ["保存全部"],
        "Untranslated": ["Untranslated"],
        "Copy": ["Copy"],
        "Delete %s": ["删除 %s"],
        "Open {path}": ["打开 {path}"],
        "jupyter_server": ["服务器 jupyter_server"],
        "<b>Bold</b>": ["粗体"],
        "OK": ["确定"],
        "Zoom": ["缩放"],
    }
    files = [("a.json", json.dumps(strings).encode()), ("b.json", json.dumps({"Zoom": ["缩放"]}).encode())]
    assert clean.catalogue(files) == [("Save all", "保存全部"), ("Zoom", "缩放")]


def test_residue_names_every_kind_of_mark_up():
    for rest in [
        "[[",
        "]]",
        "{{",
        "{|",
        "}}",
        "<ref",
        "</ref>",
        "||",
        " |-",
        "style=",
        "thumb|",
        "bgcolor=x",
        ", lost",
    ]:
        assert clean.RESIDUE.search(rest), rest
    assert not clean.RESIDUE.search("A rule of thumb: if x < 5 (or |x| = 3), then style matters.")


# Reviews


def table(*rows):
    lines = ["text,label,source", *(f'"{text}",{label},{source}' for text, label, source in rows)]
    return [("reviews.csv", "\r\n".join(lines).encode())]


def test_reviews_of_one_source_in_their_order():
    found = clean.reviews(table(("Good", 1, "x"), ("bad", 0, "y"), ("worse\nstill", 0, "x")), "x")
    assert found == [("Good", 1), ("worse still", 0)]


def test_marks_are_put_right():
    row = ("A<br /><br />film \x96 <i>caf\u00e9</i>\x85 &#8217;tis 5<6 &amp; \x81 e\u0301", 1, "x")
    assert clean.reviews(table(row), "x") == [("A film – café … ’tis 5<6 & é", 1)]


def test_reviews_that_begin_alike_are_one():
    long = "word " * 100
    rows = [(long + "end", 1, "x"), (long.upper() + "another end", 0, "x"), (long[:390] + "other", 1, "x")]
    assert [label for _, label in clean.reviews(table(*rows), "x")] == [1, 1]


# News


def test_news_are_headline_and_paragraphs():
    files = [
        ("x/data/tech/001.txt", b"Chips  fall\n\n One line\tof text.\n\n\n\nAnother. \n"),
        ("x/data/sports/001.txt", b"\xa35m for a goalkeeper\n\nHe cost \xa35m."),
        ("x/data/sports/002.txt", "£6m for a goalkeeper\n\nHe cost £6m.".encode()),
    ]
    assert clean.news(files) == [
        ("Chips fall\n\nOne line of text.\n\nAnother.", "tech"),
        ("£5m for a goalkeeper\n\nHe cost £5m.", "sports"),
        ("£6m for a goalkeeper\n\nHe cost £6m.", "sports"),
    ]


def test_news_that_repeat_a_body_are_one():
    bodies = [b"First\n\nThe same body.", b"Second\n\nTHE SAME BODY.", b"Third\n\nThe same\n\nbody."]
    files = [(f"data/tech/{i}.txt", body) for i, body in enumerate(bodies)]
    assert [text.split("\n")[0] for text, _ in clean.news(files)] == ["First", "Third"]


def test_a_lead_ends_at_the_first_heading():
    source = f"First: {LONG}\n\nSecond: {LONG}\n\n== History ==\nThird: {LONG}"
    found = clean.leads(dump(article(source), article("x", "R", 1)))
    assert found == {"T": [f"First: {LONG}", f"Second: {LONG}"]}
