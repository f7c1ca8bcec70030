"""The command line from outside: one JSON object out, errors in words, nothing overwritten."""

import json
import random
import subprocess
import sys

import pytest

from minilm import data, evaluate, ngram, tokenizer
from minilm.__main__ import main


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    words = "the cat sat on a mat and slept while the dog ran off".split()
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_text("\n".join(" ".join(rng.choices(words, k=8)) for _ in range(2_000)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "model"
    assert main(["train", "--model", "ngram", "--text", str(text), "--out", str(out), "--vocab-size", "300"]) == 0
    return out


def run(capsys, *arguments) -> dict:
    """The object that a command prints, and nothing else on standard output."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("units", ["characters", "words", "bpe"])
def test_train_then_evaluate_gives_the_same_score_of_the_last_tenth(capsys, text, tmp_path, units):
    trained = run(capsys, "train", "--model", "ngram", "--text", text, "--out", tmp_path / "m", "--order", 3,
                  "--tokenizer", units, "--vocab-size", 300)  # fmt: skip
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(data.split_text(text.read_text(), (0.9, 0.1))[1], encoding="utf-8")
    again = run(capsys, "evaluate", tmp_path / "m", "--text", held_out)
    assert again["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-12)
    assert again["bits_per_byte_95"][0] < again["bits_per_byte"] < again["bits_per_byte_95"][1]


def test_evaluate_prints_what_the_package_computes(capsys, folder, text):
    printed = run(capsys, "evaluate", folder, "--text", text)
    units = tokenizer.load(folder / "tokenizer.json")
    score = evaluate.score(ngram.load(folder), units, text.read_text())
    assert printed["perplexity"] == pytest.approx(score.perplexity)
    assert (printed["tokens"], printed["bytes"]) == (score.tokens, score.bytes.sum())


def test_generate_continues_the_prompt_and_obeys_the_seed(capsys, folder):
    one, same, other = (
        run(capsys, "generate", folder, "--prompt", "the cat", "--max-new-tokens", 30, "--seed", seed)
        for seed in (1, 1, 2)
    )
    assert one == same != other
    assert one["text"].startswith("the cat") and len(one["ids"]) == 30


def test_a_folder_with_work_in_it_is_left_alone(capsys, folder, text):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["train", "--model", "ngram", "--text", str(text), "--out", str(folder)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "{tmp}", "--text", "{text}"], "config.json"),
        (["evaluate", "{folder}", "--text", "{tmp}/none.txt"], "none.txt"),
        (["evaluate", "{folder}", "--text", "{tmp}/latin.txt"], "UTF-8"),
        (["generate", "{folder}", "--prompt", "", "--seed", "1"], "prompt"),
        (["generate", "{folder}", "--prompt", "a", "--temperature", "-1"], "temperature"),
        (["data", "card", "nosuch"], "shakespeare"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_1(capsys, tmp_path, folder, text, arguments, message):
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 50)
    assert main([part.format(tmp=tmp_path, text=text, folder=folder) for part in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minilm: ") and message in err and err.count("\n") == 1


def test_data_lists_every_card_without_a_network(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    listed = run(capsys, "data", "list")
    assert listed.keys() == data.CARDS.keys() and not any(entry["fetched"] for entry in listed.values())
    card = run(capsys, "data", "card", "shakespeare")["shakespeare"]
    assert card["licence"] and str(tmp_path) in run(capsys, "data", "path", "shakespeare")["shakespeare"]


def test_unknown_command_is_exit_code_2():
    assert subprocess.run([sys.executable, "-m", "minilm", "dance"], capture_output=True).returncode == 2
