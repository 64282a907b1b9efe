#!/usr/bin/env python3
"""Speed of Hugging Face's `tokenizers` and of nibble with the same tokenizer.json, text and number of threads, in turn.

    python3 -m venv /tmp/tokenizers && /tmp/tokenizers/bin/pip install tokenizers
    /tmp/tokenizers/bin/python bench/peers/tokenizers_speed.py tokenizer.json --text corpus.txt [--threads 1 2]

Documents end with <|endoftext|> lines. Both encode all of them from memory, each round with empty caches; loading and
reading are not counted. `build/bench/nibble_bench` must be built (./run bench tokenizer). Prints medians in MB/s of UTF-8.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time


def peer(tokenizer, text):
    """In a process of its own, for the number of threads is read once; prints MB, seconds and processor seconds."""
    from tokenizers import Tokenizer

    documents = pathlib.Path(text).read_text(encoding="utf-8").split("<|endoftext|>\n")
    size = sum(len(d.encode()) for d in documents)
    reference = Tokenizer.from_file(tokenizer)
    wall, processor = time.perf_counter(), time.process_time()
    reference.encode_batch_fast(documents, add_special_tokens=False)
    print(size / 1e6, time.perf_counter() - wall, time.process_time() - processor)


def output(command, **variables):
    """What a program prints, run with these variables in its environment."""
    environment = dict(os.environ, **variables)
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def run_peer(tokenizer, text, threads):
    """MB/s of wall time and of processor time."""
    command = [sys.executable, __file__, "--peer", "--text", text, tokenizer]
    parallel = {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
    size, wall, processor = map(float, output(command, **parallel).split())
    return size / wall, size / processor


def run_nibble(bench, tokenizer, text, threads):
    command = [bench, f"--benchmark_filter=encode_bench/gpt2/{threads}/", "--benchmark_format=json"]
    names = {"NIBBLE_BENCH_TOKENIZER": tokenizer, "NIBBLE_BENCH_TEXT": text, "GOMP_SPINCOUNT": "10000"}
    result = json.loads(output(command, **names))["benchmarks"][0]
    rate = result["bytes_per_second"] / 1e6
    return rate, rate * result["real_time"] / result["cpu_time"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", nargs="+")
    parser.add_argument("--text", required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="among those of encode_bench: 1, 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bench", default="build/bench/nibble_bench")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return peer(options.tokenizer[0], options.text)
    print(
        "| tokenizer | threads | tokenizers, MB/s | nibble, MB/s | ratio | a processor second: tokenizers | nibble | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for tokenizer in options.tokenizer:
        for threads in options.threads:
            rounds = []
            for _ in range(options.rounds):
                rounds.append(
                    run_peer(tokenizer, options.text, threads)
                    + run_nibble(options.bench, tokenizer, options.text, threads)
                )
            wall, processor, our_wall, our_processor = map(statistics.median, zip(*rounds))
            print(
                f"| {tokenizer} | {threads} | {wall:.2f} | {our_wall:.1f} | {our_wall / wall:.1f} "
                f"| {processor:.2f} | {our_processor:.1f} | {our_processor / processor:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
