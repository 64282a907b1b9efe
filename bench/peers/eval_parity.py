"""Holds `nibble eval` to lm-evaluation-harness: the same random Llama, the same items, log-likelihood by log-likelihood.

It makes a SentencePiece model from the tasks' own text and a small random Llama, writes the Llama both as a Hugging Face
folder and as a nibble run, evaluates the harness's own task definitions on local JSON Lines files with `HFLM` in float32,
evaluates the same with the program, and prints a Markdown table.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers lm-eval sentencepiece safetensors xxhash
    /tmp/venv/bin/python bench/peers/eval_parity.py --nibble build/nibble --data data/eval --work /tmp/parity --limit 50
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import datasets
import sentencepiece
import torch
import xxhash
from safetensors.torch import load_file, save_file

# The harness's task -> the file that stands in for its data set.
TASKS = {
    "arc_easy": "arc_easy", "arc_challenge": "arc_challenge", "boolq": "boolq", "hellaswag": "hellaswag",
    "logiqa": "logiqa", "piqa": "piqa", "sciq": "sciq", "openbookqa": "openbookqa",
    "lambada_openai": "lambada_openai", "lambada_standard": "lambada_standard", "winogrande": "winogrande",
    "commonsense_qa": "commonsense_qa", "social_iqa": "social_iqa", "copa": "copa", "wikitext": "wikitext2",
}
MODELS = {
    "tiny": dict(layers=4, width=128, heads=4, kv_heads=2, ffn=256, vocab=4000, seq=512),
    "small": dict(layers=12, width=384, heads=6, kv_heads=3, ffn=1024, vocab=4000, seq=1024),
}


def make_tokenizer(data, work, vocab):
    """A Llama-style model: BPE, byte fallback, no normalisation, newlines as bytes."""
    text = work / "tokenizer.txt"
    with open(text, "w") as out:
        for file in sorted(set(TASKS.values())):
            for line in open(data / f"{file}.jsonl"):
                out.write(line.replace("\\n", "\n")[:4000])
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(work / "tokenizer"), model_type="bpe", vocab_size=vocab, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=2, minloglevel=2,
        input_sentence_size=30000, shuffle_input_sentence=True)
    text.unlink()


def make_model(work, shape):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=shape["vocab"], hidden_size=shape["width"], intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=shape["seq"], rms_norm_eps=1e-5, tie_word_embeddings=False, initializer_range=0.06)
    model = LlamaForCausalLM(config).float()
    model.save_pretrained(work / "hf", safe_serialization=True)
    return model


def write_run(work, shape):
    """The layout that src/nibble/train/checkpoint.h describes."""
    folder = work / "run" / "checkpoints" / "step-00000000"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(load_file(work / "hf" / "model.safetensors"), folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"empty": torch.zeros(1)}, folder / "optimizer.safetensors")
    data = work / "run" / "data"
    data.mkdir(exist_ok=True)
    (work / "tokenizer.model").replace(data / "tokenizer.model")
    model = "\n".join(f"{key} = {value}" for key, value in shape.items())
    state = {
        "format": 1, "step": 0, "tokens": 0, "position": {"epoch": 0, "index": 0},
        "config": f'[model]\n{model}\nnorm_eps = 1e-5\n[data]\ndir = "{data}"\n[train]\nsteps = 1\nbatch = 1\n',
        "recipe": "", "data_fingerprint": "",
        "checksums": {name: xxhash.xxh3_64_hexdigest((folder / name).read_bytes())
                      for name in ("model.safetensors", "optimizer.safetensors")},
    }
    (folder / "state.json").write_text(json.dumps(state))
    return data / "tokenizer.model"


def plain_tokenizer(path):
    """What HFLM asks of a tokenizer, by SentencePiece itself: no second implementation stands between the two."""
    from transformers import PreTrainedTokenizer
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    class PlainTokenizer(PreTrainedTokenizer):
        vocab_size = property(lambda self: model.get_piece_size())

        def get_vocab(self):
            return {model.id_to_piece(i): i for i in range(model.get_piece_size())}

        def _convert_token_to_id(self, token):
            return model.piece_to_id(token)

        def _convert_id_to_token(self, index):
            return model.id_to_piece(index)

        def encode(self, text, add_special_tokens=False, **_):
            return ([model.bos_id()] if add_special_tokens else []) + model.encode(text)

        def decode(self, ids, **_):
            return model.id_to_piece(ids) if isinstance(ids, int) else model.decode(ids)

    return PlainTokenizer(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def harness(work, data, tokenizer, tasks, limit, batch, bos):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import LlamaForCausalLM

    wanted = {}
    manager = TaskManager()

    def local(path, name=None, **_):
        file = wanted[(path, name)]
        rows = datasets.Dataset.from_list([json.loads(line) for line in open(data / f"{file}.jsonl")])
        return datasets.DatasetDict({split: rows for split in ("train", "validation", "test")})

    import yaml
    folder = pathlib.Path(lm_eval.__file__).parent / "tasks"
    places = {"boolq": "super_glue/boolq/default", "copa": "super_glue/copa/default", "winogrande": "winogrande/default",
              "commonsense_qa": "commonsense_qa/default", "social_iqa": "siqa/siqa", "arc_easy": "arc/arc_easy",
              "arc_challenge": "arc/arc_challenge", "lambada_openai": "lambada/lambada_openai",
              "lambada_standard": "lambada/lambada_standard"}
    for task in tasks:
        yaml.SafeLoader.add_constructor("!function", lambda loader, node: node.value)
        file = folder / (places.get(task, f"{task}/{task}") + ".yaml")
        config = yaml.safe_load(open(file))
        if "include" in config:
            config = {**yaml.safe_load(open(file.parent / config["include"])), **config}
        wanted[(config["dataset_path"], config.get("dataset_name"))] = TASKS[task]
    datasets.load_dataset = local

    model = LlamaForCausalLM.from_pretrained(work / "hf", dtype=torch.float32, attn_implementation="sdpa")
    lm = HFLM(pretrained=model, tokenizer=plain_tokenizer(tokenizer), batch_size=batch, add_bos_token=bos,
              prefix_token_id=1 if bos else 2, device="cpu")
    spent = [0.0, 0.0]

    def timed(method):
        def call(*arguments, **named):
            begin = (time.time(), time.process_time())
            result = method(*arguments, **named)
            spent[0] += time.time() - begin[0]
            spent[1] += time.process_time() - begin[1]
            return result
        return call

    # Only the scoring: the harness also prepares whole data sets, and resamples in Python.
    lm.loglikelihood, lm.loglikelihood_rolling = timed(lm.loglikelihood), timed(lm.loglikelihood_rolling)
    out = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), limit=limit, log_samples=True, bootstrap_iters=100000,
                                  num_fewshot=0, task_manager=manager)
    return out, spent


def ours(nibble, work, data, tasks, limit, bos):
    out = work / "nibble"
    subprocess.run(["rm", "-rf", out], check=True)
    command = [nibble, "eval", "--checkpoint", work / "run", "--tasks", ",".join(tasks), "--data", data, "--limit",
               str(limit), "--out", out, "--samples"]
    command += ["--add-bos", "--prefix", "bos"] if bos else []
    begin = time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = [time.time() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]
    samples = {task: [json.loads(line) for line in open(out / f"samples_{task}.jsonl")] for task in tasks}
    return json.load(open(out / "results.json")), samples, spent


def likelihoods(sample):
    return [response[0] if isinstance(response, (list, tuple)) else response for response in sample["filtered_resps"]]


def compare(theirs, results, samples, tasks):
    rows, worst = [], 0.0
    for task in tasks:
        peer = {sample["doc_id"]: sample for sample in theirs["samples"][task]}
        difference, per_token, prompts = 0.0, 0.0, True
        for sample in samples[task]:
            other = peer[sample["doc_id"]]
            for a, b in zip(likelihoods(sample), likelihoods(other), strict=True):
                difference = max(difference, abs(a - b))
                per_token = max(per_token, abs(a - b) / abs(b))
            for name, argument in sample["arguments"].items():
                index = int(name.rsplit("_", 1)[1])
                prompts &= tuple(argument.values()) == tuple(other["arguments"][index]
                                                             if isinstance(other["arguments"], list)
                                                             else other["arguments"][name].values())
        worst = max(worst, difference)
        for key, value in results["results"][task].items():
            if not key.endswith(",none") or "_stderr" in key:
                continue
            metric = key.split(",")[0]
            error = f"{metric}_stderr,none"
            reference = theirs["results"][task]
            shown = [reference[key], value, reference[error], results["results"][task][error]]
            shown = [f"{number:.6g}" if isinstance(number, float) else str(number) for number in shown]
            rows.append([task, str(len(samples[task])), "same" if prompts else "DIFFER", f"{difference:.1e}",
                         f"{per_token:.0e}", metric, *shown])
    head = ["task", "items", "prompts", "largest difference of a log-likelihood", "relative", "metric", "lm-eval",
            "nibble", "stderr lm-eval", "stderr nibble"]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines), worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--batch", type=int, default=16, help="of the harness, sequences")
    parser.add_argument("--bos", action="store_true", help="begin every text with <s>, and take it as the prefix")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tasks = options.tasks.split(",")
    options.work.mkdir(parents=True, exist_ok=True)
    shape = MODELS[options.model]
    if not (options.work / "run").exists():
        make_tokenizer(options.data, options.work, shape["vocab"])
        make_model(options.work, shape)
        write_run(options.work, shape)
    tokenizer = options.work / "run" / "data" / "tokenizer.model"
    results, samples, spent = ours(options.nibble, options.work, options.data, tasks, options.limit, options.bos)
    theirs, peer_spent = harness(options.work, options.data, tokenizer, tasks, options.limit, options.batch,
                                   options.bos)
    table, worst = compare(theirs, results, samples, tasks)
    items = sum(len(samples[task]) for task in tasks)
    print(table)
    print(f"\nLargest difference {worst:.2e} over {items} items, {options.threads} threads. Wall clock and CPU time:")
    for name, (wall, cpu) in (("lm-eval, scoring alone", peer_spent), ("nibble, all included", spent)):
        print(f"  {name}: {wall:.1f} s, {cpu:.1f} CPU s, {items / cpu:.1f} items per CPU second")


if __name__ == "__main__":
    main()
