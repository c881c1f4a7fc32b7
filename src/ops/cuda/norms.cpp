// Root mean square norm and layer norm.

#include "shape.h"

namespace kernels {

namespace {

constexpr int64_t MOST = 256;  // threads of a block: several rows are in flight on a multiprocessor

int64_t threads_of(const Tensor& x, int64_t width, int vectors) {
  return threads_for(x, width, vectors, width > 4 * MOST * vector_width(x) ? 2 * MOST : MOST);
}

Tensor floats(const Tensor& x, at::IntArrayRef sizes) { return at::empty(sizes, x.options().dtype(at::kFloat)); }

Tensor checked_rows(const char* kernel, const Tensor& x) {
  check_element(kernel, x);
  return x.contiguous();
}

// The blocks of a backward pass, each of which sums the weights' gradients of its rows: enough to fill the device, but
// few partial sums compared with the rows.
struct Parts {
  Tensor partial;  // fp32 [blocks, columns], undefined without weights
  Grid grid;
  int in_shared;

  Parts(const Tensor& x, int64_t rows, int64_t width, int64_t columns, int vectors, bool weights) {
    const Limits has = limits(x);
    const int64_t threads = threads_of(x, width, vectors);
    const int64_t full = has.processors * std::max<int64_t>(1, 1024 / threads);
    const int64_t blocks = std::min({rows, full, std::max(has.processors, rows / 16)});
    const size_t bytes = columns * sizeof(float);
    in_shared = weights && bytes <= has.shared;
    grid = {blocks, threads, in_shared ? bytes : 0};
    if (weights) partial = floats(x, {blocks, columns});
  }

  // The sum over blocks, fp32 [columns].
  Tensor sum(const Tensor& x) const {
    if (!partial.defined()) return Tensor();
    const int64_t rows = partial.size(0), columns = partial.size(1);
    Tensor out = floats(x, {columns});
    launch("sum_rows", x, {(columns + 31) / 32, 256}, partial.const_data_ptr<float>(), out.mutable_data_ptr<float>(),
           rows, columns);
    return out;
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rms_norm_forward(const Tensor& input, const OptionalTensor& residual,
                                                    const Tensor& weight, double eps) {
  const char* const kernel = "rms_norm_forward";
  const Tensor x = checked_rows(kernel, input), more = like(kernel, x, residual, x.sizes());
  const int64_t width = x.size(-1), rows = x.numel() / width;
  const Tensor w = like(kernel, x, weight, {width});
  Tensor sum = more.defined() ? at::empty_like(x) : x, y = at::empty_like(x), rstd = floats(x, {rows});
  if (rows > 0) {
    const int vectors = wide(x, width, {const_data(x), const_data(more), const_data(w)});
    launch(kernel, x, {rows, threads_of(x, width, vectors)}, const_data(x), const_data(more), const_data(w), data(sum),
           data(y), rstd.mutable_data_ptr<float>(), width, static_cast<float>(eps), vectors);
  }
  return {sum, y, rstd};
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const OptionalTensor& grad_sum, const Tensor& input,
                                             const Tensor& weight, const Tensor& rstd, bool weights) {
  const char* const kernel = "rms_norm_backward";
  const Tensor x = checked_rows(kernel, input), gy = like(kernel, x, grad, x.sizes());
  const int64_t width = x.size(-1), rows = x.numel() / width;
  const Tensor gsum = like(kernel, x, grad_sum, x.sizes()), w = like(kernel, x, weight, {width});
  check_sizes(kernel, rstd, {rows});
  Tensor gx = at::empty_like(x);
  if (rows == 0) return {gx, weights ? floats(x, {width}).zero_() : Tensor()};
  const int vectors = wide(x, width, {const_data(gy), const_data(gsum), const_data(x), const_data(w)});
  const Parts parts(x, rows, width, width, vectors, weights);
  launch(kernel, x, parts.grid, const_data(gy), const_data(gsum), const_data(x), const_data(w),
         rstd.const_data_ptr<float>(), data(gx), data(parts.partial), rows, width, parts.in_shared, vectors);
  return {gx, parts.sum(x)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> layer_norm_forward(const Tensor& input, const OptionalTensor& residual,
                                                              const Tensor& weight, const OptionalTensor& bias,
                                                              double eps) {
  const char* const kernel = "layer_norm_forward";
  const Tensor x = checked_rows(kernel, input), more = like(kernel, x, residual, x.sizes());
  const int64_t width = x.size(-1), rows = x.numel() / width;
  const Tensor w = like(kernel, x, weight, {width}), b = like(kernel, x, bias, {width});
  Tensor sum = more.defined() ? at::empty_like(x) : x, y = at::empty_like(x);
  Tensor mean = floats(x, {rows}), rstd = floats(x, {rows});
  if (rows > 0) {
    const int vectors = wide(x, width, {const_data(x), const_data(more), const_data(w), const_data(b)});
    launch(kernel, x, {rows, threads_of(x, width, vectors)}, const_data(x), const_data(more), const_data(w),
           const_data(b), data(sum), data(y), mean.mutable_data_ptr<float>(), rstd.mutable_data_ptr<float>(), width,
           static_cast<float>(eps), vectors);
  }
  return {sum, y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& grad, const OptionalTensor& grad_sum,
                                                       const Tensor& input, const Tensor& weight, const Tensor& mean,
                                                       const Tensor& rstd, bool weights) {
  const char* const kernel = "layer_norm_backward";
  const Tensor x = checked_rows(kernel, input), gy = like(kernel, x, grad, x.sizes());
  const int64_t width = x.size(-1), rows = x.numel() / width;
  const Tensor gsum = like(kernel, x, grad_sum, x.sizes()), w = like(kernel, x, weight, {width});
  check_sizes(kernel, mean, {rows});
  check_sizes(kernel, rstd, {rows});
  Tensor gx = at::empty_like(x);
  if (rows == 0) {
    const auto none = [&] { return weights ? floats(x, {width}).zero_() : Tensor(); };
    return {gx, none(), none()};
  }
  const int vectors = wide(x, width, {const_data(gy), const_data(gsum), const_data(x), const_data(w)});
  const Parts parts(x, rows, width, 2 * width, vectors, weights);
  launch(kernel, x, parts.grid, const_data(gy), const_data(gsum), const_data(x), const_data(w),
         mean.const_data_ptr<float>(), rstd.const_data_ptr<float>(), data(gx), data(parts.partial), rows, width,
         parts.in_shared, vectors);
  const Tensor both = parts.sum(x);
  if (!both.defined()) return {gx, Tensor(), Tensor()};
  return {gx, both.narrow(0, 0, width), both.narrow(0, width, width)};
}

}  // namespace kernels
