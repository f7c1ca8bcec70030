"""Recipes: what they build, what they cost by PyTorch's own count, and that a model is trained once."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minilm import cost, data, presets, recipe
from minilm.contract import Batch
from minilm.rnn import RNNConfig
from minilm.train import TrainConfig
from minilm.transformer import Config

TEXT = "What's in a name? That which we call a rose\nBy any other name would smell as sweet.\n" * 60
TINY = recipe.Recipe("tiny", Config(presets.V, 8, 16, 1, 2), TrainConfig(6, 4, learning_rate=0.01, eval_every=3))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty cache, and a corpus that needs no download."""
    monkeypatch.setenv("MINILM_HOME", str(tmp_path))
    monkeypatch.setattr(presets, "texts", lambda corpus: data.split_text(TEXT * (1 + (corpus == "other")), (0.9, 0.1)))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_can_be_built(name):
    chosen = presets.preset(name)
    assert chosen.name == name
    with torch.device("meta"):
        model = recipe.build(chosen, 1000)
        assert model(torch.zeros(2, chosen.context, dtype=torch.long)).shape == (2, chosen.context, 1000)
    assert chosen.train.batch_size % chosen.train.accumulate == 0


def test_another_window_is_another_run(tmp_path):
    lstm = replace(TINY, model=RNNConfig(presets.V, 8), window=4)
    recipe.run(lstm, TEXT, TEXT, tmp_path / "out", progress=False)
    with pytest.raises(FileExistsError, match="data is"):
        recipe.run(replace(lstm, window=6), TEXT, TEXT, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="window=None"):
        replace(lstm, window=None)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="there is no preset 'giant': choose one of reference, fast"):
        presets.preset("giant")


def test_the_sizes_that_names_promise():
    millions = {name: cost.estimate(presets.preset(name), size).parameters / 1e6
                for name, size in (("gpt2", 50_257), ("7b", 32_000), ("reference", 65), ("fast", 65))}  # fmt: skip
    assert millions["gpt2"] == pytest.approx(124, abs=0.5)
    assert 6_000 < millions["7b"] < 8_000
    assert 0.5 < millions["fast"] / millions["reference"] < 1.05


@pytest.mark.parametrize("name", [name for name in presets.PRESETS if name != "lstm"])
def test_operations_are_those_that_pytorch_counts(name):
    """Attention counts whole, not causal, and the tokens are embedded by look-up."""
    chosen = presets.preset(name)
    with torch.device("meta"):
        model, ids = recipe.build(chosen, 500), torch.zeros(2, chosen.context, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(ids)
    assert counter.get_total_flops() == 2 * chosen.context * cost.forward_flops(chosen, 500)


def test_an_lstm_multiplies_each_weight_once_a_token():
    chosen = presets.preset("lstm")
    D, L, V = chosen.model.d_model, chosen.model.n_layers, 1000
    assert cost.forward_flops(chosen, V) == 2 * (L * 8 * D * D + D * V)


def test_what_is_printed_before_a_run():
    sentence = str(cost.estimate(presets.preset("7b"), 32_000))
    assert "billion parameters" in sentence and "GB of memory" in sentence and "years here" in sentence
    assert "a recipe for a cluster" in sentence
    assert " s here" in str(cost.estimate(TINY, 50))


def test_memory_is_shared_by_parts_and_grows_with_the_batch():
    whole, parts, large = (
        cost.estimate(replace(TINY, train=replace(TINY.train, **how)), 50).memory
        for how in ({}, {"accumulate": 4}, {"batch_size": 40})
    )
    assert parts < whole < large


def test_a_model_is_trained_once_and_read_afterwards(monkeypatch, capsys):
    model, units, log = presets.trained(TINY, "corpus", seed=3)
    assert "training tiny on corpus, seed 3" in capsys.readouterr().err
    monkeypatch.setattr(presets, "run", None)
    again, same_units, same_log = presets.trained(TINY, "corpus", seed=3)
    ids = torch.tensor([units.encode("a rose")])
    assert torch.equal(model(ids), again(ids)) and log == same_log and not model.training
    assert same_units.encode("a rose") == units.encode("a rose")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("change", ["seed", "corpus", "recipe", "code"])
def test_whatever_decides_a_model_makes_it_another_one(change, monkeypatch):
    folders = lambda: {path.name for path in (data.home() / "models").iterdir() if path.is_dir()}
    presets.trained(TINY, "corpus", progress=False)
    first = folders()
    tiny = replace(TINY, train=replace(TINY.train, clip=0.1)) if change == "recipe" else TINY
    if change == "code":
        monkeypatch.setattr(presets, "code", lambda: "0")
    presets.trained(tiny, "other" if change == "corpus" else "corpus", int(change == "seed"), progress=False)
    assert len(folders() - first) == 1


def head(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


def rows(shift: float = 0.0) -> Callable[[int], Batch]:
    return lambda step: Batch((torch.eye(3) + step + shift,), torch.tensor([0, 1, 1]))


def test_any_model_is_fitted_once_and_filled_afterwards(monkeypatch, capsys):
    config = TrainConfig(4, 3, learning_rate=0.1, eval_every=2)
    first, second = head(), head()
    log = presets.fit(first, rows(), config, "head")
    assert "training head" in capsys.readouterr().err and not torch.equal(first.weight, second.weight)
    monkeypatch.setattr("minilm.trainer.Run.advance", None)
    assert presets.fit(second, rows(), config, "head") == log
    assert torch.equal(first.weight, second.weight) and not second.training


@pytest.mark.parametrize("change", ["weights", "frozen", "data", "config", "name", "module"])
def test_whatever_decides_a_fit_makes_it_another_one(change):
    config = TrainConfig(1, 3)
    presets.fit(head(), rows(), config, "head", progress=False)
    model = head(int(change == "weights"))
    model.bias.requires_grad_(change != "frozen")
    if change == "config":
        config = replace(config, clip=None)
    modules = [data] if change == "module" else []
    presets.fit(model, rows(change == "data"), config, "h" if change == "name" else "head", *modules, progress=False)
    assert sum(path.is_dir() for path in (data.home() / "models").iterdir()) == 2


def test_the_code_that_counts_is_code(tmp_path, monkeypatch):
    """Comments and docstrings train nothing; a constant does."""
    checksums = []
    monkeypatch.setattr(presets, "DECISIVE", ["one"])
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "presets.py"))
    for source in ('"""Doc."""\nx = "a"', "x = 'a'  # why\n", "x = 'b'", "def f():\n  return 'b'", "def f():\n  'b'"):
        (tmp_path / "one.py").write_text(source)
        checksums.append(presets.code.__wrapped__())
    assert checksums[0] == checksums[1] and len(set(checksums)) == 4


def test_an_interrupted_training_goes_on(monkeypatch):
    def stop(record: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        presets.trained(TINY, "corpus", progress=False, watch=stop)
    seen = []
    _, _, log = presets.trained(TINY, "corpus", progress=False, watch=seen.append)
    assert [record["step"] for record in log] == [3, 6] and log == seen


def test_the_seed_decides_the_weights_and_nothing_else_does():
    one, two = recipe.build(TINY, 50), recipe.build(presets.with_seed(TINY, 1), 50)
    torch.manual_seed(9)
    assert torch.equal(recipe.build(TINY, 50).head.weight, one.head.weight)
    assert not torch.equal(one.head.weight, two.head.weight)


def test_held_out_characters_can_be_spelled_and_held_out_words_are_not_learnt():
    assert recipe.make_tokenizer(TINY, "abc", "xyz").vocab_size == 6
    bpe = replace(TINY, tokenizer="bpe", vocab_size=300)
    assert b"xyz" not in map(recipe.make_tokenizer(bpe, "abab" * 40, "xyz" * 900).token_bytes, range(258))
    with pytest.raises(ValueError, match="vocab_size is missing"):
        recipe.make_tokenizer(replace(bpe, vocab_size=None), "abc")


def test_the_small_text_is_the_same_for_everyone(monkeypatch):
    class Corpus:
        text = staticmethod(lambda split: {"train": "ab" * presets.SMALL}[split])

    monkeypatch.setattr(data, "load", {"shakespeare": Corpus}.get)
    assert presets.small_text() == ("ab" * presets.SMALL)[: presets.SMALL]
    assert asdict(presets.preset("reference").model)["context"] == 64


@pytest.mark.parametrize("path", sorted(presets.RUNS.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_says_how_and_where_it_was_made(path):
    record = presets.recorded(path.stem)
    assert record["command"] == f"python book/_tools/record.py {path.stem}" and " core" in record["machine"]
    assert date.fromisoformat(record["date"]) and record["rows"]


def test_a_record_that_is_not_there():
    with pytest.raises(ValueError, match="there is no record 'nothing': the records are"):
        presets.recorded("nothing")
