// Rotary position embeddings, activations, dropout.

#include "shape.h"

#include <cmath>

namespace kernels {

namespace {

// Runs one of the activation kernels: x [.., columns], g (backward) and y [.., width].
void activate(const char* kernel, const Tensor& x, const Tensor& g, const Tensor& y, const Tensor& gx, int64_t width,
              Activation act) {
  const int64_t rows = x.numel() / x.size(-1);
  if (rows == 0) return;
  const int vectors = wide(x, width, {const_data(x), const_data(g)});
  launch(kernel, x, {rows, threads_for(x, width, vectors, 256)}, const_data(x), const_data(g), data(y), data(gx), width,
         static_cast<int>(act), vectors);
}

// The sizes of x with half as many columns.
std::vector<int64_t> half_of(const char* kernel, const Tensor& x) {
  check_element(kernel, x);
  TORCH_CHECK(x.size(-1) % 2 == 0, kernel, ": an odd number of columns in ", x.sizes());
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() /= 2;
  return sizes;
}

}  // namespace

void rotary_(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t column, int64_t heads,
             int64_t head_dim, bool backward) {
  const char* const kernel = "rotary";
  check_element(kernel, x);
  TORCH_CHECK(x.dim() == 2 && x.stride(1) == 1 && head_dim > 0 && head_dim % 2 == 0, kernel,
              ": expected rows of consecutive elements and an even head_dim, got ", x.sizes(), " with strides ",
              x.strides(), " and head_dim ", head_dim);
  TORCH_CHECK(column >= 0 && heads >= 0 && column + heads * head_dim <= x.size(1), kernel, ": ", heads, " heads of ",
              head_dim, " from column ", column, " on exceed ", x.sizes());
  const int64_t tokens = x.size(0), half = head_dim / 2;
  for (const Tensor& table : {cosines, sines}) {
    check_sizes(kernel, table, {tokens, half});
    TORCH_CHECK(table.scalar_type() == cosines.scalar_type() && table.device() == x.device(), kernel,
                ": cosines and sines differ in dtype or device");
  }
  const bool fp32 = cosines.scalar_type() == at::kFloat;
  if (!fp32) check_like(kernel, x, cosines);
  if (tokens == 0 || heads == 0) return;
  const Tensor c = cosines.contiguous(), s = sines.contiguous();
  char* const from = static_cast<char*>(x.mutable_data_ptr()) + column * static_cast<int64_t>(x.element_size());
  const int64_t stride = x.stride(0);
  const int vectors = wide(x, half, {from, const_data(c), const_data(s)}) && stride % vector_width(x) == 0;
  launch(fp32 ? "rotary_fp32" : "rotary", x, {tokens, threads_for(x, heads * half, vectors, 256)},
         static_cast<void*>(from), stride, const_data(c), const_data(s), static_cast<int>(heads),
         static_cast<int>(half), backward ? -1.0f : 1.0f, vectors);
}

Tensor gated_activation_forward(const Tensor& input, Activation act) {
  const char* const kernel = "gated_activation_forward";
  Tensor y = at::empty(half_of(kernel, input), input.options());
  activate(kernel, input.contiguous(), Tensor(), y, Tensor(), y.size(-1), act);
  return y;
}

std::tuple<Tensor, Tensor> gated_activation_backward(const Tensor& grad, const Tensor& input, Activation act,
                                                     bool value) {
  const char* const kernel = "gated_activation_backward";
  const std::vector<int64_t> sizes = half_of(kernel, input);
  const Tensor x = input.contiguous(), g = like(kernel, x, grad, sizes);
  Tensor gx = at::empty_like(x), y = value ? at::empty_like(g) : Tensor();
  activate(kernel, x, g, y, gx, sizes.back(), act);
  return {gx, y};
}

Tensor activation_forward(const Tensor& input, Activation act) {
  const char* const kernel = "activation_forward";
  check_element(kernel, input);
  const Tensor x = input.contiguous();
  Tensor y = at::empty_like(x);
  activate(kernel, x, Tensor(), y, Tensor(), x.size(-1), act);
  return y;
}

std::tuple<Tensor, Tensor> activation_backward(const Tensor& grad, const Tensor& input, Activation act, bool value) {
  const char* const kernel = "activation_backward";
  check_element(kernel, input);
  const Tensor x = input.contiguous(), g = like(kernel, x, grad, x.sizes());
  Tensor gx = at::empty_like(x), y = value ? at::empty_like(x) : Tensor();
  activate(kernel, x, g, y, gx, x.size(-1), act);
  return {gx, y};
}

Tensor dropout_add(const Tensor& input, const OptionalTensor& residual, double p, int64_t key) {
  const char* const kernel = "dropout";
  TORCH_CHECK(element(input.scalar_type()) >= 0, kernel, ": there is no kernel for ", input.dtype());
  TORCH_CHECK(p >= 0 && p < 1, kernel, ": the probability ", p, " is not in 0..1");
  const Tensor x = input.contiguous(), more = like(kernel, x, residual, x.sizes());
  Tensor y = at::empty_like(x);
  const int64_t n = x.numel(), width = vector_width(x);
  if (n == 0) return y;
  // As the CPU's dropout computes them.
  const double steps = std::ldexp(1.0, 32);
  const auto threshold = static_cast<uint32_t>(p * steps);
  const auto scale = static_cast<float>(1.0 / (1.0 - threshold / steps));
  const auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32);
  const int vectors = aligned(const_data(x)) && aligned(const_data(more));
  const int64_t items = vectors ? (n + width - 1) / width : n;
  launch(kernel, x, {std::min<int64_t>((items + 255) / 256, 1 << 20), 256}, const_data(x), const_data(more), data(y), n,
         threshold, scale, low, high, vectors);
  return y;
}

}  // namespace kernels
