"""Two processes, started by torchrun, compute what one does; alone, every function of the module is the identity."""

import faulthandler
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minilm import checkpoint, distributed
from minilm.batching import sample
from minilm.gpt import GPT
from minilm.train import TrainConfig, train
from minilm.transformer import Config

SHAPE = Config(vocab_size=11, context=8, d_model=16, n_layers=2, n_heads=2)
CONFIG = TrainConfig(steps=6, batch_size=8, learning_rate=0.01, warmup=2, eval_every=2, clip=0.1)


def run(out: Path, stop: int | None = None, **how) -> list[dict]:
    """A short training that every process of a world starts with the same weights; its clipping does clip."""

    def watch(record: dict) -> None:
        if record["step"] == stop:
            raise SystemExit

    torch.manual_seed(0)
    ids = torch.randint(11, (300,), generator=torch.Generator().manual_seed(1))
    config = TrainConfig(**(vars(CONFIG) | how))
    model = GPT(SHAPE)
    return train(model, sample(ids, 8, 8), config, lambda model: {"val": valid(model, ids)}, out, False, watch)


def valid(model, ids) -> float:
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(ids[None, :8])[0], ids[1:9]))


def torchrun(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent)])
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"accumulate": 2}, {"shard": True}, {"optimizer": "muon"}], ids=str)
def test_two_processes_give_the_losses_and_the_weights_of_one(how, tmp_path):
    alone = run(tmp_path / "one", **how)
    done = torchrun(__file__, json.dumps(how), str(tmp_path / "two"), str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    together = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    for one, two in zip(alone, together, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], abs=1e-5)
        assert one["val"] == pytest.approx(two["val"], abs=1e-5)
        assert one["tokens"] == two["tokens"]
    assert (tmp_path / "two" / "model.safetensors").exists()
    weights, *both = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two", "again"))
    for others in both:
        assert weights.keys() == others.keys()
        for name in weights:
            torch.testing.assert_close(others[name], weights[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_a_sharded_run_goes_on_in_one_process_and_back(tmp_path):
    """A checkpoint holds whole tensors, so the number of processes may change between two parts of a run."""
    whole = run(tmp_path / "one", shard=True)
    with pytest.raises(SystemExit):
        run(tmp_path / "two", stop=2, shard=True)
    done = torchrun(__file__, json.dumps({"shard": True, "stop": 4}), str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 2
    resumed = run(tmp_path / "two", shard=True)
    assert [record["train_loss"] for record in resumed] == pytest.approx([r["train_loss"] for r in whole], abs=1e-5)


def test_alone_nothing_changes():
    model, value = GPT(SHAPE), torch.tensor(3.0)
    world = distributed.join()
    assert world == distributed.World() and world.first
    assert distributed.wrap(model, world, shard=True) is model
    distributed.wait()
    assert distributed.total(value) is value and torch.equal(distributed.whole(value), value)


def test_the_environment_of_torchrun_is_read(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.here() == distributed.World(rank=3, size=4, local_rank=1, local_size=2)
    assert not distributed.here().first


@pytest.mark.slow
def test_the_command_line_under_torchrun_prints_once(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 200)
    arguments = ["train", "--preset", "fast", "--steps", "2", "--text", str(text), "--out", str(tmp_path / "out")]
    done = torchrun("-m", "minilm", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 2
    assert done.stderr.count("for two cores") == 1


@pytest.mark.slow
def test_muon_and_pieces_are_refused(tmp_path):
    done = torchrun(__file__, json.dumps({"shard": True, "optimizer": "muon"}), str(tmp_path))
    assert done.returncode != 0 and "choose 'adamw' or no shard" in done.stderr


def the_second_looks_slowly() -> None:
    """The second process learns late what it asked about a file: the first must not have written by then."""
    look = Path.exists

    def slowly(path: Path, **how) -> bool:
        found = look(path, **how)
        if path.name == checkpoint.NAME:
            time.sleep(0.5)
        return found

    if not distributed.here().first:
        Path.exists = slowly


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240, exit=True)  # processes that wait for ever say where
    the_second_looks_slowly()
    for folder in sys.argv[2:]:
        run(Path(folder), **json.loads(sys.argv[1]))
