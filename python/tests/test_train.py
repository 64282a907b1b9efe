"""train, compare and read_run against the program, and how they are stopped."""

import json
import signal
import subprocess
import sys
import time

import nibble
import numpy as np
import pytest


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_equals_the_program_s(program, settings, settings_file, tmp_path):
    program("train", "--config", settings_file, "--recipe", "quartet2", "--out", tmp_path / "theirs")
    steps, sentences, memory = [], [], []
    result = nibble.train(
        settings, "quartet2", out=tmp_path / "ours", on_step=steps.append, on_message=sentences.append, on_memory=memory.append
    )
    assert losses(tmp_path / "ours") == losses(tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs" / "result.json").read_text())
    for key in ("steps", "tokens", "train_loss", "val_loss", "snr_db", "memory_peak_bytes"):
        assert result[key] == theirs[key], key
    assert [s.loss for s in steps] == losses(tmp_path / "ours")
    assert [s.step for s in steps] == list(range(1, 11)) and steps[0].steps == 10
    assert [s.val_loss is not None for s in steps] == [n in (5, 10) for n in range(1, 11)]
    assert "memory" in memory[0]


def test_settings_come_from_a_file_a_dict_or_one_by_one(settings, settings_file, tmp_path):
    a = nibble.train(settings_file, "bf16", out=tmp_path / "a", set={"train.steps": 2, "optimizer": {"lr": np.float32(0.5)}})
    b = nibble.train({**settings, "recipe": "bf16"}, out=tmp_path / "b", set={"train": {"steps": 2}, "optimizer.lr": 0.5})
    recipe = nibble.recipe("bf16")
    c = nibble.train(str(settings_file), recipe, out=str(tmp_path / "c"), set={"train.steps": np.int64(2), "optimizer.lr": 0.5})
    assert a["steps"] == 2
    assert a["train_loss"] == b["train_loss"] == c["train_loss"]


def test_a_recipe_of_a_text_trains(settings, tmp_path):
    mine = nibble.parse_recipe('name = "mine"\n[fprop]\nx = { element = "e2m1" }\nw = { element = "e2m1" }\n')
    nibble.train(settings, mine, out=tmp_path, set={"train.steps": 2})
    assert nibble.read_run(tmp_path)["info"]["recipe"] == "mine"


def test_an_exception_stops_the_run_and_resume_ends_with_the_same_bits(settings, tmp_path):
    settings = {**settings, "train": {**settings["train"], "steps": 6}}
    whole = nibble.train(settings, "tetrajet2", out=tmp_path / "whole")

    class Enough(Exception):
        pass

    def until_four(step):
        if step.step == 4:
            raise Enough

    with pytest.raises(Enough) as caught:
        nibble.train(settings, "tetrajet2", out=tmp_path / "cut", on_step=until_four)
    assert "resume=True" in caught.value.__notes__[0]
    assert len(losses(tmp_path / "cut")) == 4
    assert nibble.read_run(tmp_path / "cut")["result"] is None
    with pytest.raises(nibble.UserError, match="holds a run already"):
        nibble.train(settings, "tetrajet2", out=tmp_path / "cut")
    result = nibble.train(settings, "tetrajet2", out=tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert result["val_loss"] == whole["val_loss"]


LONG_RUN = """
import json, sys, nibble
settings = json.loads(sys.argv[1])
try:
    nibble.train(settings, "nvfp4", out=sys.argv[2], on_step=lambda step: print(step.step, flush=True))
except KeyboardInterrupt as stopped:
    print("stopped:", stopped.__notes__[0])
    sys.exit(130)
"""


@pytest.mark.parametrize("listening", [True, False])
def test_ctrl_c_saves_and_raises_keyboard_interrupt(settings, tmp_path, listening):
    long = {**settings, "train": {**settings["train"], "steps": 100000}}
    code = LONG_RUN if listening else LONG_RUN.replace(", on_step=lambda step: print(step.step, flush=True)", "")
    child = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(long), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        # What runs in the background may have been started with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.time() + 300
        while time.time() < deadline and not ((tmp_path / "metrics.jsonl").exists() and losses(tmp_path)):
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=300)
    finally:
        child.kill()
    assert child.returncode == 130, out
    assert "resume=True" in out
    steps = len(losses(tmp_path))
    assert 0 < steps < 100000
    assert (tmp_path / "checkpoints" / f"step-{steps:08}").is_dir()


def test_other_threads_run_meanwhile(settings, tmp_path):
    import threading

    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.perf_counter()
    nibble.train(settings, "bf16", out=tmp_path, set={"train.steps": 5})
    took = time.perf_counter() - began
    done.set()
    thread.join()
    gaps = np.diff([began, *ticks])
    assert gaps.max() < took / 2


def test_a_comparison_equals_the_program_s(program, settings, settings_file, tmp_path):
    theirs = tmp_path / "theirs"
    program(
        *("compare", "--config", settings_file, "--set", "train.steps=3"),
        *("--recipes", "bf16,nvfp4", "--baseline-seeds", 1, "--out", theirs),
    )
    short = {"train.steps": 3}
    runs = []
    ours = nibble.compare(
        settings, ["bf16", "nvfp4"], out=tmp_path / "ours", set=short, baseline_seeds=1, on_run=lambda *run: runs.append(run)
    )
    assert runs == [("bf16-s3", 0, 2), ("nvfp4-s3", 1, 2)]
    theirs = json.loads((theirs / "compare.json").read_text())
    for a, b in zip(ours["runs"], theirs["runs"], strict=True):
        assert (a["name"], a["val_loss"], a["gap_percent"]) == (b["name"], b["val_loss"], b["gap_percent"])
    # A complete comparison is read, not run again.
    steps = []
    again = nibble.compare(
        settings, ["bf16", "nvfp4"], out=tmp_path / "ours", set=short, baseline_seeds=1, on_step=steps.append
    )
    assert again == ours
    assert steps == []


def test_a_stopped_comparison_goes_on(settings, tmp_path):
    def second(run, index, count):
        if index == 1:
            raise RuntimeError("enough")

    what = {"recipes": ["bf16", "nvfp4"], "out": tmp_path, "set": {"train.steps": 2}, "baseline_seeds": 1}
    with pytest.raises(RuntimeError, match="enough"):
        nibble.compare(settings, **what, on_run=second)
    assert nibble.read_run(tmp_path / "bf16-s3")["result"] is not None
    assert len(nibble.compare(settings, **what)["runs"]) == 2


def test_read_run_gives_columns(settings, tmp_path):
    result = nibble.train(settings, "quartet2", out=tmp_path)
    run = nibble.read_run(tmp_path)
    assert run["result"] == result
    assert run["config"]["train"]["steps"] == 10 and run["config"]["model"]["width"] == 128
    metrics = run["metrics"]
    assert metrics["step"].dtype == np.int64 and metrics["step"].tolist() == list(range(1, 11))
    assert metrics["tokens"].tolist() == [4 * 64 * n for n in range(1, 11)]
    assert metrics["loss"].tolist() == losses(tmp_path)
    assert metrics["lr"].max() == pytest.approx(0.01)
    assert run["validation"]["step"].tolist() == [5, 10]
    assert run["validation"]["loss"][-1] == result["val_loss"]
    quality = run["quality"]
    assert quality["step"].tolist() == [1, 4, 8]
    snr = quality["operands"]["fprop.x"]["snr_db"]
    assert snr.shape == (3,) and ((snr > 10) & (snr < 30)).all()
    assert ((quality["products"]["fprop"]["cosine"] > 0.9)).all()
    layer = quality["layers"]["layers.0.mlp.down"]
    assert layer["operands"]["wgrad.dy"]["snr_db"].shape == (3,)
    assert run["stages"] == [] and run["alarms"] == []


MISTAKES = [
    ({"train.steps": 0}, "train.steps"),
    ({"train.stepps": 5}, "did you mean 'steps'"),
    ({"model.heads": 3}, "do not divide the width"),
    ({"train.steps": None}, "train.steps is None"),
    ({"data.dir": "/nowhere"}, "/nowhere"),
]


@pytest.mark.parametrize(("wrong", "sentence"), MISTAKES)
def test_a_wrong_setting_is_a_sentence(settings, tmp_path, wrong, sentence):
    with pytest.raises(nibble.UserError, match=sentence):
        nibble.train(settings, "bf16", out=tmp_path / "run", set=wrong)


def test_configurations_and_models_are_found_by_name_anywhere(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(nibble.UserError, match="there is no configuration 'dem'"):
        nibble.train("dem", out="run")
    # The model of configs/demo.toml is read, then the data is missing.
    with pytest.raises(nibble.UserError, match="/nowhere"):
        nibble.train("demo", "bf16", out="run", set={"data.dir": "/nowhere"})


def test_an_alarm_that_is_to_stop_the_run_raises_its_sentence(settings, tmp_path):
    watched = {"alarms.underflow": 1e-6, "alarms.stop": True, "alarms.stop_kinds": ["underflow"]}
    with pytest.raises(nibble.AlarmStop, match="alarm at step 1: ") as caught:
        nibble.train(settings, "fp4-direct", out=tmp_path, set=watched)
    assert isinstance(caught.value, RuntimeError)
    assert nibble.read_run(tmp_path)["alarms"][0][0] == 1
    assert nibble.train(settings, "fp4-direct", out=tmp_path, set=watched, resume=True)["steps"] == 10
