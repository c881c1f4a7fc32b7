// Dropout that stores no mask: backward computes it again from the key.

#include "mask.h"

#include "../../ffi/common.h"
#include "../cuda/kernels.h"
#include "../vector.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// Element i of a mask is a pure function of `key` and i. The mixing function is "lowbias32" (Chris Wellons, Hash
// Prospector), applied twice with the halves of the key, 32 bits an element.
inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  x ^= x >> 16;
  return x;
}

WIDE_VECTORS void masked(const float* x, float* y, int64_t n, uint32_t first, uint32_t threshold, float scale,
                         uint32_t low, uint32_t high) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = mix(mix((first + static_cast<uint32_t>(i)) ^ low) + high);
    y[i] = bits >= threshold ? x[i] * scale : 0.0f;
  }
}

struct Dropout : Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double p, int64_t key) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = key;
    return ops::dropped(x, p, key);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    Tensor g = ops::dropped(grads[0], ctx->saved_data["p"].toDouble(), ctx->saved_data["key"].toInt());
    return {g, Tensor(), Tensor()};
  }
};

}  // namespace

namespace ops {

void drop(const float* x, float* y, int64_t n, int64_t first, double p, int64_t key) {
  constexpr double kSteps = 4294967296.0;
  const auto threshold = static_cast<uint32_t>(p * kSteps);
  const auto scale = static_cast<float>(1.0 / (1.0 - threshold / kSteps));
  const auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32);
  masked(x, y, n, static_cast<uint32_t>(first), threshold, scale, low, high);
}

// Half values are converted to fp32 and back: libtorch's conversions are vectorized, and the product is rounded once.
Tensor dropped(const Tensor& input, double p, int64_t key) {
  if (input.is_cuda()) return kernels::dropout_add(input, std::nullopt, p, key);
  const Tensor x = input.to(at::kFloat).contiguous();
  Tensor y = at::empty_like(x);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    drop(from + begin, to + begin, end - begin, begin, p, key);
  });
  return y.to(input.scalar_type());
}

}  // namespace ops

extern "C" {

// out = a new at::Tensor, which the caller owns.
char* trainer_dropout(void** out, void* x, double p, int64_t key) {
  return guarded([&] { *out = new Tensor(Dropout::apply(tensor(x), p, key)); });
}
}
