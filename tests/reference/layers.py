"""Every layer of `src/nn` in float64: outputs and gradients, for tests/device/layers.rs.

    python tests/reference/layers.py     # rewrites layers.safetensors

Inputs, weights and the gradients of outputs are not stored: both sides compute them from their names (`values`). They are
multiples of 1/128 below 1, exact in bf16 and fp16, so that a test in half precision starts from the same numbers.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LENGTHS = (3, 5, 4, 14)  # two rectangles: three sequences padded to 5, and one without padding
EQUAL = (7, 7)  # nothing padded
OTHERS = (6, 2, 9, 5)  # the encoder's tokens of each sequence
HIDDEN, HEADS, DIM = 32, 4, 8
T = sum(LENGTHS)
IDS = torch.tensor([(7 * t + 3) % 11 for t in range(T)])
SEGMENTS = torch.tensor([t // 2 % 2 for t in range(T)])
POSITIONS = torch.tensor([p for n in LENGTHS for p in range(n)])
MASK = 2**64 - 1

found = {}


def mix(z):
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def values(name, *shape):
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    flat = [(mix((key + i) & MASK) % 255 - 127) / 128 for i in range(math.prod(shape))]
    return torch.tensor(flat, dtype=torch.float64).view(shape)


class Layer:
    """What a layer is computed from; whatever is asked for by name gets a gradient."""

    def __init__(self, name):
        self.name, self.leaves = name, {}

    def __call__(self, name, *shape):
        if name not in self.leaves:
            self.leaves[name] = values(f"{self.name}.{name}", *shape).requires_grad_()
        return self.leaves[name]


def layer(name, forward):
    of = Layer(name)
    out = forward(of)
    out.backward(values(f"{name}.output", *out.shape))
    found[f"{name}/output"] = out.detach()
    for leaf, tensor in of.leaves.items():
        assert tensor.grad.norm() > 1e-3, f"{name}: the gradient of {leaf} is too small to be compared"
        found[f"{name}/{leaf}"] = tensor.grad


def linear(p, x, outputs, name="", bias=True):
    return F.linear(x, p(f"{name}weight", outputs, x.shape[-1]), p(f"{name}bias", outputs) if bias else None)


def layer_norm(p, x, name, eps):
    return F.layer_norm(x, x.shape[-1:], p(f"{name}weight", x.shape[-1]), p(f"{name}bias", x.shape[-1]), eps)


def rms_norm(p, x, name, eps):
    return F.rms_norm(x, x.shape[-1:], p(f"{name}weight", x.shape[-1]), eps)


def attention(q, k, v, lengths=LENGTHS, keys=None, scale=DIM**-0.5, causal=False, window=None, bias=None):
    """Sequence by sequence; q `[T, heads, dim]`, k and v `[T, kv heads, dim]`; `bias(s, queries, keys)` adds to scores."""
    outs = []
    sides = (torch.split(x, list(n)) for x, n in ((q, lengths), (k, keys or lengths), (v, keys or lengths)))
    for s, (q, k, v) in enumerate(zip(*sides)):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if bias is not None:
            scores = scores + bias(s, len(q), len(k))
        apart = torch.arange(len(q))[:, None] - torch.arange(len(k))
        hidden = (apart < 0) & causal | (apart.abs() >= (window or len(q) + len(k)))
        scores = scores.masked_fill(hidden, -torch.inf)
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1))
    return torch.cat(outs)


def heads(qkv, kv_heads=HEADS):
    return [x.unflatten(1, (-1, DIM)) for x in qkv.split([HEADS * DIM, kv_heads * DIM, kv_heads * DIM], 1)]


def kernel(p, lengths=LENGTHS, kv_heads=HEADS, biased=False, **options):
    qkv = p("qkv", sum(lengths), (HEADS + 2 * kv_heads) * DIM)
    table = (lambda _, q, k: p("bias", HEADS, max(lengths), max(lengths))[:, :q, :k]) if biased else None
    return attention(*heads(qkv, kv_heads), lengths, bias=table, **options)


def cross(p):
    q, kv = p("q", T, HIDDEN), p("kv", sum(OTHERS), 2 * HIDDEN)
    k, v = kv.chunk(2, 1)
    return attention(*(x.unflatten(1, (-1, DIM)) for x in (q, k, v)), keys=OTHERS)


def turn(x, kind, **settings):
    """By transformers' frequencies, which are float32; tokens at `POSITIONS`, x `[T, heads, dim]`."""
    rope = dict(rope_type=kind, rope_theta=100.0, **settings)
    config = LlamaConfig(head_dim=DIM, max_position_embeddings=64, rope_parameters=rope)
    if kind == "default":
        frequencies, factor = 1 / 100.0 ** (torch.arange(0, DIM, 2) / DIM), 1.0
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, None)
    angles = POSITIONS[:, None, None] * frequencies.double().repeat(2)
    a, b = x.chunk(2, -1)
    return (x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()) * factor


def self_attention(p, x, name="", kv_heads=HEADS, bias=True, norm=None, rotary=None, **options):
    q, k, v = heads(linear(p, x, (HEADS + 2 * kv_heads) * DIM, f"{name}qkv.", bias), kv_heads)
    if norm:
        q, k = rms_norm(p, q, f"{name}q_norm.", norm), rms_norm(p, k, f"{name}k_norm.", norm)
    if rotary:
        q, k = turn(q, rotary), turn(k, rotary)
    return linear(p, attention(q, k, v, **options), HIDDEN, f"{name}out.", bias)


def feed_forward(p, x, activation, gated=False, bias=True, name=""):
    up = linear(p, x, 48 if gated else 24, f"{name}up.", bias)
    if gated:
        gate, up = up.chunk(2, -1)
        return linear(p, activation(gate) * up, HIDDEN, f"{name}down.", bias)
    return linear(p, activation(up), HIDDEN, f"{name}down.", bias)


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def relative(p, farthest=None):
    """Transformer-XL's attention (arXiv 1901.02860) with XLNet's segments: the four terms of each score one by one."""
    x = p("x", T, HIDDEN)
    qkv = linear(p, x, 3 * HIDDEN, "qkv.", bias=False)
    u, v, w = (p(f"{name}_bias", HIDDEN).view(HEADS, DIM) for name in ("content", "distance", "segment"))
    q, k, value = heads(qkv)
    vectors = p("segments", 2, HIDDEN).view(2, HEADS, DIM)
    scale, starts = DIM**-0.5, [sum(LENGTHS[:s]) for s in range(len(LENGTHS))]

    def bias(s, n, _):
        own = q[starts[s] : starts[s] + n]
        apart = torch.arange(n)[:, None] - torch.arange(n)
        far = apart.double() if farthest is None else apart.double().clamp(-farthest, farthest)
        angles = far[..., None] / 10000 ** (torch.arange(0, HIDDEN, 2).double() / HIDDEN)
        sinusoids = torch.cat([angles.sin(), angles.cos()], -1)
        r = linear(p, sinusoids, HIDDEN, "distances.", bias=False).view(n, n, HEADS, DIM)
        segments = SEGMENTS[starts[s] : starts[s] + n]
        differ = (segments[:, None] != segments).long()
        scores = torch.einsum("qhd,qkhd->hqk", own + v, r) + torch.einsum("qhd,qkhd->hqk", own + w, vectors[differ])
        return scores * scale

    return linear(p, attention(q + u, k, value, bias=bias), HIDDEN, "out.", bias=False)


def pooled(p, picks, dense=True):
    parts = torch.split(p("x", T, HIDDEN), LENGTHS)
    rows = torch.stack([picks(part) for part in parts])
    return linear(p, rows, HIDDEN, "pooler.").tanh() if dense else rows


def masked_head(p):
    x = F.gelu(linear(p, p("x", T, HIDDEN), 16, "lm_head.dense."))
    x = layer_norm(p, x, "lm_head.norm.", 0.0625)
    return F.linear(x, p("lm_head.weight", 11, 16), p("lm_head.bias", 11))


def tied(p):
    table = p("words.weight", 11, 16)
    return F.linear(F.embedding(IDS, table), table, p("head.bias", 11))


def input_embeddings(p):
    words, positions = p("embeddings.words.weight", 11, HIDDEN), p("embeddings.positions.weight", 20, HIDDEN)
    segments = p("embeddings.segments.weight", 2, HIDDEN)
    x = F.embedding(IDS, words) + F.embedding(POSITIONS + 2, positions) + F.embedding(SEGMENTS, segments)
    return layer_norm(p, x, "embeddings.norm.", 0.0625)


def post_norm(p):
    x = p("x", T, HIDDEN)
    x = layer_norm(p, x + self_attention(p, x, "attention."), "attention.norm.", 0.0625)
    return layer_norm(p, x + feed_forward(p, x, F.gelu, name="mlp."), "mlp.norm.", 0.0625)


def pre_norm(p, norm, activation, gated, **options):
    x = p("x", T, HIDDEN)
    x = x + self_attention(p, norm(p, x, "attention.norm.", 0.0625), "attention.", causal=True, **options)
    bias = options.get("bias", True)
    return x + feed_forward(p, norm(p, x, "mlp.norm.", 0.0625), activation, gated, bias, name="mlp.")


def main():
    x = lambda p, width=HIDDEN: p("x", T, width)
    layer("linear", lambda p: linear(p, x(p), 24, "linear."))
    layer("linear-without-bias", lambda p: linear(p, x(p), 24, "linear.", bias=False))
    layer("embedding", lambda p: F.embedding(IDS, p("words.weight", 11, 16)))
    layer("input-embeddings", input_embeddings)
    layer("layer-norm", lambda p: layer_norm(p, x(p), "norm.", 0.0625))
    layer("layer-norm-without-bias", lambda p: F.layer_norm(x(p), (HIDDEN,), p("norm.weight", HIDDEN), eps=0.0625))
    layer("rms-norm", lambda p: rms_norm(p, x(p), "norm.", 0.0625))
    layer("residual-norm", lambda p: layer_norm(p, p("y", T, HIDDEN) + x(p), "norm.", 0.0625))
    layer("attention-bidirectional", kernel)
    layer("attention-without-padding", lambda p: kernel(p, EQUAL))
    layer("attention-scale", lambda p: kernel(p, scale=0.75))
    layer("attention-causal", lambda p: kernel(p, causal=True))
    layer("attention-causal-without-padding", lambda p: kernel(p, EQUAL, causal=True))
    layer("attention-sliding-window", lambda p: kernel(p, causal=True, window=3))
    layer("attention-bidirectional-window", lambda p: kernel(p, window=3))
    layer("attention-grouped-bidirectional-window", lambda p: kernel(p, kv_heads=2, window=3))
    layer("attention-grouped", lambda p: kernel(p, kv_heads=2))
    layer("attention-grouped-causal", lambda p: kernel(p, kv_heads=2, causal=True))
    layer("attention-one-key-head-sliding-window", lambda p: kernel(p, kv_heads=1, causal=True, window=3))
    layer("attention-bias", lambda p: kernel(p, biased=True))
    layer("attention-bias-causal", lambda p: kernel(p, biased=True, causal=True))
    layer("attention-cross", cross)
    layer("self-attention", lambda p: self_attention(p, x(p)))
    layer("self-attention-rotary", lambda p: self_attention(p, x(p), kv_heads=2, bias=False, rotary="default", causal=True))
    normed = dict(kv_heads=2, bias=False, norm=0.0625, rotary="default", causal=True)
    layer("self-attention-head-norms", lambda p: self_attention(p, x(p), **normed))
    layer("relative-attention", relative)
    layer("relative-attention-clamped", lambda p: relative(p, farthest=3))
    for name, settings in {
        "default": {},
        "linear": dict(factor=4.0),
        "llama3": dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
        "yarn": dict(factor=2.0, beta_fast=4, beta_slow=1, original_max_position_embeddings=32),
    }.items():
        layer(f"rotary-{name}", lambda p: turn(p("x", T, 2 * DIM).view(T, 2, DIM), name, **settings).flatten(1))
    for name, activation, gated in (
        ("gelu", F.gelu, False),
        ("gelu-tanh", gelu_tanh, False),
        ("relu", F.relu, False),
        ("silu", F.silu, False),
        ("tanh", torch.tanh, False),
        ("silu-gated", F.silu, True),
        ("gelu-tanh-gated", gelu_tanh, True),
        ("gelu-gated", F.gelu, True),
    ):
        layer(f"feed-forward-{name}", lambda p: feed_forward(p, x(p), activation, gated, bias=not gated))
    layer("pooler-first", lambda p: pooled(p, lambda rows: rows[0]))
    layer("pooler-last", lambda p: pooled(p, lambda rows: rows[-1]))
    layer("pooler-mean", lambda p: pooled(p, lambda rows: rows.mean(0), dense=False))
    layer("lm-head-masked", masked_head)
    layer("lm-head-tied", tied)
    layer("block-post-norm", post_norm)
    layer("block-pre-norm", lambda p: pre_norm(p, layer_norm, gelu_tanh, False))
    llama = dict(kv_heads=2, bias=False, rotary="default")
    layer("block-pre-norm-rms", lambda p: pre_norm(p, rms_norm, F.silu, True, **llama))
    tensors = {name: tensor.float().contiguous() for name, tensor in found.items()}
    save_file(tensors, Path(__file__).resolve().parent / "layers.safetensors")


if __name__ == "__main__":
    main()
