// The second half of a gated feed-forward layer: y = (f(gate) * up) W^T + b. Saves gate and up only: backward
// computes their product again.

#include "../../ffi/common.h"
#include "../cuda/kernels.h"
#include "../dropout/mask.h"
#include "../vector.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// As `nn::Activation`.
enum class Activation : int64_t { Gelu, GeluTanh, Relu, Silu, Tanh };

WIDE_VECTORS void silu_product(const float* gate, const float* up, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = gate[i] / (1.0f + ops::exponential(-gate[i])) * up[i];
}

// The gradients of gate and up from that of the product, and the product.
WIDE_VECTORS void silu_gradients(const float* g, const float* gate, const float* up, float* to_gate, float* to_up,
                                 float* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const float sigmoid = 1.0f / (1.0f + ops::exponential(-gate[i])), value = gate[i] * sigmoid, g_i = g[i];
    y[i] = value * up[i];
    to_up[i] = g_i * value;
    to_gate[i] = g_i * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
  }
}

Tensor activated(Activation f, const Tensor& x) {
  switch (f) {
    case Activation::Gelu: return at::gelu(x);
    case Activation::GeluTanh: return at::gelu(x, "tanh");
    case Activation::Relu: return at::relu(x);
    case Activation::Silu: return at::silu(x);
    case Activation::Tanh: return at::tanh(x);
  }
  TORCH_CHECK(false, "unknown activation");
}

Tensor activated_backward(Activation f, const Tensor& g, const Tensor& x, const Tensor& y) {
  switch (f) {
    case Activation::Gelu: return at::gelu_backward(g, x);
    case Activation::GeluTanh: return at::gelu_backward(g, x, "tanh");
    case Activation::Relu: return at::threshold_backward(g, y, 0);
    case Activation::Silu: return at::silu_backward(g, x);
    case Activation::Tanh: return at::tanh_backward(g, y);
  }
  TORCH_CHECK(false, "unknown activation");
}

kernels::Activation on_gpu(Activation f) {
  switch (f) {
    case Activation::Gelu: return kernels::Activation::Gelu;
    case Activation::GeluTanh: return kernels::Activation::GeluTanh;
    case Activation::Relu: return kernels::Activation::Relu;
    case Activation::Silu: return kernels::Activation::Silu;
    case Activation::Tanh: return kernels::Activation::Tanh;
  }
  TORCH_CHECK(false, "unknown activation");
}

constexpr int64_t kRows = 128;  // of pieces that stay in the cache

// f(gate) * up of `x` [T, 2 n], gate first: [T, n].
Tensor product(Activation f, const Tensor& x) {
  if (x.is_cuda()) return kernels::gated_activation_forward(x, on_gpu(f));
  const int64_t rows = x.size(0), n = x.size(1) / 2;
  Tensor y = at::empty({rows, n}, x.options());
  if (f == Activation::Silu && x.scalar_type() == at::kFloat && x.is_contiguous()) {
    const float* from = x.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) silu_product(from + 2 * i * n, from + (2 * i + 1) * n, to + i * n, n);
    });
    return y;
  }
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    const Tensor part = x.narrow(0, start, count).to(at::kFloat);
    y.narrow(0, start, count).copy_(activated(f, part.narrow(1, 0, n)).mul_(part.narrow(1, n, n)));
  }
  return y;
}

// The gradient of `x` from that of the product; also the product itself.
std::pair<Tensor, Tensor> gradients(Activation f, const Tensor& g, const Tensor& x) {
  if (x.is_cuda()) {
    auto [gx, y] = kernels::gated_activation_backward(g, x, on_gpu(f), /*value=*/true);
    return {gx, y};
  }
  const int64_t rows = x.size(0), n = x.size(1) / 2;
  Tensor gx = at::empty(x.sizes(), x.options()), y = at::empty({rows, n}, x.options());
  if (f == Activation::Silu && x.scalar_type() == at::kFloat && x.is_contiguous() && g.is_contiguous()) {
    const float *from = x.const_data_ptr<float>(), *gs = g.const_data_ptr<float>();
    float *to = gx.mutable_data_ptr<float>(), *ys = y.mutable_data_ptr<float>();
    at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        silu_gradients(gs + i * n, from + 2 * i * n, from + (2 * i + 1) * n, to + 2 * i * n, to + (2 * i + 1) * n,
                       ys + i * n, n);
      }
    });
    return {gx, y};
  }
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    const Tensor part = x.narrow(0, start, count).to(at::kFloat), grad = g.narrow(0, start, count).to(at::kFloat);
    const Tensor gate = part.narrow(1, 0, n), up = part.narrow(1, n, n), value = activated(f, gate);
    y.narrow(0, start, count).copy_(value * up);
    gx.narrow(0, start, count).narrow(1, n, n).copy_(grad * value);
    gx.narrow(0, start, count).narrow(1, 0, n).copy_(activated_backward(f, grad * up, gate, value));
  }
  return {gx, y};
}

struct GatedLinear : Function<GatedLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                        int64_t f, double p, int64_t key, bool upcast) {
    // The weight itself is saved, not a copy, so that its storage may be freed until backward.
    ctx->save_for_backward({x, w});
    ctx->saved_data["f"] = f;
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = key;
    ctx->saved_data["upcast"] = upcast;
    ctx->saved_data["bias"] = b.has_value();
    Tensor y = product(static_cast<Activation>(f), x.contiguous());
    if (p > 0.0) y = ops::dropped(y, p, key);
    const auto kind = upcast ? at::kFloat : x.scalar_type();
    std::optional<Tensor> bias;
    if (b) bias = b->to(kind);
    return at::linear(y.to(kind), w.to(kind), bias).to(x.scalar_type());
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1];
    const double p = ctx->saved_data["p"].toDouble();
    const int64_t key = ctx->saved_data["key"].toInt();
    const auto kind = x.scalar_type(), inner = ctx->saved_data["upcast"].toBool() ? at::kFloat : kind;
    const Tensor g = grads[0].to(inner);
    Tensor to_product = g.mm(w.to(inner));
    if (p > 0.0) to_product = ops::dropped(to_product, p, key);
    auto [gx, y] = gradients(static_cast<Activation>(ctx->saved_data["f"].toInt()), to_product, x.contiguous());
    to_product.reset();
    if (p > 0.0) y = ops::dropped(y, p, key);
    Tensor gw, gb, none;
    if (ctx->needs_input_grad(1)) gw = g.t().mm(y.to(inner)).to(kind);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) gb = g.sum(0).to(kind);
    return {gx, gw, gb, none, none, none, none};
  }
};

}  // namespace

extern "C" {

char* trainer_gated_linear(void** out, void* x, void* weight, void* bias, int64_t activation, double p, int64_t key,
                           bool upcast) {
  return guarded([&] {
    const auto b = bias ? std::optional<Tensor>(tensor(bias)) : std::nullopt;
    *out = new Tensor(GatedLinear::apply(tensor(x), tensor(weight), b, activation, p, key, upcast));
  });
}
}
