#!/usr/bin/env python3
"""Holds what `nibble export` writes in four bits, and in GGUF, against the formats' own readers.

    check_fp4_export.py folder FOLDER EXPECTED     needs torch, compressed-tensors; transformers too, loads the folder
    check_fp4_export.py gguf FILE EXPECTED         needs gguf, numpy, safetensors
    check_fp4_export.py agree FOLDER FILE          both: the tensors of a folder and of a GGUF file are the same numbers
    check_fp4_export.py perplexity FILE TEXT [TOKENS]   needs llama-cpp-python: ids and perplexity of the text's windows

EXPECTED is a safetensors file of nibble's values (F32) under Hugging Face names. Every tensor must be equal, bit for bit,
where its metadata say exact = 1; else within two units of the last place, as readers multiply in another order.
The perplexity is that of `nibble eval --text --prefix eos` with windows of TOKENS (256) ids.
"""

import json
import math
import pathlib
import sys


def fail_unless(ok, what):
    if not ok:
        sys.exit(f"check_fp4_export: {what}")


def expected_of(path):
    from safetensors import safe_open

    with safe_open(path, framework="np") as f:
        exact = (f.metadata() or {}).get("exact") == "1"
        return exact, {name: f.get_tensor(name) for name in f.keys()}


def same(name, got, want, exact):
    import numpy as np

    got = np.asarray(got, dtype=np.float32).reshape(want.shape)
    if exact:
        different = int((got.view(np.uint32) != want.view(np.uint32)).sum())
        fail_unless(different == 0, f"{name}: {different} of {want.size} values differ")
    else:
        fail_unless((np.abs(got - want) <= np.abs(want) * 2.0**-22).all(), f"{name}: values differ")


def tensors_of_folder(folder):
    """Every tensor as compressed-tensors decompresses it: name -> (in float32, in the package's bfloat16 or None)."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    quantization = QuantizationConfig.model_validate(config["quantization_config"])
    scheme = quantization.config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(quantization.format)
    stored = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored.update(load_file(file))
    tensors = {}
    for name, value in stored.items():
        module, _, kind = name.rpartition(".")
        if kind in ("weight_scale", "weight_global_scale"):
            continue
        if kind != "weight_packed":
            tensors[name] = (value.float().numpy(), None)
            continue
        fail_unless(module not in quantization.ignore, f"{module} is quantised and to be ignored")
        state = {k: stored[f"{module}.{k}"] for k in compressor.compression_param_names(scheme)}
        narrow = compressor.decompress(state, scheme)["weight"]
        fail_unless(narrow.dtype == torch.bfloat16, f"{module} decompresses to {narrow.dtype}")
        rows, half = value.shape
        scale = compressor._decompress_scale(state["weight_scale"], torch.float32)
        wide = dequantize(unpack_fp4_from_uint8(value, rows, 2 * half, torch.float32), scale, args=scheme.weights,
                          dtype=torch.float32, global_scale=state.get("weight_global_scale"))
        tensors[f"{module}.weight"] = (wide.numpy(), narrow)
    return tensors


def check_folder(folder, expected):
    import torch

    exact, wanted = expected_of(expected)
    tensors = tensors_of_folder(folder)
    fail_unless(set(tensors) == set(wanted), f"other tensors: {sorted(set(tensors) ^ set(wanted))}")
    for name, (wide, narrow) in tensors.items():
        same(name, wide, wanted[name], exact)
        if narrow is not None and exact:
            fail_unless(torch.equal(narrow, torch.from_numpy(wanted[name]).bfloat16()), f"{name} differs in bfloat16")
    loaded = check_transformers(folder, wanted)
    print(f"{folder}: {len(tensors)} tensors {'equal, bit for bit' if exact else 'within 2 units of the last place'}; {loaded}")


def check_transformers(folder, wanted):
    """The folder as AutoModelForCausalLM loads it computes what a plain model of the same weights does."""
    try:
        import torch
        import transformers
    except ImportError:
        return "transformers is not installed"
    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.from_pretrained(folder)
    del config.quantization_config
    plain = transformers.AutoModelForCausalLM.from_config(config).bfloat16()
    state = {name: torch.from_numpy(value).bfloat16() for name, value in wanted.items()}
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    plain.load_state_dict(state)
    served = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokens = torch.arange(24).remainder(config.vocab_size).unsqueeze(0)
    with torch.no_grad():
        a, b = plain.eval()(tokens).logits.float(), served.eval()(tokens).logits.float()
    error = float((a - b).abs().max() / a.abs().max())
    fail_unless(error < 0.02, f"transformers computes other logits with '{folder}', by {error:.3g}")
    return f"transformers' logits differ by {error:.2g} of the largest"


NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def tensors_of_gguf(path):
    """Every tensor as the gguf package decodes it, under its Hugging Face name, rows in their order there."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    arch = reader.get_field("general.architecture").contents()
    heads = reader.get_field(f"{arch}.attention.head_count").contents()
    kv_heads = reader.get_field(f"{arch}.attention.head_count_kv").contents()
    decoded = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    tensors = {}
    for name, value in decoded.items():
        stem, _, kind = name.rpartition(".")
        if kind == "scale" or stem == "rope_freqs":
            continue
        if f"{stem}.scale" in decoded:
            value = value * decoded[f"{stem}.scale"]
        if arch == "llama" and stem.endswith(("attn_q", "attn_k")):
            n = heads if stem.endswith("attn_q") else kv_heads
            value = value.reshape(n, value.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
        if stem.startswith("blk."):
            _, block, part = stem.split(".")
            tensors[f"model.layers.{block}.{BLOCK_NAMES[part]}.{kind}"] = value
        else:
            tensors[f"{NAMES[stem]}.{kind}"] = value
    return tensors


def check_gguf(path, expected):
    exact, wanted = expected_of(expected)
    tensors = tensors_of_gguf(path)
    fail_unless(set(tensors) == set(wanted), f"other tensors: {sorted(set(tensors) ^ set(wanted))}")
    for name, value in tensors.items():
        # The package's order of factors is nibble's; its tables have no negative zero, which adding zero takes away.
        same(name, value + 0.0, wanted[name] + 0.0, True)
    print(f"{path}: {len(tensors)} tensors equal, bit for bit but for the sign of zeros")


def check_agree(folder, path):
    import numpy as np
    import torch

    a, b = tensors_of_folder(folder), tensors_of_gguf(path)
    fail_unless(set(a) == set(b), f"other tensors: {sorted(set(a) ^ set(b))}")
    for name, value in b.items():
        if value.ndim == 1:  # GGUF files have them in F32
            b[name] = torch.from_numpy(value).bfloat16().float().numpy()
    a = {n: v[0] + 0.0 for n, v in a.items()}  # gguf's tables have no negative zero
    b = {n: v + 0.0 for n, v in b.items()}
    worst = max(float((np.abs(a[n] - b[n]) / np.maximum(np.abs(b[n]), 1e-30)).max()) for n in a)
    different = sum(int((a[n].view(np.uint32) != b[n].view(np.uint32)).sum()) for n in a)
    print(f"{folder} and {path}: {len(a)} tensors, {sum(v.size for v in b.values())} values, {different} differ, "
          f"by {worst:.2g} at most")
    fail_unless(worst <= 2.0**-22, "the tensors differ")


def perplexity(path, text, window):
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(str(path), n_ctx=window, n_batch=window, logits_all=True, verbose=False, n_threads=2)
    content = pathlib.Path(text).read_bytes()
    ids = model.tokenize(content, add_bos=False, special=True)
    total = 0.0
    sequence = [model.token_eos()] + ids
    for begin in range(0, len(ids), window):
        end = min(begin + window, len(ids))
        first = max(0, end - window)  # the last window sees as much as the others
        inputs, targets = sequence[first:end], np.array(ids[first:end])
        model.reset()
        model.eval(inputs)
        logits = np.array(model.scores[:len(inputs)], dtype=np.float64)[begin - first:]
        targets = targets[begin - first:]
        top = logits.max(axis=1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        total += float((norm - logits[np.arange(len(targets)), targets]).sum())
    print(f"{path}: {len(ids)} tokens, perplexity {math.exp(total / len(ids)):.4f}, of bytes "
          f"{math.exp(total / len(content)):.5f}")


def main():
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "folder":
        check_folder(pathlib.Path(arguments[0]), arguments[1])
    elif command == "gguf":
        check_gguf(*arguments)
    elif command == "agree":
        check_agree(pathlib.Path(arguments[0]), arguments[1])
    elif command == "perplexity":
        perplexity(arguments[0], arguments[1], int(arguments[2]) if len(arguments) > 2 else 256)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
