#!/usr/bin/env python3
"""GGUF files for tests, made by the gguf package, and what the package reads in nibble's.

    make_gguf_fixtures.py blocks FILE                   random blocks of every type that nibble decodes: tensor TYPE, and
                                                        TYPE.values (F32), which is gguf.quants.dequantize of it
    make_gguf_fixtures.py check-blocks FILE ...         hold the TYPE.values of such a file against the package
    make_gguf_fixtures.py model FOLDER FILE             the Hugging Face model of FOLDER as llama.cpp keeps it
    make_gguf_fixtures.py check-model GGUF FOLDER       hold the tensors of a Hugging Face folder that was made of a GGUF
                                                        file against the package's dequantisation of that file
    make_gguf_fixtures.py expect GGUF FOLDER FILE       what transformers computes with a GGUF file, which it reads by
                                                        itself, and the ids of the tokenizer.json of FOLDER by tokenizers;
                                                        the same logits must come from FOLDER

The fixtures:
    make_gguf_fixtures.py blocks tests/fixtures/gguf/blocks.gguf
    for f in llama3.1 qwen2 qwen3; do make_gguf_fixtures.py model tests/fixtures/hf/$f tests/fixtures/gguf/$f.gguf; done
    nibble import --from SmolLM2-135M-Instruct.Q4_1.gguf --format hf --out smollm2
    make_gguf_fixtures.py expect SmolLM2-135M-Instruct.Q4_1.gguf smollm2 tests/fixtures/gguf/smollm2.json
"""

import json
import math
import pathlib
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4",
         "NVFP4"]


def same(a, b):
    """Equal bits; a NaN equals any NaN."""
    return a.shape == b.shape and bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


def make_blocks(path):
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "none")
    with np.errstate(all="ignore"):  # the bytes of scales are random too: infinities and NaNs among them
        for name in TYPES:
            block, size = gguf.GGML_QUANT_SIZES[Type[name]]
            columns, rows = max(block, 64), 2
            data = random.integers(0, 256, (rows, columns // block * size), dtype=np.uint8)
            values = gguf.quants.dequantize(data, Type[name]).reshape(rows, columns)
            writer.add_tensor(name, data, raw_dtype=Type[name])
            writer.add_tensor(name + ".values", np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_blocks(path):
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    checked = 0
    with np.errstate(all="ignore"):
        for name in TYPES:
            data = tensors[name].data
            want = gguf.quants.dequantize(data.view(np.uint8), Type[name])
            got = tensors[name + ".values"].data
            if not same(np.asarray(want, np.float32).reshape(got.shape), got):
                sys.exit(f"{path}: the values of {name} differ")
            checked += got.size
    print(f"{path}: {checked} values of {len(TYPES)} types are the package's")


def read_folder(folder):
    from safetensors import safe_open  # with torch, which knows BF16

    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return json.loads((pathlib.Path(folder) / "config.json").read_text()), tensors


def interleaved(rows, heads):
    """llama.cpp's rotary embedding of `llama` pairs dimensions 2 j and 2 j + 1 of a head, transformers' j and j + n / 2."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(rope, head_dim):
    factors = []
    for j in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (j / head_dim)
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = min(max((turns - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def make_model(folder, path):
    import torch

    config, tensors = read_folder(folder)
    arch = "llama" if config["model_type"] == "mistral" else config["model_type"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(pathlib.Path(folder).name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if head_dim * heads != config["hidden_size"]:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config["num_hidden_layers"])
    for name, tensor in tensors.items():
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleaved(tensor, heads if "q_proj" in name else kv_heads)
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if tensor.dim() == 1 or tensor.dtype == torch.float32:
            writer.add_tensor(new_name, tensor.float().numpy())
        else:
            data = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(new_name, data, raw_dtype=Type.BF16 if tensor.dtype == torch.bfloat16 else Type.F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_model(path, folder):
    reader = gguf.GGUFReader(path)
    config, tensors = read_folder(folder)
    arch = reader.fields["general.architecture"].contents()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config["num_hidden_layers"])
    stored = {t.name: t for t in reader.tensors}
    for name, tensor in tensors.items():
        source = stored[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        want = gguf.quants.dequantize(source.data, source.tensor_type).astype(np.float32)
        got = tensor.float().numpy()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            got = interleaved(got, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        if not same(want, np.ascontiguousarray(got)):
            sys.exit(f"{folder}: {name} differs")
    print(f"{folder}: {len(tensors)} tensors are the package's, bit for bit")


PROMPTS = ["The capital of France is", "Gravity is the force that", "def fibonacci(n):\n    ",
           "Ein kurzer Satz \u00fcber K\u00e4se, 12345 und \U0001f600."]
STRIDE = 997  # of the logits that are kept


def expect(path, folder, out):
    import torch
    import transformers
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
    path = pathlib.Path(path)
    models = [transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32),
              transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)]
    prompts = []
    for text in PROMPTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        with torch.no_grad():
            own, exported = (model.eval()(input_ids=torch.tensor([ids])).logits[0] for model in models)
        print(f"{text!r}: largest difference of the folder's logits {(own - exported).abs().max().item():.1e}")
        prompts.append({"text": text, "ids": ids, "likeliest": own[-1].argmax().item(),
                        "logits": [round(x, 5) for x in own[-1][::STRIDE].tolist()]})
    fixture = pathlib.Path(__file__).resolve().parent.parent / "tests/data/fixtures/tokenizers_expected.json"
    texts = json.loads(fixture.read_text())["texts"]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    pathlib.Path(out).write_text(json.dumps({"stride": STRIDE, "prompts": prompts, "texts": texts, "ids": ids}) + "\n")


COMMANDS = {"expect": (expect, 3), "blocks": (make_blocks, 1), "check-blocks": (check_blocks, 1), "model": (make_model, 2),
            "check-model": (check_model, 2)}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    function, count = COMMANDS[sys.argv[1]]
    arguments = sys.argv[2:]
    if len(arguments) == 0 or len(arguments) % count != 0:
        sys.exit(__doc__)
    for i in range(0, len(arguments), count):
        function(*arguments[i:i + count])
