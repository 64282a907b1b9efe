#!/usr/bin/env python3
"""Training-step speed of PyTorch on the CPU, for the models of models/*.toml: the same network, loss and optimizer.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch
    /tmp/torch/bin/python bench/peers/torch_llama.py models/quartet-30m.toml --batch 8 --threads 2 [--dtype bf16] [--compile]

Random tokens; prints the median of the steps after the warm-up.
"""
import argparse
import statistics
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional as F


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a file of models/")
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--seq", type=int, help="tokens a sequence (default: the model file's)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="bf16: autocast, weights stay f32")
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler)")
    parser.add_argument("--steps", type=int, default=7, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
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

    seconds = []
    for step in range(args.warmup + args.steps):
        tokens = torch.randint(config["vocab"], (args.batch, seq + 1))
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = step_model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= args.warmup:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(f"torch {torch.__version__} {args.dtype}{' compiled' if args.compile else ''}, {config['name']} "
          f"({parameters / 1e6:.1f} M parameters), {args.batch} x {seq} tokens, {args.threads} threads: "
          f"{median * 1e3:.0f} ms a step ({min(seconds) * 1e3:.0f}-{max(seconds) * 1e3:.0f}), "
          f"{args.batch * seq / median:.0f} tokens/s, loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
