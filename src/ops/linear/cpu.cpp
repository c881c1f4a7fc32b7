// A linear layer of half types whose matmuls are in fp32: it saves half tensors only.

#include "../../ffi/common.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

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

}  // namespace

extern "C" {

char* trainer_half_linear(void** out, void* x, void* weight, void* bias) {
  return guarded([&] {
    const auto b = bias ? std::optional<Tensor>(tensor(bias)) : std::nullopt;
    *out = new Tensor(HalfLinear::apply(tensor(x), tensor(weight), b));
  });
}
}
