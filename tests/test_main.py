"""The command line from outside: one JSON object out, errors in words, nothing overwritten."""

import dataclasses
import io
import json
import random
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from tiny import config, randomised

import minilm.__main__ as cli
from minilm import applications, checkpoint, data, evaluate, generate, llama, machine, models, ngram, presets, tokenizer
from minilm.__main__ import main
from minilm.gpt import GPT
from minilm.train import TrainConfig


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
    assert main(["train", "--preset", "ngram", "--text", str(text), "--out", str(out), "--vocab-size", "300"]) == 0
    return out


def run(capsys, *arguments) -> dict:
    """The object that a command prints, and nothing else on standard output."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("units", ["characters", "words", "bpe"])
def test_train_then_evaluate_gives_the_same_score_of_the_last_tenth(capsys, text, tmp_path, units):
    trained = run(capsys, "train", "--preset", "ngram", "--text", text, "--out", tmp_path / "m", "--order", 3,
                  "--tokenizer", units, "--vocab-size", 300)  # fmt: skip
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(data.split_text(text.read_text(), (0.9, 0.1))[1], encoding="utf-8")
    again = run(capsys, "evaluate", tmp_path / "m", "--text", held_out)
    assert again["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-12)
    assert again["bits_per_byte_95"][0] < again["bits_per_byte"] < again["bits_per_byte_95"][1]


def test_what_is_infinite_is_null(capsys, text, tmp_path):
    out = tmp_path / "counts"
    command = ["train", "--preset", "ngram", "--method", "MaximumLikelihood", "--text", text, "--out", out]
    printed = run(capsys, *command)
    assert printed["perplexity"] is printed["bits_per_byte"] is printed["bits_per_byte_95"] is None
    assert printed["tokens"] > 0, "the last tenth has pairs that the rest has not"


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
    assert one["ids"] == same["ids"] != other["ids"] and one["text"] == same["text"]
    assert one["text"].startswith("the cat") and len(one["ids"]) == 30 and one["tokens_per_second"] > 0


def test_greedy_is_temperature_zero(capsys, folder):
    command = ["generate", folder, "--prompt", "the cat", "--max-new-tokens", 30]
    ways = (["--greedy"], ["--temperature", 0], ["--greedy", "--seed", 5])
    texts = {run(capsys, *command, *way)["text"] for way in ways}
    assert len(texts) == 1 and run(capsys, *command)["text"] not in texts


def test_a_large_model_is_guessed_at_by_its_copy_and_writes_what_it_would_alone(capsys, monkeypatch):
    units, copies = tokenizer.Characters.train("the cat sat on a mat"), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        large, other = (randomised(GPT(config(vocab_size=units.vocab_size, context=64))).eval() for _ in range(2))
    monkeypatch.setattr(models, "load", lambda name: (large, units))
    command = ["generate", "large", "--prompt", "the cat", "--max-new-tokens", 30]
    plain = {way: run(capsys, *command, *way.split())["ids"] for way in ("--greedy", "--seed 5")}
    monkeypatch.setattr(cli, "LARGE", 0)
    monkeypatch.setattr(machine, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(cli, "quantise", lambda model, bits: copies.append((model, bits)) or other)
    assert {way: run(capsys, *command, *way.split())["ids"] for way in plain} == plain
    assert copies == [(large, 4)]  # where tokens are drawn, the likeliest is a poor guess


@pytest.mark.data
@pytest.mark.slow
def test_a_published_model_continues_and_answers(capsys):
    """The capital is one that the model knows; what it writes is what `minilm.generate` gives."""
    command = ["generate", "smollm2", "--max-new-tokens", 8, "--greedy"]
    plain = run(capsys, *command, "--prompt", "The capital of France is")
    assert plain.keys() == {"text", "ids", "tokens_per_second"} and len(plain["ids"]) == 8
    model, units = llama.load()
    prompt = units.encode("The capital of France is")
    assert plain["ids"] == generate.generate(model, prompt, 8, temperature=0.0)
    assert plain["text"] == units.decode(prompt + plain["ids"]) and " Paris" in plain["text"]
    answer = run(capsys, *command, "--prompt", "What is the capital of France?", "--chat")
    assert answer["text"] == "The capital of France is Paris." and len(answer["ids"]) == 7  # it stopped by itself


def test_a_folder_with_work_in_it_is_left_alone(capsys, folder, text):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["train", "--preset", "ngram", "--text", str(text), "--out", str(folder)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def network(text, tmp_path_factory) -> list[str]:
    """The command line of a short training."""
    out = tmp_path_factory.mktemp("runs") / "network"
    command = ["train", "--preset", "fast", "--steps", "4", "--eval-every", "2", "--text", str(text), "--out", str(out)]
    assert main(command) == 0
    return command


def test_a_preset_leaves_a_log_and_a_model_scored_on_the_last_tenth(capsys, network, text):
    out = Path(network[-1])
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [2, 4]
    assert log[-1].keys() == {"step", "tokens", "seconds", "train_loss", "val_loss", "bits_per_byte"}
    assert log[-1]["tokens"] == 4 * 12 * 64
    model, units = checkpoint.load(out)
    score = evaluate.score(model, units, data.split_text(text.read_text(), (0.9, 0.1))[1])
    assert log[-1]["bits_per_byte"] == pytest.approx(score.bits_per_byte, abs=1e-6)
    assert log[-1]["val_loss"] == pytest.approx(score.nats.sum() / score.tokens, abs=1e-6)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}


def test_a_finished_run_prints_its_result_and_changes_nothing(capsys, network):
    before = {path.name: path.read_bytes() for path in Path(network[-1]).iterdir()}
    result = run(capsys, *network)
    assert main(network) == 0
    assert "finished" in capsys.readouterr().err
    log = [json.loads(line) for line in before["log.jsonl"].decode().splitlines()]
    assert result["bits_per_byte"] == pytest.approx(log[-1]["bits_per_byte"], abs=1e-6)
    assert (result["step"], result["train_tokens"], result["seconds"]) == (4, log[-1]["tokens"], log[-1]["seconds"])
    assert before == {path.name: path.read_bytes() for path in Path(network[-1]).iterdir()}


@pytest.mark.parametrize(
    "change, message",
    [
        (["--steps", "5"], "train.steps is 4 there, 5 here"),
        (["--seed", "1"], "train.seed is 0 there, 1 here"),
        (["--betas", "0.8", "0.9"], "train.betas"),
        (["--preset", "reference"], "holds another run"),
        (["--text", "{other}"], "data is"),
        (["--steps", "0"], "steps=0"),
        (["--order", "3"], "--order says nothing to --preset fast"),
        (["--preset", "ngram"], "--steps says nothing to --preset ngram"),
    ],
)
def test_another_run_in_the_same_folder_overwrites_nothing(change, message, capsys, network, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().replace("cat", "rat", 1))  # one letter, of the length it had
    before = {path.name: path.read_bytes() for path in Path(network[-1]).iterdir()}
    capsys.readouterr()
    assert main([*network, *(part.format(other=other) for part in change)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err
    assert before == {path.name: path.read_bytes() for path in Path(network[-1]).iterdir()}


def test_one_command_evaluates_and_continues_with_every_kind_of_model(capsys, network, text):
    model = network[-1]
    assert run(capsys, "evaluate", model, "--text", text)["bits_per_byte"] > 0
    command = ["generate", model, "--prompt", "the cat", "--seed", "4", "--max-new-tokens", "9"]
    one, same = run(capsys, *command), run(capsys, *command)
    assert one["ids"] == same["ids"] and one["text"].startswith("the cat") and len(one["ids"]) == 9


def test_a_window_longer_than_the_model_reads_is_refused(capsys, network, text):
    assert main(["evaluate", network[-1], "--text", str(text), "--context", "500"]) == 1
    assert "--context 500: the model reads at most 64 tokens" in capsys.readouterr().err


def test_a_training_gone_astray_says_so(capsys, network, text, tmp_path):
    wild = [
        "--steps",
        "6",
        "--learning-rate",
        "1e30",
        "--clip",
        "0",
        "--optimizer",
        "adamw",
        "--out",
        str(tmp_path / "o"),
    ]
    assert run(capsys, *network, *wild)["perplexity"] is None
    assert main(["generate", str(tmp_path / "o"), "--prompt", "the", "--greedy"]) == 1
    assert "scores are not numbers" in capsys.readouterr().err


def test_the_cost_is_said_before_the_first_step(capsys, network):
    main(network)
    shown = capsys.readouterr().err
    assert "fast: " in shown and "parameters" in shown and "GB of memory" in shown and "for two cores" in shown


def test_every_number_of_a_training_has_a_flag_with_its_words(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')} " in shown or f"--{field.name}," in shown
    assert "the highest rate, which the schedule scales" in shown


def test_ctrl_c_is_exit_code_130_and_says_how_to_go_on(capsys, text, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt("stopped after step 7: the same command goes on from there")

    monkeypatch.setattr(presets, "run", stop)
    assert main(["train", "--preset", "fast", "--text", str(text), "--out", str(tmp_path / "o")]) == 130
    assert "goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "{tmp}", "--text", "{text}"], "config.json"),
        (["evaluate", "{folder}", "--text", "{tmp}/none.txt"], "none.txt"),
        (["evaluate", "{folder}", "--text", "{tmp}/latin.txt"], "UTF-8"),
        (["generate", "{folder}", "--prompt", "", "--seed", "1"], "prompt"),
        (["generate", "{folder}", "--prompt", "a", "--temperature", "-1"], "temperature"),
        (["generate", "{folder}", "--prompt", "a", "--chat"], "tokenizer has no"),
        (["generate", "{folder}", "--prompt", "a", "--greedy", "--top-k", "-5"], "top_k=-5"),
        (["generate", "{folder}", "--prompt", "a", "--seed", "9" * 20], "seed=9"),
        (["generate", "nosuch", "--prompt", "a"], "no model 'nosuch': give a folder"),
        (["generate", "all-minilm", "--prompt", "a"], "no model 'all-minilm'"),
        (["generate", "gpt2", "--prompt", "a"], "'gpt2' is a preset for one GPU"),
        (["train", "--preset", "ngram", "--text", "{tmp}/tiny.txt", "--out", "{tmp}/o"], "give a longer text"),
        (["train", "--preset", "7b", "--text", "{tmp}/tiny.txt", "--out", "{tmp}/o"], "give a longer text"),
        (
            ["train", "--preset", "7b", "--text", "{tmp}/short.txt", "--out", "{tmp}/o", "--vocab-size", "270"],
            "use a longer",
        ),
        (["evaluate", "{folder}", "--text", "{text}", "--context", "5"], "nothing to an n-gram model"),
        (["evaluate", "shakespeare", "--text", "{text}"], "no model 'shakespeare'"),
        (["data", "card", "nosuch"], "shakespeare"),
        (["evaluate", "{folder}"], "give either --text"),
        (["evaluate", "{folder}", "--text", "{text}", "--task", "continue", "--file", "{text}"], "give either --text"),
        (["evaluate", "{folder}", "--task", "continue"], "--task and --file"),
        (
            ["evaluate", "{folder}", "--text", "{text}", "--max-new-tokens", "3"],
            "--max-new-tokens says nothing to --text",
        ),
        (["evaluate", "{folder}", "--task", "sing", "--file", "{text}"], "no task 'sing'"),
        (["evaluate", "{folder}", "--task", "continue", "--file", "{text}", "--to", "fr"], "no option 'to'"),
        (["evaluate", "lexicon", "--task", "sentiment", "--file", "{tmp}/none.csv"], "none.csv does not exist"),
        (
            ["evaluate", "lexicon", "--task", "sentiment", "--file", "{text}", "--out", "{text}"],
            "nothing is overwritten",
        ),
        (["evaluate", "{folder}", "--text", "{text}", "--out", "{tmp}/o"], "--out says nothing to --text"),
        (["evaluate", "{folder}", "--text", "{text}", "--context", "0"], "--context 0"),
        (["evaluate", "lexicon", "--task", "sentiment", "--file", "{text}", "--context", "8"], "nothing to --task"),
        (["serve", "--host", "0.0.0.0"], "this computer alone"),
        (["serve", "--host", "127.0.0.2"], "this computer alone"),
        (["serve", "--port", "99999"], "--port 99999: choose one"),
        (["serve", "--models", "nosuch"], "no model 'nosuch'"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_1(capsys, tmp_path, folder, text, arguments, message):
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 50)
    (tmp_path / "tiny.txt").write_text("To be.")
    (tmp_path / "short.txt").write_text("To be, or not to be, that is the question. " * 9)
    assert main([part.format(tmp=tmp_path, text=text, folder=folder) for part in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("minilm: ") and message in err
    assert arguments[0] == "train" or err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_what_a_stream_cannot_hold_is_escaped(folder, monkeypatch):
    for name in ("latin-1", "utf-8"):
        with io.TextIOWrapper(io.BytesIO(), encoding=name) as stream, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            assert main(["generate", str(folder), "--prompt", "你好, Élan", "--max-new-tokens", "2"]) == 0
            stream.flush()
            assert json.loads(stream.buffer.getvalue().decode(name))["text"].startswith("你好, Élan")


def test_data_lists_every_card_without_a_network(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    listed = run(capsys, "data", "list")
    assert listed.keys() == data.CARDS.keys() and not any(entry["fetched"] for entry in listed.values())
    card = run(capsys, "data", "card", "shakespeare")["shakespeare"]
    assert card["licence"] and str(tmp_path) in run(capsys, "data", "path", "shakespeare")["shakespeare"]


TASK = ["evaluate", "lexicon", "--task", "sentiment", "--file"]


def test_a_task_is_done_on_a_file_and_marked(capsys, tmp_path):
    rows = [("a great film", "positive"), ("awful", "negative"), ("I love it", "negative")]
    (tmp_path / "my.csv").write_text("text,label\n" + "\n".join(map(",".join, rows)), encoding="utf-8")
    printed = run(capsys, *TASK, tmp_path / "my.csv")
    expected = applications.run("sentiment", [{"text": text, "label": label} for text, label in rows], "lexicon")
    assert printed["outputs"] == expected["outputs"] == ["positive", "negative", "positive"]
    assert printed["measures"]["accuracy"] == expected["measures"]["accuracy"]._asdict()
    assert (printed["task"], printed["model"], printed["examples"]) == ("sentiment", "lexicon", 3)
    one = (tmp_path / "one.jsonl").write_text('{"text": "awful", "label": "negative"}') and tmp_path / "one.jsonl"
    alone = {"value": 1.0, "low": pytest.approx(0.207, abs=1e-3), "high": 1.0}
    assert run(capsys, *TASK, one)["measures"]["accuracy"] == alone


def test_answers_go_to_a_file_beside_their_examples(capsys, tmp_path):
    (tmp_path / "my.txt").write_text("a great film\n\nawful, 低\n", encoding="utf-8")
    printed = run(capsys, *TASK, tmp_path / "my.txt", "--out", tmp_path / "answers.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"example": "a great film", "output": "positive"}, {"example": "awful, 低", "output": "negative"}]
    assert printed["out"] == str(tmp_path / "answers.jsonl") and "outputs" not in printed and "measures" not in printed


def test_a_folder_serves_a_task_and_its_options(capsys, folder, tmp_path):
    (tmp_path / "my.txt").write_text("the cat\nthe dog", encoding="utf-8")
    command = ["evaluate", folder, "--task", "continue", "--file", tmp_path / "my.txt", "--max-new-tokens", 7]
    model, units = models.load(str(folder))
    expected = [generate.generate(model, units.encode(text), 7, temperature=0.0) for text in ("the cat", "the dog")]
    assert run(capsys, *command)["outputs"] == [units.decode(ids) for ids in expected]


@pytest.mark.slow
def test_serve_answers_until_ctrl_c_and_then_says_where_it_was(folder):
    command = [sys.executable, "-m", "minilm", "serve", "--models", folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        address = re.search(r"open (http://127\.0\.0\.1:\d+) in a browser", demo.stderr.readline())[1]
        asked = urllib.request.Request(
            f"{address}/api/complete",
            json.dumps({"prompt": "the cat", "max_new_tokens": 3}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            told = [json.loads(line) for line in answer]
        demo.send_signal(signal.SIGINT)
        printed, _ = demo.communicate(timeout=30)
    assert len(told) == 5 and all(0 < token["probability"] <= 1 for token in told[1:4]) and told[4] == {"done": True}
    assert demo.returncode == 0 and json.loads(printed) == {"served": address}


def test_unknown_command_is_exit_code_2():
    assert subprocess.run([sys.executable, "-m", "minilm", "dance"], capture_output=True).returncode == 2
