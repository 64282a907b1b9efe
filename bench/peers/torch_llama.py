#!/usr/bin/env python3
"""Training-step speed of PyTorch, for the models of models/*.toml: the same network, loss and optimizer.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch
    /tmp/torch/bin/python bench/peers/torch_llama.py models/quartet-30m.toml --batch 8 --threads 2 [--dtype bf16] [--compile]
    python3 bench/peers/torch_llama.py models/quartet-30m.toml --device cuda --dtype bf16 --compile --batch 64

Random tokens; prints the median of the steps after the warm-up. On a GPU: FlashAttention's kernels, steps in a row without
waiting for one another, timed by events.
"""
import argparse
import contextlib
import statistics
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


class Attention(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.heads, self.kv_heads, self.dim = m["heads"], m["kv_heads"], m["width"] // m["heads"]
        self.qkv = nn.Linear(m["width"], (self.heads + 2 * self.kv_heads) * self.dim, bias=False)
        self.output = nn.Linear(m["width"], m["width"], bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, -1, self.dim).transpose(1, 2).split(
            [self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.kv_heads != self.heads:
            k, v = (z.repeat_interleave(self.heads // self.kv_heads, dim=1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(b, t, -1))


class Block(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.attention_norm = nn.RMSNorm(m["width"], eps=m["norm_eps"])
        self.attention = Attention(m)
        self.mlp_norm = nn.RMSNorm(m["width"], eps=m["norm_eps"])
        self.gate_up = nn.Linear(m["width"], 2 * m["ffn"], bias=False)
        self.down = nn.Linear(m["ffn"], m["width"], bias=False)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, m, seq):
        super().__init__()
        self.embedding = nn.Embedding(m["vocab"], m["width"])
        self.blocks = nn.ModuleList(Block(m) for _ in range(m["layers"]))
        self.norm = nn.RMSNorm(m["width"], eps=m["norm_eps"])
        self.head = nn.Linear(m["width"], m["vocab"], bias=False)
        if m["tied_head"]:
            self.head.weight = self.embedding.weight
        dim = m["width"] // m["heads"]
        angle = torch.outer(torch.arange(seq), m["rope_theta"] ** (-torch.arange(0, dim, 2) / dim))
        self.register_buffer("cos", torch.cat((angle, angle), dim=-1).cos())
        self.register_buffer("sin", torch.cat((angle, angle), dim=-1).sin())
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-b, a), dim=-1) * sin).to(x.dtype)


class Clock:
    """Times of steps: of the host on the CPU, of the device, by events, on a GPU."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        self.marks = []

    def mark(self):
        if self.cuda:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def seconds(self):
        """Between marks 0 and 1, 2 and 3, ..."""
        if self.cuda:
            torch.cuda.synchronize()
            return [a.elapsed_time(b) * 1e-3 for a, b in zip(self.marks[::2], self.marks[1::2])]
        return [b - a for a, b in zip(self.marks[::2], self.marks[1::2])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a file of models/")
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--seq", type=int, help="tokens a sequence (default: the model file's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="bf16: autocast, weights stay f32")
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler)")
    parser.add_argument("--steps", type=int, help="timed steps (7, on a GPU 20)")
    parser.add_argument("--warmup", type=int, help="steps before them (2, on a GPU 5)")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    steps = args.steps or (20 if cuda else 7)
    warmup = args.warmup if args.warmup is not None else (5 if cuda else 2)

    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    torch.manual_seed(1)
    with open(args.model, "rb") as f:
        config = tomllib.load(f)["model"]
    seq = args.seq or config["seq"]
    model = Llama(config, seq)
    parameters = sum(p.numel() for p in model.parameters())
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    step_model = torch.compile(model) if args.compile else model

    # FlashAttention has no FP32 kernels.
    flash = cuda and args.dtype == "bf16"
    clock = Clock(args.device)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else contextlib.nullcontext():
        for step in range(warmup + steps):
            tokens = torch.randint(config["vocab"], (args.batch, seq + 1))
            if step >= warmup:
                clock.mark()
            with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
                loss = step_model(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step >= warmup:
                clock.mark()
    seconds = clock.seconds()
    median = statistics.median(seconds)
    where = torch.cuda.get_device_name() if cuda else f"{args.threads} threads"
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if cuda else ""
    print(f"torch {torch.__version__} {args.dtype}{' compiled' if args.compile else ''}, {config['name']} "
          f"({parameters / 1e6:.1f} M parameters), {args.batch} x {seq} tokens, {where}: "
          f"{median * 1e3:.{1 if cuda else 0}f} ms a step ({min(seconds) * 1e3:.0f}-{max(seconds) * 1e3:.0f}), "
          f"{args.batch * seq / median:.0f} tokens/s{memory}, loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
