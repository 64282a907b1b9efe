#!/usr/bin/env python3
"""Small random models of every family that nibble reads, made by transformers, and what transformers computes with them.

    make_hf_fixtures.py make tests/fixtures/hf        write FAMILY/{config.json, weights, expected.safetensors}
    make_hf_fixtures.py check FOLDER EXPECTED ...     load FOLDER by AutoModelForCausalLM, hold its logits against EXPECTED

expected.safetensors holds `tokens` (I32 [n]) and `logits` (F32 [n, vocab]): what follows each prefix, in float32.
"""

import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

TOKENS = 24
SHAPE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    attention_dropout=0.0, tie_word_embeddings=False,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)

# family: (model type, what differs from SHAPE, dtype of the weights, bytes of a file)
FAMILIES = {
    "llama2": ("llama", dict(num_key_value_heads=4, rms_norm_eps=1e-5), torch.float16, None),
    "llama3.1": ("llama", dict(rope_theta=500000.0, rope_scaling=LLAMA3, rms_norm_eps=1e-5), torch.bfloat16, 16000),
    "llama-linear": ("llama", dict(rope_scaling=dict(rope_type="linear", factor=4.0)), torch.bfloat16, None),
    "tinyllama": ("llama", dict(num_key_value_heads=1, rms_norm_eps=1e-5), torch.float32, None),
    "smollm2": ("llama", dict(tie_word_embeddings=True, rope_theta=100000.0), torch.bfloat16, None),
    "mistral": ("mistral", dict(head_dim=16, sliding_window=None, rope_theta=1e6), torch.bfloat16, None),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True, rope_theta=1e6), torch.bfloat16, None),
    "qwen3": ("qwen3", dict(head_dim=16, rope_theta=1e6), torch.bfloat16, None),
}


def random_model(kind, changes, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **{**SHAPE, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.5 * noise)
            else:  # large enough that every part of the model shows in the logits
                parameter.copy_(noise * (1.5 / parameter.shape[1] ** 0.5))
    return model.to(dtype)


def logits_of(model, tokens):
    with torch.no_grad():
        return model.float().eval()(input_ids=tokens.long().unsqueeze(0)).logits[0].contiguous()


def make(root):
    for seed, (family, (kind, changes, dtype, shard)) in enumerate(FAMILIES.items()):
        folder = root / family
        model = random_model(kind, changes, dtype, seed)
        model.save_pretrained(folder, **({} if shard is None else dict(max_shard_size=shard)))
        config = json.loads((folder / "config.json").read_text())
        config.pop("transformers_version", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "generation_config.json").unlink(missing_ok=True)
        generator = torch.Generator().manual_seed(1000 + seed)
        tokens = torch.randint(0, SHAPE["vocab_size"], (TOKENS,), generator=generator, dtype=torch.int32)
        reloaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        save_file({"tokens": tokens, "logits": logits_of(reloaded, tokens)}, folder / "expected.safetensors")
        print(f"{family}: {sum(p.numel() for p in model.parameters())} parameters")


def check(folder, expected):
    want = load_file(expected)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                                     output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            sys.exit(f"{folder}: {kind} {sorted(map(str, info[kind]))}")
    error = (logits_of(model, want["tokens"]) - want["logits"]).abs().max().item()
    print(f"{folder}: {type(model).__name__}, largest difference {error:.2e} of logits up to "
          f"{want['logits'].abs().max().item():.1f}")
    if not error < 1e-3:
        sys.exit("the logits differ")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "make":
        make(pathlib.Path(sys.argv[2]))
    elif len(sys.argv) >= 4 and len(sys.argv) % 2 == 0 and sys.argv[1] == "check":
        for folder, expected in zip(sys.argv[2::2], sys.argv[3::2]):
            check(pathlib.Path(folder), pathlib.Path(expected))
    else:
        sys.exit(__doc__)
