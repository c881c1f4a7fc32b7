// What tch does not bind, over libtorch's public C++ interface. Every function returns nullptr, or a message that
// the caller frees. A tch::Tensor's pointer is an at::Tensor*. No CUDA headers are needed.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <cstdint>

namespace {

// A counter-based generator: element i of the mask of `key` is a pure function of both. The mixing function is
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

at::Tensor dropped(const at::Tensor& input, double p, int64_t key) {
  at::Tensor x = input.contiguous();
  at::Tensor y = at::empty_like(x);
  const double steps = std::ldexp(1.0, 32);
  const auto threshold = static_cast<uint32_t>(p * steps);
  const auto scale = static_cast<float>(1.0 / (1.0 - threshold / steps));
  const auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    drop(from, to, begin, end, threshold, scale, low, high);
  });
  return y;
}

// Dropout that keeps no mask: backward makes the same one again from the key.
struct Dropout : torch::autograd::Function<Dropout> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, double p, int64_t key) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = key;
    return dropped(x, p, key);
  }
  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* ctx,
                                               torch::autograd::tensor_list grads) {
    at::Tensor g = dropped(grads[0], ctx->saved_data["p"].toDouble(), ctx->saved_data["key"].toInt());
    return {g, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// backward from `n` roots, each with its gradient.
char* trainer_backward(void** roots, void** grads, size_t n) {
  return guarded([&] {
    torch::autograd::variable_list outputs, starts;
    for (size_t i = 0; i < n; i++) {
      outputs.push_back(tensor(roots[i]));
      starts.push_back(tensor(grads[i]));
    }
    torch::autograd::backward(outputs, starts);
  });
}

// Makes `grad` the place where backward accumulates the gradient of the leaf `leaf`.
char* trainer_set_grad(void* leaf, void* grad) {
  return guarded([&] { tensor(leaf).mutable_grad() = tensor(grad); });
}

// out = dropout(x) for a float tensor on the CPU; out is an empty at::Tensor made by the caller's side.
char* trainer_dropout(void** out, void* x, double p, int64_t key) {
  return guarded([&] { *out = new at::Tensor(Dropout::apply(tensor(x), p, key)); });
}

// One AdamW step (arXiv 1711.05101) on flat slices, in place. `step` counts from 1; gradients are divided by
// `grad_scale` when it is not 1.
char* trainer_fused_adamw(void* weights, void* grads, void* exp_avg, void* exp_avg_sq, double lr, double beta1,
                          double beta2, double weight_decay, double eps, double step, double grad_scale) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor& w = tensor(weights);
    at::Tensor count = at::full({}, step, w.options().dtype(at::kFloat));
    std::optional<at::Tensor> scale;
    if (grad_scale != 1.0) scale = at::full({}, grad_scale, w.options().dtype(at::kFloat));
    at::_fused_adamw_({w}, {tensor(grads)}, {tensor(exp_avg)}, {tensor(exp_avg_sq)}, {}, {count}, lr, beta1, beta2,
                      weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false, scale, std::nullopt);
  });
}
}
