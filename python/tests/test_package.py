"""The package as it is handed out: names, types, data files, and the example of the README."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import sysconfig

import nibble
import pytest
from conftest import SOURCE

PACKAGE = pathlib.Path(nibble.__file__).parent


def test_public_names_are_there_and_documented():
    for name in nibble.__all__:
        assert hasattr(nibble, name)
        if name != "__version__":
            assert getattr(nibble, name).__doc__, name
    assert nibble.__version__ == re.search(r"project\(nibble VERSION ([\d.]+)", (SOURCE / "CMakeLists.txt").read_text())[1]


def test_an_installed_package_has_the_version_of_the_library():
    try:
        version = importlib.metadata.version("nibble")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, but in the build tree")
    assert version == nibble.__version__


def test_data_files_lie_in_the_package():
    for folder in ("recipes", "models", "configs", "devices", "laws", "tasks"):
        ours = {p.relative_to(PACKAGE / "share/nibble") for p in (PACKAGE / "share/nibble" / folder).rglob("*.*")}
        theirs = {p.relative_to(SOURCE) for p in (SOURCE / folder).rglob("*.*")}
        assert ours == theirs and ours


def test_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "quartet2" in nibble.recipes()
    assert nibble.recipe("quartet2").name == "quartet2"


TYPED = '''
import numpy as np
import nibble

x = np.zeros((4, 16), dtype=np.float32)
spec: nibble.QuantSpec = nibble.recipe("quartet2").fprop.x
q = nibble.quantize(x, nibble.QuantSpec(element="e2m1", granularity=16), seed=1)
bits: float = q.spec.stored_bits(16)
shape: tuple[int, int] = q.shape

def listen(step: nibble.Step) -> None:
    loss: float | None = step.val_loss

result = nibble.train("demo", "quartet2", out="runs/typed", set={"train.steps": 1}, on_step=listen)
value: float = result["val_loss"]
'''

WRONG = {
    'nibble.quantize(x, "nvfp4")': "arg-type",
    "q.code": "attr-defined",
    'nibble.train("demo")': "call-arg",
    "nibble.QuantSpec(elemnt=1)": "call-arg",
    "nibble.recipe('nvfp4').fprop.dy": "attr-defined",
}


def test_types_are_strict_and_tell_right_from_wrong(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "typed.py").write_text(TYPED + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "-m", "typed", "-p", "nibble"]
    # mypy finds an installed package itself, and refuses to be sent where it is installed.
    installed = PACKAGE.parent == pathlib.Path(sysconfig.get_path("platlib"))
    env = {} if installed else {"MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    found = re.findall(r"^(\S+?):(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    first = TYPED.count("\n") + 1
    wanted = [("typed.py", str(line), kind) for line, kind in enumerate(WRONG.values(), start=first)]
    assert found == wanted, done.stdout + done.stderr
    assert (PACKAGE / "py.typed").exists()


def test_the_example_of_the_readme_runs(data, tmp_path, monkeypatch, capsys):
    example = re.search(r"```python\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)[1]
    assert example.count('"train.steps": 100') == 1
    (tmp_path / "data" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "tokens").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace('"train.steps": 100', '"train.steps": 2, "log.validate_sequences": 2'), "README.md", "exec"), {})
    assert capsys.readouterr().out.count("\n") >= 4
