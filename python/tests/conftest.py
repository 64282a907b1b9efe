"""What the tests share: the program beside the module, and a model small enough to train in a second."""

import os
import pathlib
import subprocess

import pytest

SOURCE = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def program():
    """Runs the program `nibble` that NIBBLE_PROGRAM names; returns its standard output."""
    path = os.environ.get("NIBBLE_PROGRAM")
    if not path:
        pytest.skip("NIBBLE_PROGRAM names no program to compare with")

    def run(*arguments, code=0):
        done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, cwd=SOURCE)
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def data(program, tmp_path_factory):
    """Tokens of nibble's own documentation, with their tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    text, valid = folder / "text.txt", folder / "valid.txt"
    pages = [p.read_text() for p in sorted((SOURCE / "docs").glob("*.md"))]
    text.write_text("\n\n".join(pages[:-1]))
    valid.write_text(pages[-1])
    tokenizer = folder / "tokenizer.model"
    program("tokenizer", "train", "--input", text, "--vocab", 512, "--out", tokenizer)
    program("data", "prepare", "--tokenizer", tokenizer, "--input", text, "--valid", valid, "--out", folder / "tokens")
    return folder / "tokens"


@pytest.fixture(scope="session")
def settings(data):
    """A configuration as a dict; the program gets the same as a file."""
    return {
        "model": {"name": "small", "layers": 2, "width": 128, "heads": 2, "ffn": 128, "vocab": 512, "seq": 64},
        "data": {"dir": str(data)},
        "train": {"steps": 10, "batch": 4, "micro_batch": 2, "seed": 3},
        "optimizer": {"lr": 0.01},
        "log": {"validate_every": 5, "validate_sequences": 8, "quality_every": 4, "checkpoint_every": 0},
    }


@pytest.fixture(scope="session")
def settings_file(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.toml"
    lines = []
    for table, keys in settings.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {repr(value)}" for key, value in keys.items()]  # repr of these is TOML
    path.write_text("\n".join(lines) + "\n")
    return path
