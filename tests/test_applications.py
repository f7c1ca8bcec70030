"""The table of applications: what it takes, what it refuses, and that answers and marks are those of the parts."""

import csv
import io
import json
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_serve import UNITS, Phrasebook, model
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from minilm import bert, chat, data, examples, generate, heads, metrics, models, prompting, reading, retrieval, tools
from minilm.applications import APPLICATIONS, load, read, run
from minilm.data import DataError
from minilm.retrieval import Library, Passage
from minilm.wordpiece import SPECIALS, WordPiece

SHELF = Library(
    [Passage("Bern", "A city by the river Aare."), Passage("Rome", "Where the river Tiber flows to the sea.")]
)


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """Small stand-ins for what is large: a language model, the translator, the library."""
    net = model()
    monkeypatch.setattr(models, "load", lambda name="smollm2": (net, UNITS))
    monkeypatch.setattr(tools, "translator", Phrasebook)
    monkeypatch.setattr(tools, "library", lambda folder: SHELF if folder is None else Library(SHELF.passages[:1]))
    return net


# Files

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff") | st.just("\n"), max_size=20)


@given(rows=st.lists(st.dictionaries(CELLS, CELLS | st.integers() | st.booleans(), min_size=1), min_size=1))
def test_jsonl_is_read_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("in") / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    assert read(path) == rows


@given(
    rows=st.lists(st.tuples(CELLS, CELLS).filter(lambda row: any(map(str.strip, row))), min_size=1),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_csv_is_read_as_it_was_written(rows, quoting):
    written = io.StringIO(newline="")
    csv.writer(written, quoting=quoting, lineterminator="\n").writerows([("text", "label"), *rows])
    expected = [{"text": text.strip(), "label": label.strip()} for text, label in rows]
    assert examples.table(written.getvalue()) == expected
    for mark in (", ", ";", "\t"):
        written = "\n".join(mark.join(json.dumps(cell) for cell in row) for row in (("a", "b"), ("x, y", "1;2")))
        assert examples.table(written) == [{"a": "x, y", "b": "1;2"}], mark


def test_lines_are_read_without_what_surrounds_them(tmp_path):
    (tmp_path / "some.txt").write_bytes("\ufeffone\r\n\r\n  two three \r\n".encode())
    assert read(tmp_path / "some.txt") == ["one", "two three"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": ', "a.jsonl, line 3 is no JSON"),
        ("a.jsonl", '{"text": "a"}\n["b"]', "line 2 is .* no JSON object"),
        ("a.jsonl", "[" * 100_000, "line 1 is no JSON"),
        ("a.csv", 'text,label\n"a",b\n"a\nb",c,d\n', "line 4 has 3 cells, the header 2: put .* in quotes"),
        ("a.csv", "text;label\na;b;c\n", "line 2 has 3 cells, the header 2: put a cell that holds ';'"),
        ("a.csv", "text,text\na,b", "line 1 is 'text,text': name every column"),
        ("a.csv", 'text,label\na,"b"c', "line 2 is no CSV"),
        ("a.csv", "text,label\n", "holds no example"),
        ("a.csv", "\n\ntext,text\na,b", "line 3 is 'text,text'"),
        ("a.txt", "caf\xe9", "is not UTF-8"),
        ("a.txt", "\n", "is empty"),
        ("a.xlsx", "a", r"files named \*.jsonl, \*.csv, \*.txt: rename or convert"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_line_and_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_a_cell_may_hold_a_book(tmp_path):
    (tmp_path / "a.csv").write_text("\ntext,label\n" + "a long" * 50_000 + ",x")
    assert read(tmp_path / "a.csv") == [{"text": "a long" * 50_000, "label": "x"}]
    limit = csv.field_size_limit()
    examples.table("text\nshort")
    assert csv.field_size_limit() == limit, "what others may read does not shrink"


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.jsonl")


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(load, "sing"), "no task 'sing': choose one of sentiment, topics"),
        (partial(load, "translate", "smollm2"), "not done by 'smollm2': choose one of t5"),
        (partial(load, "translate", speed=9), "no option 'speed': its options are to"),
        (partial(load, "translate", to="de"), "to='de': choose one of fr, zh, ui"),
        (partial(load, "topics", labels="sport"), "two or more"),
        (partial(load, "topics", "bag-of-words", labels=["cats", "dogs"]), "choose another model"),
        (partial(load, "extract"), "needs the option schema"),
        (partial(run, "sentiment", [], "lexicon"), "one or more"),
        (partial(run, "sentiment", "good", "lexicon"), "give a list"),
        (
            partial(run, "sentiment", ["good", {"label": "positive"}], "lexicon"),
            r"examples\[1\]: 'text' is missing beside label",
        ),
        (
            partial(run, "sentiment", ["good", {"text": 5}], "lexicon"),
            r"examples\[1\]: 'text' is 5; sentiment needs a text",
        ),
        (partial(run, "sentiment", [" "], "lexicon"), r"examples\[0\]: 'text' is ' '"),
        (
            partial(run, "sentiment", [{"text": "a", "label": "positive"}, "b"], "lexicon"),
            r"examples\[1\] has no 'label'",
        ),
        (
            partial(run, "sentiment", [{"text": "a", "label": "positive"}, {"text": "b", "label": ""}], "lexicon"),
            r"examples\[1\] has no 'label'",
        ),
        (partial(run, "sentiment", [{"text": "a", "label": ["positive"]}], "lexicon"), "'label' is .* needs a text"),
        (partial(run, "extract", [{"text": "a", "data": "{}"}], schema={"type": "null"}), "'data' is .* an object"),
        (partial(run, "answer", [{"question": "a", "answer": []}], "smollm2"), "'answer' is .* needs a text"),
        (partial(run, "answer", [{"question": "a", "passage": 5}]), r"examples\[0\]: 'passage' is 5"),
        (
            partial(
                run, "sentiment", [{"text": "a", "label": "negative"}, {"text": "b", "label": "Positive"}], "lexicon"
            ),
            r"examples\[1\]: 'label' is 'Positive', and lexicon says one of negative, positive",
        ),
        (partial(run, "topics", [{"text": "a", "label": "sport"}], "smollm2"), "smollm2 says one of .*sports"),
        (partial(run, "topics", [{"text": "a", "label": "c"}], "smollm2", labels="a,b"), "'c', and .* one of a, b"),
        (partial(run, "sentiment", ["a", "good \ud83d"], "lexicon"), r"examples\[1\]: .*lone surrogate"),
        (partial(run, "extract", [{"text": "a", "data": {"b": "\ud83d"}}], schema={"type": "null"}), "lone surrogate"),
        (partial(load, "summarise", "first", most=0), "most=0: a summary has 1 word or more"),
        (partial(load, "summarise", "smollm2", most=5), "most=5: only centroid, textrank, first count words"),
        (partial(load, "summarise", "headlines", most=5), "headlines writes a headline"),
        (partial(load, "answer", "smollm2", folder="notes"), "only span-reader searches"),
        (partial(load, "topics", labels=""), "two or more"),
        (partial(load, "extract", schema={"type": "array"}), "lacks items"),
        (partial(load, "extract", schema=__file__), "the file is no JSON"),
    ],
)
def test_errors_name_the_place_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_table_is_complete(name):
    one = APPLICATIONS[name]
    assert one.name == name and one.does and one.fields and one.models and one.reference not in one.fields
    assert (one.reference is None) == (one.measures is None)


# What is answered


def test_the_lexicon_is_vaders_and_its_marks_are_those_of_metrics():
    texts = ["a great and lovely film", "awful", "the table", "not good at all", "I hate it, truly"]
    labels = ["positive", "negative", "positive", "negative", "negative"]
    result = run("sentiment", [{"text": t, "label": c} for t, c in zip(texts, labels, strict=True)], "lexicon")
    tone = SentimentIntensityAnalyzer().polarity_scores
    said = ["positive" if tone(text)["compound"] > 0 else "negative" for text in texts]
    assert result["outputs"] == said and result["examples"] == 5 and result["model"] == "lexicon"
    assert result["measures"] == {"accuracy": metrics.accuracy(said, labels), "f1": metrics.f1(said, labels)}
    assert "measures" not in run("sentiment", texts, "lexicon")


def test_labels_are_scored_after_the_prompt(parts):
    """What a tiny model prefers is arbitrary; it is what the scores say, in either notation of the labels."""
    texts, labels = ["the cat", "the dog ran", "a mat"], ["cat", "dog", "mat"]
    prompts = [prompting.few_shot(text, names=("Text", "Topic")) for text in texts]
    expected = [labels[c] for c in prompting.label_scores(parts, UNITS, prompts, labels).argmax(1)]
    assert load("topics", "smollm2", labels=labels)(texts) == expected
    assert load("topics", "smollm2", labels="cat, dog,mat")(texts) == expected


def test_sentiment_scores_are_calibrated(parts):
    ask = partial(prompting.few_shot, names=("Review", "Sentiment"))
    scores = partial(prompting.label_scores, parts, UNITS, labels=["negative", "positive"])
    texts = ["the cat", "the dog ran", "a mat", "off", "the"]
    usual = scores([ask(text) for text in prompting.CONTENT_FREE])
    found = prompting.calibrate(scores([ask(text) for text in texts]), usual).argmax(1)
    assert load("sentiment", "smollm2")(texts) == [("negative", "positive")[c] for c in found]


def test_the_tuned_encoder_answers_with_its_own_tokenizer(monkeypatch):
    """A stand-in that finds a text good where it is longer than two tokens."""
    units = WordPiece([*SPECIALS, *"ab"])

    class Longer(heads.Classifier):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def forward(self, ids, mask):
            return torch.stack([torch.full((len(ids),), 4.5), mask.sum(1).float()], 1)

    tools.fine_tuned.cache_clear()
    monkeypatch.setattr(bert, "classifier", lambda name: (Longer(), []))
    monkeypatch.setattr(retrieval, "encoder", lambda: (None, units))
    assert load("sentiment", "all-minilm")(["a b a", "a"]) == ["positive", "negative"]
    tools.fine_tuned.cache_clear()


class Counting(torch.nn.Module):
    """An encoder, and a classifier of two classes, that only counts the letters a and b of what it reads."""

    units = WordPiece([*SPECIALS, *"ab"])

    def forward(self, ids, mask):
        counts = torch.stack([(ids == self.units.vocab[letter]).sum(1) for letter in "ab"], 1)
        return counts.float()


def test_the_end_of_a_long_text_counts(monkeypatch):
    """Two thirds of each text are b, behind what is read at once."""
    monkeypatch.setattr(tools, "fine_tuned", lambda name: Counting())
    monkeypatch.setattr(retrieval, "encoder", lambda: (Counting(), Counting.units))
    vectors = lambda model, units, texts, length: torch.cat([model(*units.batch([t], length=length)) for t in texts])
    monkeypatch.setattr(bert, "logits", partial(vectors, length=bert.LENGTH))
    monkeypatch.setattr(bert, "embed", vectors)
    for task, size, says in (("sentiment", bert.LENGTH, ("negative", "positive")), ("topics", retrieval.TOKENS, "ab")):
        more = {"labels": "a,b"} if task == "topics" else {}
        texts = ["a " * size + "b " * 2 * size, "a b a", "b " * (size - 2)]
        assert load(task, "all-minilm", **more)(texts) == [says[1], says[0], says[1]]


def test_translations_are_marked_exactly_and_in_part():
    result = run(
        "translate", [{"text": " in 3\n days ", "translation": "dans 3 jours"}, {"text": "x", "translation": "y"}]
    )
    assert result["outputs"] == ["dans 3 jours", "?"] and result["measures"]["exact"].value == 0.5
    chinese = run("translate", [{"text": "in 3 days", "translation": "3天后到达这里"}], to="zh")
    assert chinese["outputs"] == ["?"] and chinese["measures"]["bleu"].value == 0


def test_search_is_the_librarys_and_marked_by_rank():
    queries = [
        {"query": "Aare", "title": "Bern"},
        {"query": "river sea", "title": "Bern"},
        {"query": "sea", "title": "Oslo"},
    ]
    result = run("search", queries, "bm25")
    for one, hits in zip(queries, result["outputs"], strict=True):
        assert [hit["text"] for hit in hits] == [hit.passage.text for hit in SHELF.search(one["query"], 10, "bm25")]
    marks = {name: mark.value for name, mark in result["measures"].items()}
    assert marks == {"recall@1": pytest.approx(1 / 3), "recall@5": pytest.approx(2 / 3), "mrr": pytest.approx(0.5)}
    assert len(load("search", "bm25", folder="own")(["river"])[0]) == 1


def test_a_passage_that_is_given_is_read_and_others_are_looked_up(monkeypatch):
    class Reader(reading.SpanReader):
        """Answers with the last word of a passage, surer of those by the sea."""

        units = WordPiece([*SPECIALS, *"ab"])

        def __init__(self):
            pass

        def __call__(self, asked, texts):
            return [reading.Answer(text.text.split()[-1], float("sea" in text.text), text) for text in texts]

    monkeypatch.setattr(reading, "span_reader", Reader)
    monkeypatch.setattr(reading, "look_up", partial(reading.look_up, how="bm25"))
    questions = [
        {"question": "Which river?", "answer": ["the sea", "sea."]},
        {"question": "What?", "passage": "It is a cat", "answer": "dog"},
    ]
    result = run("answer", questions)
    assert [one["answer"] for one in result["outputs"]] == ["sea.", "cat"]
    assert result["outputs"][0]["title"] == "Rome" and result["outputs"][1]["text"] == "It is a cat"
    assert result["measures"]["exact match"].value == 0.5


def test_a_language_model_answers_in_its_own_words(parts):
    said = load("answer", "smollm2")([{"question": "the cat"}, {"question": "the cat", "passage": "on the mat"}])
    asked = ["the cat", reading.prompt("the cat", "on the mat")]
    assert said == [{"answer": one.text} for one in reading.ask(parts, UNITS, asked)]


SCHEMA = {"type": "object", "properties": {"cat": {"type": "boolean"}, "legs": {"type": "integer"}}}


def test_what_is_extracted_has_the_form_whatever_the_model(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    texts = [
        {"text": "the cat", "data": {"cat": True, "legs": 4}},
        {"text": "a dog", "data": {"cat": False, "legs": 4}},
    ]
    result = run("extract", texts, schema=str(tmp_path / "schema.json"))
    for one in result["outputs"]:
        assert type(one["cat"]) is bool and type(one["legs"]) is int
    assert result["measures"]["valid"].value == 1.0 and result["outputs"] == load("extract", schema=SCHEMA)(texts)


def test_extracted_values_are_counted_one_by_one():
    marks = tools.extracted(
        [{"a": 1, "b": 2}, None, {"a": 1, "b": 3}], [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 2}]
    )
    assert marks["valid"].value == pytest.approx(2 / 3) and marks["exact"].value == pytest.approx(1 / 3)
    nothing = tools.extracted([None, {}, {"a": None}], [{"a": None}] * 3)
    assert nothing["values"].value == pytest.approx(1 / 3), "what was not written is not right"
    assert tools.extracted([{}], [{}])["values"].value == 1
    assert marks["values"].value == pytest.approx(1.5 / 3) and marks["valid"].low <= 2 / 3 <= marks["valid"].high


def test_continuations_and_replies_are_those_of_generate(parts):
    how = {"max_new_tokens": 12, "temperature": 0.9, "seed": 3}
    prompts = [UNITS.encode("the cat")] * 2
    expected = [
        UNITS.decode(ids) for ids in generate.generate_batch(parts, prompts, stop={UNITS.specials[chat.END]}, **how)
    ]
    assert load("continue", **how)(["the cat"] * 2) == expected
    talk = [{"role": "system", "content": "be a cat"}, {"role": "user", "content": "hi"}]
    said = load("chat", system="be a cat", max_new_tokens=9)(["hi"])
    assert said == ["".join(chat.reply(parts, UNITS, talk, max_new_tokens=9, temperature=0.0))]


def test_more_examples_than_a_batch_holds_keep_their_order(parts):
    prompts = [f"the cat {number}" for number in range(2 * tools.BATCH + 1)]
    one_by_one = [load("continue", max_new_tokens=4)([prompt])[0] for prompt in prompts]
    assert load("continue", max_new_tokens=4)(prompts) == one_by_one
    drawn = load("continue", max_new_tokens=12, temperature=1.0)(["the cat"] * (tools.BATCH + 1))
    assert drawn[0] != drawn[-1], "every text is drawn anew"


def test_summaries_are_sentences_of_the_text():
    text = "The cat sat. It rained all day in Bern. The cat slept."
    result = run("summarise", [{"text": text, "summary": "The cat sat. The cat slept."}], "first", most=6)
    assert result["outputs"] == ["The cat sat. The cat slept."] and result["measures"]["rougeL"].value == 1.0
    assert math.isnan(result["measures"]["rougeL"].low)  # one example says nothing of others


@pytest.mark.data
def test_words_learnt_from_reviews_beat_the_word_list():
    """On half of the validation split; the book's own measurement is in chapter 10."""
    reviews = data.load_labelled("rotten-tomatoes")
    some = [reviews.validation[i] for i in range(0, len(reviews.validation), 2)]
    rows = [{"text": text, "label": reviews.card.classes[label]} for text, label in some]
    accuracy = {model: run("sentiment", rows, model)["measures"]["accuracy"] for model in ("bag-of-words", "lexicon")}
    assert 0.68 < accuracy["bag-of-words"].value < 0.85 and 0.5 < accuracy["lexicon"].value < 0.7


@pytest.mark.data
def test_topics_of_plain_sentences_are_found_by_their_meaning():
    texts = ["The striker scored twice in the cup final.", "Shares fell after the bank cut its profit forecast."]
    assert load("topics")(texts) == ["sports", "business"]
    assert load("topics", labels="food, weather")(["It will rain in the north.", "Fry the onions."]) == [
        "weather",
        "food",
    ]


def test_a_passage_that_shares_no_word_is_not_found():
    hits = [{"title": "A", "score": 0.0}, {"title": "B", "score": 0.0}]
    assert tools.found([hits], ["A"])["mrr"].value == 0
    assert tools.found([[{**hits[0], "score": 0.1}]], ["A"])["mrr"].value == 1


def test_a_folder_that_changed_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.undo()  # the real library
    (tmp_path / "a.txt").write_text("The old text about cats.")
    find = lambda: [hit["text"] for hit in load("search", "bm25", folder=tmp_path)(["cats"])[0]]
    assert find() == ["The old text about cats."]
    assert tools.library(tmp_path) is tools.library(tmp_path), "what did not change is shared"
    (tmp_path / "a.txt").write_text("A new text about dogs and cats.")
    assert find() == ["A new text about dogs and cats."]
    (tmp_path / "b.txt").write_text("More about cats.")
    assert set(find()) == {"A new text about dogs and cats.", "More about cats."}
