"""evaluate against the program, and how it goes on."""

import json

import nibble
import pytest


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    nibble.train(settings, "nvfp4", out=folder)
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Rows of a task as its public data set has them."""
    folder = tmp_path_factory.mktemp("eval")
    rows = [
        {"goal": f"to quantise tensor {n}", "sol1": "round its codes", "sol2": f"count {n} scales", "label": n % 2}
        for n in range(12)
    ]
    (folder / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("The recipe says how each operand is quantised. " * 20)
    return folder


@pytest.mark.parametrize("recipe", [None, "nvfp4"])
def test_figures_equal_the_program_s(program, run, questions, tmp_path, recipe):
    chosen = ["--recipe", recipe] if recipe else []
    text = questions / "text.txt"
    program("eval", "--model", run, "--tasks", "piqa", "--text", text, "--data", questions, "--out", tmp_path, *chosen)
    seen = []
    ours = nibble.evaluate(
        run, ["piqa"], texts=[text], data=questions, recipe=recipe, on_progress=lambda *what: seen.append(what)
    )
    assert ours == json.loads((tmp_path / "results.json").read_text())
    assert 0 <= ours["results"]["piqa"]["acc,none"] <= 1
    assert ours["results"]["text"]["byte_perplexity,none"] > 1
    assert seen[-1][0] == seen[-1][1] and {task for _, _, task in seen} == {"piqa", "text"}


def test_an_exception_stops_it_and_the_same_call_goes_on(run, questions, tmp_path):
    whole = nibble.evaluate(run, ["piqa"], data=questions, batch=64)
    seen = []

    def after_one(done, total, task):
        seen.append(done)
        if len(seen) == 1:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough") as caught:
        nibble.evaluate(run, ["piqa"], data=questions, batch=64, out=tmp_path, on_progress=after_one)
    assert "the same call goes on" in caught.value.__notes__[0]
    assert not (tmp_path / "results.json").exists()
    assert nibble.evaluate(run, ["piqa"], data=questions, batch=64, out=tmp_path, on_progress=after_one) == whole
    assert seen[1] > seen[0]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"tasks": ["piqu"]}, "did you mean 'piqa'"),
        ({"tasks": []}, "name what to evaluate"),
        ({"limit": -1}, "-1"),
        ({"prefix": "pad"}, "must be eos, bos or auto"),
        ({"device": "gpu"}, "must be cpu, cuda or auto"),
        ({"model": "/nowhere"}, "/nowhere"),
        ({"seq": 65}, "takes 1 to 64"),
        ({"recipe": "bf17"}, "bf17"),
    ],
)
def test_a_mistake_is_a_sentence(run, questions, wrong, sentence):
    arguments = {"model": run, "tasks": ["piqa"], "data": questions, **wrong}
    with pytest.raises(nibble.UserError, match=sentence):
        nibble.evaluate(**arguments)
