// Cross-entropy, and the sum of squares for the gradient norm.

#include "shape.h"

namespace kernels {

Tensor cross_entropy_(const Tensor& logits, const Tensor& targets, double smoothing) {
  const char* const kernel = "cross_entropy";
  check_element(kernel, logits);
  TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous(), kernel, ": expected contiguous logits [n, V], got ",
              logits.sizes(), " with strides ", logits.strides());
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  check_sizes(kernel, targets, {rows});
  TORCH_CHECK(targets.scalar_type() == at::kLong && targets.device() == logits.device(), kernel, ": targets are ",
              targets.dtype(), " on ", targets.device());
  const Tensor wanted = targets.contiguous();
  Tensor loss = at::empty({rows}, logits.options().dtype(at::kFloat));
  if (rows == 0) return loss;
  const int vectors = wide(logits, vocabulary, {const_data(logits)});
  launch(kernel, logits, {rows, threads_for(logits, vocabulary, vectors, 1024)}, data(logits),
         wanted.const_data_ptr<int64_t>(), loss.mutable_data_ptr<float>(), vocabulary, static_cast<float>(smoothing),
         vectors);
  return loss;
}

Tensor sum_of_squares(const Tensor& x) {
  const char* const kernel = "sum_of_squares";
  TORCH_CHECK(element(x.scalar_type()) >= 0, kernel, ": there is no kernel for ", x.dtype());
  TORCH_CHECK(x.is_contiguous(), kernel, ": expected a contiguous buffer, got ", x.sizes(), " with strides ",
              x.strides());
  const int64_t n = x.numel(), of_block = 256 * 4 * vector_width(x);
  const auto options = x.options().dtype(at::kDouble);
  if (n == 0) return at::zeros({}, options);
  // Not by the device: the order of the additions would depend on it.
  const int64_t blocks = std::clamp<int64_t>((n + of_block - 1) / of_block, 1, 1024);
  Tensor partial = at::empty({blocks}, options), out = at::empty({}, options);
  launch(kernel, x, {blocks, 256}, const_data(x), partial.mutable_data_ptr<double>(), n,
         static_cast<int>(aligned(const_data(x))));
  launch("sum_of_parts", x, {1, 256}, partial.const_data_ptr<double>(), out.mutable_data_ptr<double>(), blocks);
  return out;
}

}  // namespace kernels
