#!/usr/bin/env python3
"""Writes the files that llm.c's CPU trainer (train_gpt2.c) opens, with random contents: no download, standard library only.

    make_llmc_inputs.py DIR [--layers 12 --heads 12 --width 768 --positions 1024 --vocab 50257 --padded-vocab 50304]

DIR/gpt2_124M.bin, a checkpoint of version 3: 256 int32 (magic 20240326, version, positions, vocabulary, layers, heads,
width, padded vocabulary), then the float32 tensors in the order below.
DIR/dev/data/tinyshakespeare/tiny_shakespeare_{train,val}.bin: 256 int32 (magic 20240520, version 1, count), then uint16
tokens.
"""
import argparse
import os
import random
import struct
from array import array


class Normal:
    """Weights from N(0, 0.02), read from a random place of a fixed table: a trainer's speed needs no better ones."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.table = array("f", (self.random.gauss(0.0, 0.02) for _ in range(1 << 18)))

    def write(self, file, count):
        while count > 0:
            start = self.random.randrange(len(self.table) // 2)
            piece = self.table[start:start + count]
            piece.tofile(file)
            count -= len(piece)


def header(*fields):
    return struct.pack("<256i", *fields, *([0] * (256 - len(fields))))


def write_checkpoint(path, a):
    normal = Normal(seed=1)
    layers, width = a.layers, a.width
    with open(path, "wb") as f:
        f.write(header(20240326, 3, a.positions, a.vocab, layers, a.heads, width, a.padded_vocab))

        def constant(value, count):
            array("f", [value] * count).tofile(f)

        normal.write(f, a.vocab * width)  # token embedding, and zeros for the padding
        constant(0.0, (a.padded_vocab - a.vocab) * width)
        normal.write(f, a.positions * width)
        for rows, columns in ((None, 1), (3, 1), (1, 1), (None, 1), (4, 1), (1, 4)):
            if rows is None:  # layer norm: gain, bias
                constant(1.0, layers * width)
                constant(0.0, layers * width)
            else:  # linear of rows x columns widths: weight, bias
                normal.write(f, layers * rows * width * columns * width)
                constant(0.0, layers * rows * width)
        constant(1.0, width)
        constant(0.0, width)


def write_tokens(path, vocab, count, seed):
    # A Zipf-like distribution, as words have.
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.write(header(20240520, 1, count))
        array("H", (min(vocab - 1, int(rng.paretovariate(1.0)) - 1) for _ in range(count))).tofile(f)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--padded-vocab", type=int, default=50304)
    parser.add_argument("--tokens", type=int, default=70000)
    args = parser.parse_args()
    data = os.path.join(args.dir, "dev", "data", "tinyshakespeare")
    os.makedirs(data, exist_ok=True)
    write_checkpoint(os.path.join(args.dir, "gpt2_124M.bin"), args)
    for seed, part in enumerate(("train", "val")):
        write_tokens(os.path.join(data, f"tiny_shakespeare_{part}.bin"), args.vocab, args.tokens, seed)


if __name__ == "__main__":
    main()
