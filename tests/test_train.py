"""The loop against one written by hand with torch.optim, and against itself after every kind of interruption."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from minilm import checkpoint, files, tokenizer, trainer
from minilm.batching import sample
from minilm.contract import IGNORE, Batch
from minilm.evaluate import nll
from minilm.gpt import GPT
from minilm.train import TrainConfig, train, validation
from minilm.transformer import Config

SHAPE = Config(vocab_size=13, context=8, d_model=16, n_layers=2, n_heads=2, dropout=0.2)
CONFIG = TrainConfig(steps=12, batch_size=8, learning_rate=0.01, warmup=3, eval_every=3, optimizer="muon", accumulate=2)
IDS = torch.randint(13, (400,), generator=torch.Generator().manual_seed(1))
STREAM = sample(IDS, 8, 8)


def fresh(shape: Config = SHAPE) -> GPT:
    torch.manual_seed(0)
    return GPT(shape)


def mean_nll(model) -> dict:
    return {"val_loss": float(nll(model, IDS[:60]).mean())}


def run(out=None, config=CONFIG, stream=STREAM, **how) -> list[dict]:
    return train(fresh(), stream, config, mean_nll, out, **{"progress": False} | how)


def without_seconds(log: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in log]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[list[dict], dict]:
    """The log and the final tensors, optimizer's included, of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    log = run(out)
    return without_seconds(log), load_file(out / checkpoint.NAME)


def test_a_second_process_waits_for_the_end_of_the_first(tmp_path, undisturbed, capsys):
    """The lock is held by a file handle, so two threads of one process stand for two processes."""
    with ThreadPoolExecutor(1) as pool:
        with checkpoint.alone(tmp_path / "out"):
            second = pool.submit(run, tmp_path / "out")
            time.sleep(0.5)
            assert not (tmp_path / "out").exists()
        assert without_seconds(second.result(timeout=60)) == undisturbed[0]
    assert "out is being trained by another process: waiting" in capsys.readouterr().err


def assert_same(out: Path, log: list[dict], undisturbed) -> None:
    """Bit for bit: the log that was returned, the one on disk, and every tensor."""
    records, tensors = undisturbed
    assert without_seconds(log) == records
    assert without_seconds([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]) == records
    found = load_file(out / checkpoint.NAME)
    assert found.keys() == tensors.keys() and any(name.startswith("optimizer.") for name in found)
    assert all(torch.equal(found[name], tensors[name]) for name in found)
    model = load_file(out / "model.safetensors")
    assert all(torch.equal(tensors[f"model.{name}"], model[name]) for name in model)


# What a step does


def test_the_loop_is_the_one_that_torch_users_write():
    """AdamW with decay on matrices only, LambdaLR by the formula of a cosine, clipping: weights agree in float64."""
    config = TrainConfig(20, 8, learning_rate=0.01, weight_decay=0.3, warmup=4, final=0.2, betas=(0.8, 0.9), clip=0.5)
    shape = replace(SHAPE, dropout=0.0)
    model, expected = fresh(shape).double(), fresh(shape).double()
    log = train(model, STREAM, config, progress=False)
    groups = [
        {"params": [p for p in expected.parameters() if p.dim() > 1], "weight_decay": 0.3},
        {"params": [p for p in expected.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9))
    up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 4, end_factor=1.0, total_iters=3)
    down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16, eta_min=0.002)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], milestones=[4])
    losses, clipped = [], 0
    for step in range(20):
        batch = STREAM(step)
        loss = F.cross_entropy(expected(*batch.inputs).flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        clipped += torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5) > 0.5
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert clipped
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), atol=1e-7, rtol=1e-7, msg=name)
    assert log[-1]["train_loss"] == pytest.approx(sum(losses) / 20, abs=1e-5)


def test_it_learns_a_batch_by_heart():
    rows = torch.randint(13, (4, 9), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = torch.arange(4)  # tells the rows apart
    batch = Batch((rows[:, :-1],), rows[:, 1:])
    config = TrainConfig(120, 4, learning_rate=0.02, eval_every=120, weight_decay=0.0)
    model = fresh(replace(SHAPE, dropout=0.0))
    train(model, lambda step: batch, config, progress=False)
    assert F.cross_entropy(model(*batch.inputs).flatten(0, 1), batch.targets.flatten()) < 0.05


@settings(max_examples=5)
@given(accumulate=st.sampled_from([2, 4, 8]), ignored=st.integers(0, 8), seed=st.integers(0, 5))
@example(accumulate=8, ignored=8, seed=0)
def test_a_batch_in_parts_is_the_batch(accumulate, ignored, seed):
    """Also where the parts do not score equally many targets, which a mean of means would get wrong, or none."""

    def stream(step: int) -> Batch:
        batch = sample(IDS, 8, 8, seed)(step)
        targets = batch.targets.clone()
        targets[:2, :ignored] = IGNORE
        return Batch(batch.inputs, targets)

    def trained(n: int) -> tuple[list[dict], GPT]:
        model = fresh(replace(SHAPE, dropout=0.0)).double()
        config = TrainConfig(4, 8, learning_rate=0.01, accumulate=n, eval_every=2)
        return train(model, stream, config, progress=False), model

    (log, whole), (log_parts, parts) = trained(1), trained(accumulate)
    for name, parameter in parts.named_parameters():
        torch.testing.assert_close(parameter, whole.get_parameter(name), atol=1e-9, rtol=1e-9, msg=name)
    assert [r["train_loss"] for r in log_parts] == pytest.approx([r["train_loss"] for r in log], abs=1e-5)
    assert log[-1]["tokens"] == log_parts[-1]["tokens"] == 4 * (64 - 2 * ignored)


def test_dropout_depends_on_the_step_and_the_seed_and_leaves_the_readers_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = run(), run(), run(config=replace(CONFIG, seed=1))
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())
    assert without_seconds(one) == without_seconds(again) != without_seconds(other)
    batch = STREAM(0)
    constant = train(fresh(), lambda step: batch, TrainConfig(2, 8, 1e-30, eval_every=1), progress=False)
    assert constant[0]["train_loss"] != constant[1]["train_loss"]  # the same weights and rows, other units dropped


def test_random_numbers_and_threads_are_given_back():
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    model = fresh()
    torch.manual_seed(5)
    train(model, STREAM, CONFIG, progress=False)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_less_precision_changes_the_loss_a_little_and_the_weights_stay_float32(dtype):
    model, config = fresh(), replace(CONFIG, optimizer="adamw")
    log = train(model, STREAM, replace(config, dtype=dtype), mean_nll, progress=False)
    assert log[-1]["train_loss"] == pytest.approx(run(config=config)[-1]["train_loss"], abs=0.03)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_model_is_the_model():
    """In another process, since the checks of shapes that tests switch on cannot be compiled."""
    eager, compiled = (json.loads(line) for line in child("compile").communicate()[0].splitlines())
    for a, b in zip(eager, compiled, strict=True):
        assert (a["train_loss"], a["val_loss"]) == pytest.approx((b["train_loss"], b["val_loss"]), abs=1e-4)


def child(*arguments: str) -> subprocess.Popen:
    """This file as a program."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen([sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE)


# What it reports


def test_the_log_counts_steps_and_tokens_and_stops_the_clock_while_it_measures(monkeypatch, tmp_path):
    """On a clock that moves a second in every step, and a hundred in every evaluation and every write."""
    now = 0.0

    def spend(seconds: float, result=None):
        nonlocal now
        now += seconds
        return result

    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now)
    monkeypatch.setattr(trainer, "write", lambda *_: spend(100))
    config = replace(CONFIG, steps=7, accumulate=1)
    log = train(
        fresh(), lambda step: spend(1, STREAM(step)), config, lambda m: spend(100, {}), tmp_path / "out", progress=False
    )
    assert [record["step"] for record in log] == [3, 6, 7]
    assert [record["tokens"] for record in log] == [192, 384, 448]
    assert [record["seconds"] for record in log] == [3, 6, 7]


def test_validation_is_the_score_of_the_whole_text():
    text = "".join("abcdefghijklm"[i] for i in IDS[:61])
    units, model = tokenizer.Characters.train("abcdefghijklm"), fresh().eval()
    measured = validation(text, units)(model)
    ids = torch.tensor(units.encode(text))
    rows = [ids[begin : begin + 9] for begin in range(0, 60, 8)]  # the last row holds 5 ids, the text's remainder
    with torch.no_grad():
        nats = [F.cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum") for row in rows[:-1]]
        nats.append(F.cross_entropy(model(ids[None, -9:-1])[0, -4:], ids[-4:], reduction="sum"))
    assert measured["val_loss"] == pytest.approx(float(sum(nats)) / 60, abs=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(float(sum(nats)) / 60 / 0.6931472, abs=1e-5)


def test_evaluation_switches_dropout_off_and_training_on_again():
    modes, model = [], fresh()

    def validate(model) -> dict:
        modes.append(model.training)
        return mean_nll(model)

    log = train(model, STREAM, CONFIG, validate, progress=False)
    assert modes == [False] * 4 and model.training
    assert log[-1]["val_loss"] == mean_nll(model.eval())["val_loss"]
    handed_over_as_it_was_read = train(fresh().eval(), STREAM, CONFIG, mean_nll, progress=False)
    assert without_seconds(handed_over_as_it_was_read) == without_seconds(log)


def test_progress_goes_to_stderr_and_only_where_wanted(capsys):
    run(progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "12/12" in shown.err
    run()
    assert capsys.readouterr() == ("", "")


# Interruptions


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, undisturbed):
    """kill -9, four times at most, each at a moment drawn at random after the process has begun to train."""
    out, rng, kills = tmp_path / "out", random.Random(0), 0
    for _ in range(30):
        process = child("slowly", str(out))
        process.stdout.readline()  # its first step
        try:
            process.wait(rng.uniform(0, 0.25) if kills < 4 else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        finally:
            process.stdout.close()
    assert kills >= 2
    assert_same(out, run(out), undisturbed)


@pytest.mark.parametrize("place", range(0, 17, 2))
@pytest.mark.parametrize("half", [False, True])
def test_stopped_at_any_write_it_ends_with_the_same_bits(place, half, tmp_path, undisturbed, monkeypatch):
    """The process ends before, or in the middle of, its n-th write: log, model and checkpoint are never out of step."""
    out, writes = tmp_path / "out", 0

    def crash(path: Path, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes > place:
            if half:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(path.name + ".7.part").write_bytes(content[: len(content) // 2])
            raise MemoryError
        files.write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write", crash)
        patch.setattr(checkpoint, "write", crash)
        with pytest.raises(MemoryError):
            run(out)
    assert_same(out, run(out), undisturbed)
    assert not list(out.glob("*.part"))


def test_ctrl_c_is_heard_after_the_step_and_nothing_is_lost(tmp_path, undisturbed, capsys):
    out, usual = tmp_path / "out", signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it

    def interrupted(step: int) -> Batch:
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return STREAM(step)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 5: the same command goes on from there"):
        run(out, stream=interrupted)
    assert signal.getsignal(signal.SIGINT) is usual
    steps = []
    log = run(out, stream=lambda step: steps.append(step) or STREAM(step), progress=True)
    assert steps[1:] == list(range(5, 12))  # the first batch is drawn to know the data by
    assert "going on after step 5" in capsys.readouterr().err
    assert_same(out, log, undisturbed)


def test_a_finished_run_is_shown_and_not_touched(tmp_path, capsys):
    first = run(tmp_path)
    before, seen = contents(tmp_path), []
    model = fresh()
    again = train(model, STREAM, CONFIG, mean_nll, tmp_path, watch=seen.append)
    assert again == first == seen
    assert contents(tmp_path) == before and "finished" in capsys.readouterr().err
    assert mean_nll(model.eval())["val_loss"] == first[-1]["val_loss"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": replace(CONFIG, learning_rate=0.02)}, "train.learning_rate is 0.01 there, 0.02 here"),
        ({"config": replace(CONFIG, seed=1)}, "train.seed is 0 there, 1 here"),
        ({"stream": sample(IDS, 8, 8, seed=1)}, "data is"),
        ({"data": "another text"}, "another text here"),
    ],
)
def test_another_run_is_refused_and_nothing_is_overwritten(change, message, tmp_path):
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=message):
        run(tmp_path, **change)
    assert contents(tmp_path) == before


def test_another_model_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(FileExistsError, match=r"model.n_layers is 2 there, 1 here"):
        train(fresh(replace(SHAPE, n_layers=1)), STREAM, CONFIG, mean_nll, tmp_path, progress=False)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis.txt.*choose a new folder"):
        run(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"steps": 0}, "steps=0"),
        ({"eval_every": 0}, "eval_every=0"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"clip": float("nan")}, "clip=nan"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"warmup": -5}, "warmup=-5"),
        ({"final": 7.0}, "final=7.0: must be 0 or more, 1 at most"),
        ({"betas": (0.9, 1.0)}, "betas="),
        ({"schedule": "cosin"}, "schedule='cosin': choose one of cosine, linear"),
        ({"dtype": "float8"}, "dtype='float8': choose one of float32"),
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
    ],
)
def test_a_config_says_what_is_wrong_with_it(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"steps": 1, "batch_size": 1} | fields)


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match="8 rows cannot be split into 3"):
        run(config=replace(CONFIG, accumulate=3))


def test_what_cannot_be_split_claims_no_folder(tmp_path):
    with pytest.raises(ValueError, match="3"):
        run(tmp_path / "o", replace(CONFIG, accumulate=3))
    assert not (tmp_path / "o").exists()
    run(tmp_path / "o")


def test_without_a_compiler_a_compiled_run_claims_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    with pytest.raises(ValueError, match=r"compile=True.*install one.*--no-compile"):
        run(tmp_path / "o", replace(CONFIG, compile=True))
    assert not (tmp_path / "o").exists()


def slowly(step: int) -> Batch:
    print(step, flush=True)
    time.sleep(0.03)
    return STREAM(step)


if __name__ == "__main__" and sys.argv[1] == "slowly":
    run(Path(sys.argv[2]), stream=slowly)
elif __name__ == "__main__":
    shape, config = replace(SHAPE, dropout=0.0), TrainConfig(3, 8, learning_rate=0.01, eval_every=1)
    for compiled in (False, True):
        print(json.dumps(train(fresh(shape), STREAM, replace(config, compile=compiled), mean_nll, progress=False)))
