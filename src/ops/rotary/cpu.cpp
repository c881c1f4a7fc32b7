// Rotary position embeddings (arXiv 2104.09864) in place: queries and keys are columns of one matrix. On the CPU by
// the functions here, on a GPU by the kernel.

#include "../../ffi/common.h"
#include "../cuda/kernels.h"
#include "../vector.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// Rotates one head: its element i is paired with element half + i, as in Hugging Face's weights.
WIDE_VECTORS void rotated(float* x, const float* cos, const float* sin, int64_t half, float sign) {
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[half + i], s = sign * sin[i];
    x[i] = a * cos[i] - b * s;
    x[half + i] = b * cos[i] + a * s;
  }
}

// x [T, columns], contiguous: rotates its first `heads` heads by the angles [T, half]; sign -1 rotates back.
void rotate(Tensor& x, const Tensor& cos, const Tensor& sin, int64_t heads, float sign) {
  const int64_t rows = x.size(0), columns = x.size(1), half = cos.size(1);
  if (x.is_cuda()) return kernels::rotary_(x, cos, sin, 0, heads, 2 * half, sign < 0.0f);
  // Half types in pieces of fp32.
  const bool whole = x.scalar_type() == at::kFloat;
  const Tensor cosines = cos.to(at::kFloat).contiguous(), sines = sin.to(at::kFloat).contiguous();
  const float *cs = cosines.const_data_ptr<float>(), *ss = sines.const_data_ptr<float>();
  const int64_t step = whole ? std::max<int64_t>(rows, 1) : 512;
  for (int64_t start = 0; start < rows; start += step) {
    const int64_t count = std::min(step, rows - start);
    Tensor part = x.narrow(0, start, count);
    Tensor wide = whole ? part : part.narrow(1, 0, heads * 2 * half).to(at::kFloat).contiguous();
    const int64_t width = whole ? columns : heads * 2 * half;
    float* xs = wide.mutable_data_ptr<float>();
    at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        for (int64_t h = 0; h < heads; h++) {
          rotated(xs + i * width + h * 2 * half, cs + (start + i) * half, ss + (start + i) * half, half, sign);
        }
      }
    });
    if (!whole) part.narrow(1, 0, width).copy_(wide);
  }
}

struct Rotary : Function<Rotary> {
  static Tensor forward(AutogradContext* ctx, Tensor x, const Tensor& cos, const Tensor& sin, int64_t heads) {
    TORCH_CHECK(x.is_contiguous(), "rotary embeddings of a matrix that is not contiguous");
    ctx->mark_dirty({x});
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["heads"] = heads;
    rotate(x, cos, sin, heads, 1.0f);
    return x;
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    // Nobody else sees a gradient that is held here alone.
    const bool alone = grads[0].use_count() == 1 && grads[0].storage().use_count() == 1 && grads[0].is_contiguous();
    Tensor g = alone ? grads[0] : grads[0].clone(at::MemoryFormat::Contiguous);
    rotate(g, saved[0], saved[1], ctx->saved_data["heads"].toInt(), -1.0f);
    return {g, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" {

// out = x, rotated in place.
char* trainer_rotary(void** out, void* x, void* cos, void* sin, int64_t heads) {
  return guarded([&] { *out = new Tensor(Rotary::apply(tensor(x), tensor(cos), tensor(sin), heads)); });
}
}
