// Layer norm and RMS norm, on the CPU by the functions here and on a GPU by the kernels, with the dropout and the residual addition before them. Saved for backward: the
// sum, and one or two numbers per row; the dropout mask is computed again from its key.

#include "../../ffi/common.h"
#include "../cuda/kernels.h"
#include "../dropout/mask.h"
#include "../vector.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// What is normalized: `layer` subtracts the mean (arXiv 1607.06450), otherwise RMS norm (arXiv 1910.07467).
struct Norm {
  bool layer;
  double eps;
  double p;
  int64_t key;
};

WIDE_VECTORS float squares_of(const float* x, int64_t n, float mean) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}

WIDE_VECTORS void normalized(const float* x, float* y, int64_t n, float mean, float rstd) {
  for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd;
}

WIDE_VECTORS void scale_and_shift(float* y, const float* w, const float* b, int64_t n) {
  if (b) {
    for (int64_t i = 0; i < n; i++) y[i] = y[i] * w[i] + b[i];
  } else {
    for (int64_t i = 0; i < n; i++) y[i] *= w[i];
  }
}

// Adds to the gradients of scale and shift; returns the sums of g w and g w xhat.
WIDE_VECTORS void row_sums(const float* g, const float* x, const float* w, float* gw, float* gb, int64_t n, float mean,
                           float rstd, float* sums) {
  float plain = 0.0f, weighted = 0.0f;
#pragma omp simd reduction(+ : plain, weighted)
  for (int64_t i = 0; i < n; i++) {
    const float xhat = (x[i] - mean) * rstd, a = g[i] * w[i];
    gw[i] += g[i] * xhat;
    gb[i] += g[i];
    plain += a;
    weighted += a * xhat;
  }
  sums[0] = plain;
  sums[1] = weighted;
}

WIDE_VECTORS void row_gradient(const float* g, const float* x, const float* w, const float* direct, float* to, int64_t n,
                               float mean, float rstd, float plain, float weighted) {
  if (direct) {
    for (int64_t i = 0; i < n; i++) {
      to[i] = rstd * (g[i] * w[i] - plain - (x[i] - mean) * rstd * weighted) + direct[i];
    }
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = rstd * (g[i] * w[i] - plain - (x[i] - mean) * rstd * weighted);
  }
}

Tensor single(const Tensor& x) { return x.to(at::kFloat).contiguous(); }

// Half types are converted to fp32 in pieces of this many rows.
int64_t piece_of(const Tensor& x) { return x.scalar_type() == at::kFloat ? std::max<int64_t>(x.size(0), 1) : 512; }

struct ResidualNorm : Function<ResidualNorm> {
  // x and residual [T, n], residual possibly undefined. Returns the sum and the normalized sum.
  static tensor_list forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& residual,
                             const Tensor& weight, const std::optional<Tensor>& bias, Norm norm) {
    const int64_t rows = x.size(0), n = x.size(1);
    const auto kind = x.scalar_type();
    const bool adds = residual.has_value();
    ctx->saved_data["layer"] = norm.layer;
    ctx->saved_data["p"] = norm.p;
    ctx->saved_data["key"] = norm.key;
    ctx->saved_data["adds"] = adds;
    ctx->saved_data["shifts"] = bias.has_value();
    ctx->set_materialize_grads(false);
    if (x.is_cuda()) return on_gpu(ctx, x, residual, weight, bias, norm);
    const Tensor w = single(weight), b = bias ? single(*bias) : Tensor();
    Tensor sum = adds ? at::empty({rows, n}, x.options()) : x.contiguous();
    Tensor y = at::empty({rows, n}, x.options());
    Tensor stats = at::empty({rows, 2}, x.options().dtype(at::kFloat));
    for (int64_t start = 0, step = piece_of(x); start < rows; start += step) {
      const int64_t count = std::min(step, rows - start);
      const auto part = [&](const Tensor& t) { return t.narrow(0, start, count); };
      if (adds) {
        const Tensor from = single(part(x)), to = single(part(*residual));
        const bool whole = kind == at::kFloat;
        Tensor added_rows = whole ? part(sum) : at::empty_like(from);
        const float *xs = from.const_data_ptr<float>(), *rs = to.const_data_ptr<float>();
        float* ss = added_rows.mutable_data_ptr<float>();
        at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; i++) {
            if (norm.p > 0.0) {
              ops::drop(xs + i * n, ss + i * n, n, (start + i) * n, norm.p, norm.key);
            } else {
              std::copy(xs + i * n, xs + (i + 1) * n, ss + i * n);
            }
            ops::add(ss + i * n, rs + i * n, n);
          }
        });
        if (!whole) part(sum).copy_(added_rows);
      }
      // Of the rounded sum, so that backward has the same values.
      const Tensor values = single(part(sum));
      const bool whole = kind == at::kFloat;
      Tensor normed = whole ? part(y) : at::empty_like(values);
      const float* vs = values.const_data_ptr<float>();
      const float *ws = w.const_data_ptr<float>(), *bs = b.defined() ? b.const_data_ptr<float>() : nullptr;
      float *ys = normed.mutable_data_ptr<float>(), *st = stats.mutable_data_ptr<float>() + 2 * start;
      // RMS norm of half types is rounded before scaling, as in Llama.
      const bool scales = whole || norm.layer;
      at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          const float* row = vs + i * n;
          const float mean = norm.layer ? ops::sum(row, n) / static_cast<float>(n) : 0.0f;
          const double variance = squares_of(row, n, mean) / static_cast<double>(n);
          const auto rstd = static_cast<float>(1.0 / std::sqrt(variance + norm.eps));
          st[2 * i] = mean;
          st[2 * i + 1] = rstd;
          normalized(row, ys + i * n, n, mean, rstd);
          if (scales) scale_and_shift(ys + i * n, ws, bs, n);
        }
      });
      if (!whole) part(y).copy_(scales ? normed : normed.to(kind).mul_(weight));
    }
    ctx->save_for_backward({sum, weight, stats});
    return adds ? tensor_list{sum, y} : tensor_list{y};
  }

  static tensor_list on_gpu(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& residual,
                            const Tensor& weight, const std::optional<Tensor>& bias, Norm norm) {
    const bool dropped = norm.p > 0.0;
    const Tensor input = dropped ? kernels::dropout_add(x, residual, norm.p, norm.key) : x;
    const std::optional<Tensor> added = dropped ? std::nullopt : residual;
    Tensor sum, y, mean, rstd;
    if (norm.layer) {
      std::tie(sum, y, mean, rstd) = kernels::layer_norm_forward(input, added, weight, bias, norm.eps);
    } else {
      std::tie(sum, y, rstd) = kernels::rms_norm_forward(input, added, weight, norm.eps);
    }
    ctx->save_for_backward({sum, weight, rstd, mean});
    return residual ? tensor_list{sum, y} : tensor_list{y};
  }

  // The gradients of x, scale and shift.
  static std::tuple<Tensor, Tensor, Tensor> gpu_gradients(const torch::autograd::variable_list& saved, bool layer,
                                                          const Tensor& g, const Tensor& direct) {
    const std::optional<Tensor> sum_gradient = direct.defined() ? std::optional<Tensor>(direct) : std::nullopt;
    if (layer) return kernels::layer_norm_backward(g, sum_gradient, saved[0], saved[1], saved[3], saved[2], true);
    auto [gx, gw] = kernels::rms_norm_backward(g, sum_gradient, saved[0], saved[1], saved[2], true);
    return {gx, gw, Tensor()};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &sum = saved[0], &weight = saved[1], &stats = saved[2];
    const bool adds = ctx->saved_data["adds"].toBool(), layer = ctx->saved_data["layer"].toBool();
    const bool shifts = ctx->saved_data["shifts"].toBool();
    const double p = ctx->saved_data["p"].toDouble();
    const int64_t key = ctx->saved_data["key"].toInt();
    const Tensor direct = adds ? grads[0] : Tensor(), g = adds ? grads[1] : grads[0];
    const auto kind = sum.scalar_type();
    const int64_t rows = sum.size(0), n = sum.size(1);
    Tensor gx, gw, gb;
    if (!g.defined()) {
      gx = direct;
    } else if (sum.is_cuda()) {
      std::tie(gx, gw, gb) = gpu_gradients(saved, layer, g, direct);
      gw = gw.to(weight.scalar_type());
      gb = shifts ? gb.to(weight.scalar_type()) : Tensor();
    } else {
      const Tensor w = single(weight);
      const float* ws = w.const_data_ptr<float>();
      const float* st = stats.const_data_ptr<float>();
      gx = at::empty({rows, n}, sum.options());
      std::vector<double> gws(n, 0.0), gbs(n, 0.0);
      for (int64_t start = 0, step = piece_of(sum); start < rows; start += step) {
        const int64_t count = std::min(step, rows - start);
        const auto part = [&](const Tensor& t) { return t.narrow(0, start, count); };
        const Tensor gs = single(part(g)), xs = single(part(sum));
        const Tensor ds = direct.defined() ? single(part(direct)) : Tensor();
        Tensor to = kind == at::kFloat ? part(gx) : at::empty_like(xs);
        const float *gp = gs.const_data_ptr<float>(), *xp = xs.const_data_ptr<float>();
        const float* dp = ds.defined() ? ds.const_data_ptr<float>() : nullptr;
        float* tp = to.mutable_data_ptr<float>();
        // The parts of several threads are added in their order.
        const int64_t grain = std::max<int64_t>(64, (count + at::get_num_threads() - 1) / at::get_num_threads());
        const int64_t parts = (count + grain - 1) / grain;
        std::vector<std::vector<float>> ows(parts, std::vector<float>(n)), obs(parts, std::vector<float>(n));
        at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
          for (int64_t k = first; k < last; k++) {
            for (int64_t i = k * grain; i < std::min(count, (k + 1) * grain); i++) {
              const float mean = st[2 * (start + i)], rstd = st[2 * (start + i) + 1];
              float sums[2];
              row_sums(gp + i * n, xp + i * n, ws, ows[k].data(), obs[k].data(), n, mean, rstd, sums);
              const float size = static_cast<float>(n), plain = layer ? sums[0] / size : 0.0f;
              row_gradient(gp + i * n, xp + i * n, ws, dp ? dp + i * n : nullptr, tp + i * n, n, mean, rstd, plain,
                           sums[1] / size);
            }
          }
        });
        for (int64_t k = 0; k < parts; k++) {
          for (int64_t i = 0; i < n; i++) {
            gws[i] += ows[k][i];
            gbs[i] += obs[k][i];
          }
        }
        if (kind != at::kFloat) part(gx).copy_(to);
      }
      const auto sums = at::TensorOptions().dtype(at::kDouble);
      // Indices count the tensors that there are.
      const size_t at = adds ? 2 : 1;
      if (ctx->needs_input_grad(at)) gw = at::from_blob(gws.data(), {n}, sums).to(weight.scalar_type());
      if (shifts && ctx->needs_input_grad(at + 1)) gb = at::from_blob(gbs.data(), {n}, sums).to(weight.scalar_type());
    }
    Tensor dropped = gx;
    if (p > 0.0 && gx.defined() && ctx->needs_input_grad(0)) dropped = ops::dropped(gx, p, key);
    return {ctx->needs_input_grad(0) ? dropped : Tensor(), adds ? gx : Tensor(), gw, gb, Tensor()};
  }
};

}  // namespace

extern "C" {

// out[0] = the normalized sum; out[1] = the sum, if there is a residual.
char* trainer_residual_norm(void** out, void* x, void* residual, void* weight, void* bias, bool layer, double eps,
                            double p, int64_t key) {
  return guarded([&] {
    const auto maybe = [](void* pointer) { return pointer ? std::optional<Tensor>(tensor(pointer)) : std::nullopt; };
    const Norm norm = {layer, eps, p, key};
    auto results = ResidualNorm::apply(tensor(x), maybe(residual), tensor(weight), maybe(bias), norm);
    out[0] = new Tensor(results.back());
    if (results.size() > 1) out[1] = new Tensor(results[0]);
  });
}
}
