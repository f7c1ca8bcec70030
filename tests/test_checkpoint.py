"""Folders that hold a model, and files that are not what they should be."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from minilm import checkpoint, ngram, optim, tokenizer
from minilm.gpt import GPT
from minilm.rnn import RNNLM, RNNConfig
from minilm.transformer import Config

UNITS = tokenizer.Characters.train("to be or not")
IDS = torch.tensor([UNITS.encode("not to be")])
SHAPE = Config(UNITS.vocab_size, context=9, d_model=8, n_layers=1, n_heads=2)
MODELS = {
    "gpt": lambda: GPT(SHAPE),
    "modern": lambda: GPT(replace(SHAPE, norm="rms", positions="rotary", tied=False, bias=False)),
    "rnn": lambda: RNNLM(RNNConfig(UNITS.vocab_size, 8, cell="gru")),
}


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_loaded_is_what_was_saved(kind, tmp_path):
    model = MODELS[kind]().eval()
    checkpoint.save(tmp_path, model, UNITS)
    loaded, units = checkpoint.load(tmp_path)
    assert torch.equal(loaded(IDS), model(IDS)) and loaded.config == model.config and not loaded.training
    assert units.encode("to be") == UNITS.encode("to be")
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}


def test_counts_are_loaded_by_the_same_function(tmp_path):
    model = ngram.KneserNey(ngram.count(IDS[0], 2, UNITS.vocab_size))
    model.save(tmp_path)
    UNITS.save(tmp_path / "tokenizer.json")
    torch.testing.assert_close(checkpoint.load(tmp_path)[0](IDS), model(IDS))


def test_a_model_of_another_kind_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="model is a Linear"):
        checkpoint.save(tmp_path, torch.nn.Linear(1, 1))


def test_no_model_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json there; name a folder"):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.NAME).touch()
    with pytest.raises(FileNotFoundError, match=r"no config.json there; its training stopped before"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("counted", [False, True])
def test_a_tokenizer_of_another_model(counted, tmp_path):
    if counted:
        ngram.AddK(ngram.count(IDS[0], 2, UNITS.vocab_size)).save(tmp_path)
    else:
        checkpoint.save(tmp_path, GPT(SHAPE))
    tokenizer.Characters.train("to be or not to be!").save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match=f"has {UNITS.vocab_size + 1} tokens, the model {UNITS.vocab_size}"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"model": "bert"}', '{"model": "gpt", "vocab_size": 3}', '{"width": 3}']
)
def test_a_config_that_describes_nothing(config, tmp_path):
    checkpoint.save(tmp_path, GPT(SHAPE), UNITS)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config.json does not describe a model of this package"):
        checkpoint.load(tmp_path)


def test_weights_of_another_model(tmp_path):
    checkpoint.save(tmp_path, GPT(SHAPE), UNITS)
    config = json.loads((tmp_path / "config.json").read_text()) | {"d_model": 12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"holds another model's weights: .*differ"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", checkpoint.NAME])
def test_a_truncated_file_is_refused_and_left_alone(name, share, tmp_path):
    model = GPT(SHAPE)
    optimizer = optim.optimizer(model, 0.1)
    model(IDS).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, model, UNITS)
    checkpoint.save_run(tmp_path, model, optimizer, {"step": 1, "run": {}})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{name} is damaged .*move it away"):
        if name == checkpoint.NAME:
            checkpoint.load_run(tmp_path, model, optimizer, {})
        else:
            checkpoint.load(tmp_path)
    assert (tmp_path / name).read_bytes() == content[: int(share * len(content))]


def test_a_foreign_checkpoint_is_refused(tmp_path):
    safetensors.torch.save_file({"weight": torch.ones(2)}, tmp_path / checkpoint.NAME, {"format": "pt"})
    model = GPT(SHAPE)
    with pytest.raises(ValueError, match="not a checkpoint of this package: choose a new folder"):
        checkpoint.load_run(tmp_path, model, optim.optimizer(model, 0.1), {})


def test_a_state_comes_back_to_the_last_bit(tmp_path):
    state = {"step": 7, "nats": 1 / 3 * 1e-7, "log": [{"train_loss": 0.1 + 0.2}], "run": {"seed": 0}}
    model = GPT(SHAPE)
    optimizer = optim.optimizer(model, 0.1, kind="muon")
    model(IDS).square().sum().backward()
    optimizer.step()
    checkpoint.save_run(tmp_path, model, optimizer, state)
    other = GPT(SHAPE)
    again = optim.optimizer(other, 0.1, kind="muon")
    assert checkpoint.load_run(tmp_path, other, again, {"seed": 0}) == {k: v for k, v in state.items() if k != "run"}
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        assert optimizer.state[one].keys() == again.state[two].keys() and optimizer.state[one]
        assert all(torch.equal(optimizer.state[one][key], again.state[two][key]) for key in optimizer.state[one])
