// Layers with a custom backward for the CPU: dropout that saves no mask, and layers for bf16 and fp16 tensors that
// compute in fp32, round the result once and save only half tensors for backward.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <cstdint>
#include <optional>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// A counter-based generator: element i of a mask is a pure function of `key` and i. The mixing function is
// "lowbias32" (Chris Wellons, Hash Prospector), applied twice with the halves of the key, 32 bits an element.
inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  x ^= x >> 16;
  return x;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE_VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE_VECTORS
#endif

WIDE_VECTORS void drop(const float* x, float* y, int64_t begin, int64_t end, uint32_t threshold, float scale,
                       uint32_t low, uint32_t high) {
  for (int64_t i = begin; i < end; i++) {
    uint32_t bits = mix(mix(static_cast<uint32_t>(i) ^ low) + high);
    y[i] = bits >= threshold ? x[i] * scale : 0.0f;
  }
}

// Half values are converted to fp32 and back: libtorch's conversions are vectorized, and the product is rounded once.
Tensor dropped(const Tensor& input, double p, int64_t key) {
  Tensor x = input.to(at::kFloat).contiguous();
  Tensor y = at::empty_like(x);
  const double steps = std::ldexp(1.0, 32);
  const auto threshold = static_cast<uint32_t>(p * steps);
  const auto scale = static_cast<float>(1.0 / (1.0 - threshold / steps));
  const auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    drop(from, to, begin, end, threshold, scale, low, high);
  });
  return y.to(input.scalar_type());
}

// Dropout that saves no mask: backward recomputes it from the key.
struct Dropout : Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double p, int64_t key) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = key;
    return dropped(x, p, key);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    Tensor g = dropped(grads[0], ctx->saved_data["p"].toDouble(), ctx->saved_data["key"].toInt());
    return {g, Tensor(), Tensor()};
  }
};

Tensor single(const Tensor& x) { return x.to(at::kFloat); }

// y = x W^T + b. Saves the weight itself, not a copy, so that its storage may be freed until backward.
struct HalfLinear : Function<HalfLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
    // Each factor is needed only for the other's gradient.
    ctx->save_for_backward({w.requires_grad() ? x : Tensor(), x.requires_grad() ? w : Tensor()});
    ctx->saved_data["bias"] = b.has_value();
    std::optional<Tensor> bias;
    if (b) bias = single(*b);
    return at::linear(single(x), single(w), bias).to(x.scalar_type());
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto kind = grads[0].scalar_type();
    const Tensor g = single(grads[0]);
    Tensor gx, gw, gb;
    if (ctx->needs_input_grad(0)) gx = g.matmul(single(saved[1])).to(kind);
    if (ctx->needs_input_grad(1)) gw = g.t().matmul(single(saved[0])).to(kind);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) gb = g.sum(0).to(kind);
    return {gx, gw, gb};
  }
};

// libtorch's half kernel sums the gradients of scale and shift in half precision: 18 % error for 5000 rows of bf16.
struct HalfLayerNorm : Function<HalfLayerNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, const Tensor& b, double eps) {
    auto [y, mean, rstd] = at::native_layer_norm(single(x), {x.size(-1)}, single(w), single(b), eps);
    ctx->save_for_backward({x, w, b, mean, rstd});
    return y.to(x.scalar_type());
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto s = ctx->get_saved_variables();
    const auto kind = grads[0].scalar_type();
    const std::array<bool, 3> needed = {ctx->needs_input_grad(0), ctx->needs_input_grad(1), ctx->needs_input_grad(2)};
    auto [gx, gw, gb] = at::native_layer_norm_backward(single(grads[0]), single(s[0]), {s[0].size(-1)}, s[3], s[4],
                                                       single(s[1]), single(s[2]), needed);
    tensor_list out = {gx, gw, gb, Tensor()};
    for (Tensor& g : out) {
      if (g.defined()) g = g.to(kind);
    }
    return out;
  }
};

// softmax(scale q k^T + mask), fp32
Tensor attention_weights(const Tensor& q, const Tensor& k, const std::optional<Tensor>& mask, double scale) {
  Tensor scores = (q * scale).matmul(k.transpose(-2, -1));
  if (mask) scores += *mask;
  return scores.softmax(-1);
}

// Converts to fp32 with the layout for batched matmuls.
Tensor packed(const Tensor& x) { return x.to(at::kFloat, false, false, at::MemoryFormat::Contiguous); }

// dropout(softmax(scale q k^T + mask)) v of `[n, heads, length, head_dim]`. Without dropout it uses libtorch's blocked
// kernel, whose backward also needs the result and one number per row. With dropout, backward recomputes the weights.
struct HalfAttention : Function<HalfAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& mask, double scale, double p, int64_t key) {
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = key;
    const Tensor bias = mask.value_or(Tensor());
    if (p == 0.0) {
      auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(single(q), single(k), single(v), 0.0,
                                                                         /*is_causal=*/false, mask, scale);
      Tensor y = out.to(q.scalar_type());
      ctx->save_for_backward({q, k, v, bias, y, sums});
      return y;
    }
    const Tensor weights = dropped(attention_weights(packed(q), packed(k), mask, scale), p, key);
    // Token rows, the layout of the next layer's input.
    Tensor y = at::empty({q.size(0), q.size(2), q.size(1), v.size(3)}, q.options()).transpose(1, 2);
    y.copy_(weights.matmul(packed(v)));
    ctx->save_for_backward({q, k, v, bias});
    return y;
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto s = ctx->get_saved_variables();
    const double scale = ctx->saved_data["scale"].toDouble(), p = ctx->saved_data["p"].toDouble();
    const int64_t key = ctx->saved_data["key"].toInt();
    const auto kind = grads[0].scalar_type();
    std::optional<Tensor> mask;
    if (s[3].defined()) mask = s[3];
    Tensor gq, gk, gv;
    if (p == 0.0) {
      std::tie(gq, gk, gv) = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          single(grads[0]), single(s[0]), single(s[1]), single(s[2]), single(s[4]), s[5], 0.0, /*is_causal=*/false,
          mask, scale);
    } else {
      const Tensor g = packed(grads[0]), q = packed(s[0]), k = packed(s[1]), v = packed(s[2]);
      const Tensor weights = attention_weights(q, k, mask, scale);
      gv = dropped(weights, p, key).transpose(-2, -1).matmul(g);
      Tensor gs = dropped(g.matmul(v.transpose(-2, -1)), p, key);
      gs = at::_softmax_backward_data(gs, weights, -1, at::kFloat).mul_(scale);
      gq = gs.matmul(k);
      gk = gs.transpose(-2, -1).matmul(q);
    }
    return {gq.to(kind), gk.to(kind), gv.to(kind), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

std::optional<Tensor> maybe(void* pointer) {
  return pointer ? std::optional<Tensor>(tensor(pointer)) : std::nullopt;
}

}  // namespace

// Each returns a new at::Tensor, which the caller owns.
extern "C" {

char* trainer_dropout(void** out, void* x, double p, int64_t key) {
  return guarded([&] { *out = new Tensor(Dropout::apply(tensor(x), p, key)); });
}

char* trainer_half_linear(void** out, void* x, void* weight, void* bias) {
  return guarded([&] { *out = new Tensor(HalfLinear::apply(tensor(x), tensor(weight), maybe(bias))); });
}

char* trainer_half_layer_norm(void** out, void* x, void* weight, void* bias, double eps) {
  return guarded([&] { *out = new Tensor(HalfLayerNorm::apply(tensor(x), tensor(weight), tensor(bias), eps)); });
}

char* trainer_half_attention(void** out, void* q, void* k, void* v, void* mask, double scale, double p, int64_t key) {
  return guarded([&] {
    *out = new Tensor(HalfAttention::apply(tensor(q), tensor(k), tensor(v), maybe(mask), scale, p, key));
  });
}
}
