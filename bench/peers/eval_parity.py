"""Holds `nibble eval` to lm-evaluation-harness: the same model, the same items, log-likelihood by log-likelihood.

The model is a Hugging Face folder with its tokenizer, on which both run with their defaults, or a small random Llama
with a SentencePiece model of the tasks' own text, which the script makes. It evaluates the harness's own task definitions on
local JSON Lines files with `HFLM` in float32, evaluates the same with the program, and prints a Markdown table.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers lm-eval sentencepiece
    /tmp/venv/bin/python bench/peers/eval_parity.py --nibble build/nibble --data data/eval --work /tmp/parity --limit 50
    /tmp/venv/bin/python bench/peers/eval_parity.py --model smollm2-135m --nibble build/nibble --data data/eval ...

`--softmax float64` takes the harness's log-softmaxes in float64: PyTorch's in float32 are too high by some 1e-5 nats a
token of a large vocabulary. `--exact` has the harness score everything once more in float64 and says how far from that
each side is.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import datasets
import sentencepiece
import torch

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


def make_tokenizer(data, folder, vocab):
    """A Llama-style model: BPE, byte fallback, no normalisation, newlines as bytes."""
    text = folder / "tokenizer.txt"
    with open(text, "w") as out:
        for file in sorted(set(TASKS.values())):
            for line in open(data / f"{file}.jsonl"):
                out.write(line.replace("\\n", "\n")[:4000])
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=vocab, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=2, minloglevel=2,
        input_sentence_size=30000, shuffle_input_sentence=True)
    text.unlink()


def make_model(folder, shape):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=shape["vocab"], hidden_size=shape["width"], intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=shape["seq"], rms_norm_eps=1e-5, tie_word_embeddings=False, initializer_range=0.06)
    LlamaForCausalLM(config).float().save_pretrained(folder)


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


def widen_llama():
    """Everything in the model's own type: transformers takes norms and angles in float32 even in a float64 model."""
    from transformers.models.llama import modeling_llama as llama

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    @torch.no_grad()
    def angles(self, x, position_ids):
        if self.rope_type != "default":
            raise SystemExit(f"--exact knows plain rotary embeddings alone, and the model's are {self.rope_type}")
        head_dim = 2 * self.inv_freq.numel()
        pairs = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        turned = position_ids[..., None].double() * float(self.config.rope_parameters["rope_theta"]) ** -pairs
        both = torch.cat((turned, turned), dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)

    llama.LlamaRMSNorm.forward, llama.LlamaRotaryEmbedding.forward = norm, angles


def harness(folder, data, tasks, options, dtype=torch.float32):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = {}
    manager = TaskManager()

    def local(path, name=None, **_):
        file = wanted[(path, name)]
        rows = datasets.Dataset.from_list([json.loads(line) for line in open(data / f"{file}.jsonl")])
        return datasets.DatasetDict({split: rows for split in ("train", "validation", "test")})

    import yaml
    definitions = pathlib.Path(lm_eval.__file__).parent / "tasks"
    places = {"boolq": "super_glue/boolq/default", "copa": "super_glue/copa/default", "winogrande": "winogrande/default",
              "commonsense_qa": "commonsense_qa/default", "social_iqa": "siqa/siqa", "arc_easy": "arc/arc_easy",
              "arc_challenge": "arc/arc_challenge", "lambada_openai": "lambada/lambada_openai",
              "lambada_standard": "lambada/lambada_standard"}
    for task in tasks:
        yaml.SafeLoader.add_constructor("!function", lambda loader, node: node.value)
        file = definitions / (places.get(task, f"{task}/{task}") + ".yaml")
        config = yaml.safe_load(open(file))
        if "include" in config:
            config = {**yaml.safe_load(open(file.parent / config["include"])), **config}
        wanted[(config["dataset_path"], config.get("dataset_name"))] = TASKS[task]
    datasets.load_dataset = local

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(dtype)
    if options.model:
        reading = dict(tokenizer=AutoTokenizer.from_pretrained(folder))
    else:
        reading = dict(tokenizer=plain_tokenizer(folder / "tokenizer.model"), add_bos_token=options.bos,
                       prefix_token_id=1 if options.bos else 2)
    lm = HFLM(pretrained=model, batch_size=options.batch, device="cpu", max_length=options.seq or None,
              softmax_dtype=options.softmax if dtype == torch.float32 else "float64", **reading)
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
    out = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), limit=options.limit, log_samples=True, bootstrap_iters=100000,
                                  num_fewshot=0, task_manager=manager)
    return out, spent


def ours(folder, data, tasks, options):
    out = options.work / "nibble"
    shutil.rmtree(out, ignore_errors=True)
    command = [options.nibble, "eval", "--model", folder, "--tasks", ",".join(tasks), "--data", data, "--limit",
               options.limit, "--seq", options.seq, "--out", out, "--samples"]
    if not options.model:
        command += ["--bos", "yes", "--prefix", "bos"] if options.bos else ["--prefix", "eos"]
    begin = time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, OMP_NUM_THREADS=str(options.threads)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = [time.time() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]
    samples = {task: [json.loads(line) for line in open(out / f"samples_{task}.jsonl")] for task in tasks}
    return json.load(open(out / "results.json")), samples, spent


def likelihoods(sample):
    return [response[0] if isinstance(response, (list, tuple)) else response for response in sample["filtered_resps"]]


def distance(samples, others):
    """The largest difference of a log-likelihood in a task."""
    other = {sample["doc_id"]: sample for sample in others}
    return max(abs(a - b) for sample in samples
               for a, b in zip(likelihoods(sample), likelihoods(other[sample["doc_id"]]), strict=True))


def compare(theirs, results, samples, tasks, exact=None):
    rows, worst = [], 0.0
    for task in tasks:
        peer = {sample["doc_id"]: sample for sample in theirs["samples"][task]}
        from_exact = [f"{distance(side[task], exact['samples'][task]):.1e}"
                      for side in (theirs["samples"], samples)] if exact else []
        difference, relative, prompts = 0.0, 0.0, True
        for sample in samples[task]:
            other = peer[sample["doc_id"]]
            for a, b in zip(likelihoods(sample), likelihoods(other), strict=True):
                difference = max(difference, abs(a - b))
                relative = max(relative, abs(a - b) / abs(b))
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
                         f"{relative:.0e}", *from_exact, metric, *shown])
    head = ["task", "items", "prompts", "largest difference of a log-likelihood", "relative",
            *(["lm-eval from float64", "nibble from float64"] if exact else []), "metric", "lm-eval", "nibble",
            "stderr lm-eval", "stderr nibble"]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines), worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--model", type=pathlib.Path, help="a Hugging Face folder; without it a random model is made")
    parser.add_argument("--shape", choices=MODELS, default="tiny", help="of the random model")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seq", type=int, default=0, help="tokens that the model reads at most; 0: its whole context")
    parser.add_argument("--batch", type=int, default=16, help="of the harness, sequences")
    parser.add_argument("--bos", action="store_true",
                        help="begin every text for the random model with <s>, and take it as the prefix")
    parser.add_argument("--softmax", choices=("float32", "float64"), default="float32",
                        help="what the harness takes log-softmaxes in; its own default is float32")
    parser.add_argument("--exact", action="store_true", help="also score in float64, of Llamas")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tasks = options.tasks.split(",")
    folder = options.model or options.work / f"hf-{options.shape}"
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_tokenizer(options.data, folder, MODELS[options.shape]["vocab"])
        make_model(folder, MODELS[options.shape])
    results, samples, spent = ours(folder, options.data, tasks, options)
    theirs, peer_spent = harness(folder, options.data, tasks, options)
    exact = None
    if options.exact:
        widen_llama()
        exact, _ = harness(folder, options.data, tasks, options, torch.float64)
    table, worst = compare(theirs, results, samples, tasks, exact)
    items = sum(len(samples[task]) for task in tasks)
    print(table)
    print(f"\nLargest difference {worst:.2e} over {items} items, {options.threads} threads. Wall clock and CPU time:")
    for name, (wall, cpu) in (("lm-eval, scoring alone", peer_spent), ("nibble, all included", spent)):
        print(f"  {name}: {wall:.1f} s, {cpu:.1f} CPU s, {items / wall:.2f} items a second, "
              f"{items / cpu:.2f} a CPU second")


if __name__ == "__main__":
    main()
