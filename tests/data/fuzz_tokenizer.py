#!/usr/bin/env python3
"""Holds `nibble data prepare` with a tokenizer.json against Python's `tokenizers`, token by token, on texts and on random
strings.

    python3.11 -m venv /tmp/tokenizers && /tmp/tokenizers/bin/pip install tokenizers
    /tmp/tokenizers/bin/python tests/data/fuzz_tokenizer.py tokenizer.json [--text FILE...] [--random N]

Random strings hold every assigned character, combining marks, blanks and line ends of all kinds, control characters,
contractions, numbers, added tokens and their like. Characters younger than Unicode 14, which PCRE2 10.42 takes for
unassigned, are left out: by the data of Python 3.11, or, with another Python, by those of Unicode 3.2."""

import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Regex, Tokenizer, pre_tokenizers

SPACES = [
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\u180e",
    "\u200b",
    "\x0b",
    "\x0c",
    "\x85",
    "\x1c",
    "\ufeff",
    " \n ",
    "\n \n",
]
WORDS = [
    "the",
    "of",
    "I'm",
    "we'll",
    "you've",
    "they're",
    "he'd",
    "it's",
    "don't",
    "'S",
    "'Ll",
    "'\u017f",
    "\u212a",
    "'",
    "123",
    "4567",
    "3.14",
    "2026-11-23",
    "http://a.b/c?d=e",
    "<|endoftext",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "\u2581",
    "\u2581\u2581",
]
PAGE_CHARACTERS = 3000


def characters():
    """All code points by general category, without those that only `tokenizers` knows."""
    database = unicodedata if unicodedata.unidata_version == "14.0.0" else unicodedata.ucd_3_2_0
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    assigned = pre_tokenizers.Split(Regex(r"\p{Cn}"), "removed").pre_tokenize_str(everything)
    known = set("".join(part for part, _ in assigned))
    by_category = {}
    for c in everything:
        if database.category(c) != "Cn" or c not in known:
            by_category.setdefault(database.category(c), []).append(c)
    return by_category


def random_text(r, by_category, added):
    categories = sorted(by_category)

    def letters(first, last, most):
        return "".join(chr(r.randrange(first, last)) for _ in range(r.randrange(1, most)))

    parts = [
        lambda: r.choice(WORDS),
        lambda: r.choice(added),
        lambda: r.choice(SPACES) * r.choice([1, 1, 1, 2, 3, 7]),
        lambda: "".join(r.choice(by_category[r.choice(categories)]) for _ in range(r.randrange(1, 5))),
        lambda: r.choice("abcdefg\u00e9\u00fc\u00df\u00f1")
        + "".join(r.choice(by_category["Mn"]) for _ in range(r.randrange(4))),
        lambda: letters(0xAC00, 0xD7A4, 3) + letters(0x1100, 0x1200, 3),
        lambda: letters(0x4E00, 0xA000, 4),
        lambda: letters(0x1F300, 0x1F700, 2) + r.choice(["", "\u200d", "\ufe0f", "\U0001f3fd"]),
        lambda: letters(0x600, 0x700, 6),
        lambda: letters(0, 128, 12),
    ]
    return "".join(r.choice(parts)() + r.choice(["", " "]) for _ in range(r.randrange(1, 40)))


def prepared(nibble, tokenizer, documents):
    """The tokens of all documents, each with the end, and that end."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with open(folder / "texts.jsonl", "w", encoding="ascii") as out:
            for document in documents:
                out.write(json.dumps({"text": document}) + "\n")
        subprocess.run(
            [
                nibble,
                "data",
                "prepare",
                "--tokenizer",
                tokenizer,
                "--input",
                folder / "texts.jsonl",
                "--out",
                folder / "set",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        tokens = []
        for shard in sorted((folder / "set").glob("train-*.bin")):
            data = shard.read_bytes()
            vocabulary, count = struct.unpack_from("<QQ", data, 16)
            tokens += struct.unpack_from(f"<{count}{'H' if vocabulary <= 65536 else 'I'}", data, 64)
        return tokens, json.loads((folder / "set/tokenizer_config.json").read_text())["eos_token"]


def compare(nibble, path, reference, documents, what):
    documents = [d for d in documents if d.strip(" \t\n\v\f\r")]  # nibble leaves out blank ones
    tokens, end = prepared(nibble, path, documents)
    end_id, at, wrong = reference.token_to_id(end), 0, []
    for document in documents:
        expected = reference.encode(document, add_special_tokens=False).ids + [end_id]
        if tokens[at : at + len(expected)] != expected:
            wrong.append((document, expected[:-1], tokens[at : at + len(expected)]))
            break  # what follows is shifted
        at += len(expected)
    if not wrong and at != len(tokens):
        sys.exit(f"{what}: {len(tokens)} tokens where {at} are expected")
    size = sum(len(d.encode()) for d in documents)
    print(
        f"{path}, {what}: {size / 1e6:.1f} MB, {len(documents)} documents, {at} tokens, "
        + ("DIFFERENT" if wrong else "equal")
    )
    for document, expected, got in wrong:
        sys.exit(f"text {document!r}\nexpected {expected}\ngot      {got}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", nargs="+")
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--text", nargs="*", default=[], help="files of UTF-8")
    parser.add_argument("--random", type=int, default=20000, help="number of random strings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    by_category = characters()
    for path in options.tokenizer:
        reference = Tokenizer.from_file(path)
        reference.no_truncation()
        reference.no_padding()
        for text in options.text:
            whole = pathlib.Path(text).read_text(encoding="utf-8", errors="replace")
            pages = [whole[i : i + PAGE_CHARACTERS] for i in range(0, len(whole), PAGE_CHARACTERS)]
            compare(options.nibble, path, reference, pages, text)
        added = [token.content for token in reference.get_added_tokens_decoder().values()] or [" "]
        r = random.Random(options.seed)
        strings = [random_text(r, by_category, added) for _ in range(options.random)]
        compare(options.nibble, path, reference, strings, f"random strings of seed {options.seed}")


if __name__ == "__main__":
    main()
