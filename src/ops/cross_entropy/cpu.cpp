// Linear layer and cross entropy in one operation: logits exist for a few rows at a time. The loss's gradient is known
// as soon as a row's logits are, so that forward also computes the gradients of x, weight and bias for a root gradient
// of 1, and backward only multiplies them.

#include "../../ffi/common.h"
#include "../cuda/kernels.h"
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

WIDE_VECTORS void scaled(float* x, int64_t n, float factor, float offset) {
  for (int64_t i = 0; i < n; i++) x[i] = x[i] * factor - offset;
}

// The loss of one row of logits: log sum exp(x) - (1 - s) x[target] - s mean(x), s the label smoothing (arXiv
// 1512.00567, section 7, as in torch). With `learns`, the row becomes its gradient: softmax(x) - (1 - s) onehot - s / V.
float row_loss(float* x, int64_t n, int64_t target, double smoothing, bool learns) {
  constexpr int64_t kPiece = 2048;  // f32 sums of pieces, added in f64
  const float shift = ops::largest(x, n), at_target = x[target];
  double sum = 0.0, mean = 0.0;
  if (smoothing > 0.0) {
    for (int64_t i = 0; i < n; i += kPiece) mean += ops::sum(x + i, std::min(kPiece, n - i));
    mean /= static_cast<double>(n);
  }
  float scratch[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    sum += ops::exponentials(x + i, learns ? x + i : scratch, std::min(kPiece, n - i), shift);
  }
  if (learns) {
    scaled(x, n, static_cast<float>(1.0 / sum), static_cast<float>(smoothing / static_cast<double>(n)));
    x[target] -= static_cast<float>(1.0 - smoothing);
  }
  return static_cast<float>(std::log(sum) + shift - (1.0 - smoothing) * at_target - smoothing * mean);
}

// Losses f32 [n] of logits f32 [n, V]; with `learns`, the logits become their gradients.
void row_losses(Tensor& logits, const Tensor& classes, Tensor losses, double smoothing, bool learns) {
  const int64_t n = logits.size(0), width = logits.size(1);
  if (logits.is_cuda() && kernels::available(logits)) {
    losses.copy_(kernels::cross_entropy_(logits, classes, smoothing));
    return;
  }
  if (!logits.is_cpu()) {
    // Elsewhere by libtorch's operations.
    const Tensor probabilities = at::log_softmax(logits, 1);
    const Tensor at_targets = probabilities.gather(1, classes.unsqueeze(1)).squeeze(1);
    losses.copy_(at_targets.mul(-(1.0 - smoothing)));
    if (smoothing > 0.0) losses.sub_(probabilities.mean(1), smoothing);
    if (learns) {
      at::exp_out(logits, probabilities);
      if (smoothing > 0.0) logits.sub_(smoothing / static_cast<double>(width));
      logits.scatter_add_(1, classes.unsqueeze(1), at::full({n, 1}, smoothing - 1.0, logits.options()));
    }
    return;
  }
  float* rows = logits.mutable_data_ptr<float>();
  float* to = losses.mutable_data_ptr<float>();
  const int64_t* targets = classes.const_data_ptr<int64_t>();
  at::parallel_for(0, n, std::max<int64_t>(1, 32768 / width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      TORCH_CHECK(targets[i] >= 0 && targets[i] < width, "class ", targets[i], " of ", width);
      to[i] = row_loss(rows + i * width, width, targets[i], smoothing, learns);
    }
  });
}

// The type in which matrices are multiplied, and a factor that keeps small fp16 gradients from becoming zero.
struct Multiply {
  at::ScalarType kind;
  double factor;
};

// a b in f32.
Tensor product(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble) return a.mm(b);
  return a.is_cpu() ? a.mm(b).to(at::kFloat) : at::mm(a, b, at::kFloat);
}

// sum += a b; `sum` is f32.
void add_product(Tensor& sum, const Tensor& a, const Tensor& b) {
  if (a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble) {
    sum.addmm_(a, b);
  } else {
    sum.add_(product(a, b));
  }
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  // Returns losses f32 [n], without a gradient, and their sum, with one.
  static tensor_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                             const std::optional<Tensor>& b, const Tensor& classes, double smoothing, int64_t rows, Multiply how, bool learns) {
    const int64_t n = x.size(0);
    const Tensor bias = b.value_or(Tensor());
    const auto options = x.options().dtype(at::kFloat);
    const bool for_x = learns && x.requires_grad(), for_weight = learns && weight.requires_grad();
    const bool for_bias = learns && bias.defined() && bias.requires_grad();
    Tensor losses = at::empty({n}, options);
    const Tensor w = weight.to(how.kind), wide_bias = bias.defined() ? bias.to(at::kFloat) : Tensor();
    Tensor gx = for_x ? at::empty({n, x.size(1)}, options) : Tensor();
    Tensor gw = for_weight ? at::zeros(weight.sizes(), options) : Tensor();
    Tensor gb = for_bias ? at::zeros(bias.sizes(), options) : Tensor();
    for (int64_t start = 0; start < n; start += rows) {
      const int64_t count = std::min(rows, n - start);
      const Tensor part = x.narrow(0, start, count).to(how.kind);
      Tensor logits = product(part, w.t());
      if (wide_bias.defined()) logits.add_(wide_bias);
      row_losses(logits, classes.narrow(0, start, count), losses.narrow(0, start, count), smoothing,
                 for_x || for_weight || for_bias);
      if (for_bias) gb.add_(logits.sum(0));
      if (!for_x && !for_weight) continue;
      if (how.factor != 1.0) logits.mul_(how.factor);
      const Tensor grads = logits.to(how.kind);
      if (for_x) gx.narrow(0, start, count).copy_(product(grads, w));
      if (for_weight) add_product(gw, grads.t(), part);
    }
    ctx->saved_data["factor"] = how.factor;
    ctx->saved_data["x"] = for_x ? c10::IValue(gx) : c10::IValue();
    ctx->saved_data["weight"] = for_weight ? c10::IValue(gw) : c10::IValue();
    ctx->saved_data["bias"] = for_bias ? c10::IValue(gb) : c10::IValue();
    ctx->saved_data["kind"] = static_cast<int64_t>(x.scalar_type());
    ctx->mark_non_differentiable({losses});
    return {losses, losses.sum()};
  }

  // The gradients are used once: they are multiplied in place.
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto kind = static_cast<at::ScalarType>(ctx->saved_data["kind"].toInt());
    const double factor = ctx->saved_data["factor"].toDouble();
    const auto gradient = [&](const char* name, double factor) {
      const c10::IValue value = std::move(ctx->saved_data[name]);
      ctx->saved_data.erase(name);
      if (value.isNone()) return Tensor();
      return value.toTensor().mul_(factor == 1.0 ? grads[1] : grads[1] / factor).to(kind);
    };
    Tensor none;
    return {gradient("x", factor), gradient("weight", factor), gradient("bias", 1.0), none, none, none, none, none};
  }
};

}  // namespace

extern "C" {

// out[0] = losses f32 [n], out[1] = their sum. `rows` logits exist at a time, multiplied in fp32 if `upcast`.
char* trainer_linear_cross_entropy(void** out, void* x, void* weight, void* bias, void* classes, double smoothing,
                                   int64_t rows, bool upcast) {
  return guarded([&] {
    const Tensor &input = tensor(x), &matrix = tensor(weight);
    const auto b = bias ? std::optional<Tensor>(tensor(bias)) : std::nullopt;
    const auto kind = upcast ? at::kFloat : input.scalar_type();
    const Multiply how = {kind, kind == at::kHalf ? 4096.0 : 1.0};
    const bool learns = at::GradMode::is_enabled() &&
                        (input.requires_grad() || matrix.requires_grad() || (b && b->requires_grad()));
    auto results = LinearCrossEntropy::apply(input, matrix, b, tensor(classes), smoothing, rows, how, learns);
    out[0] = new Tensor(results[0]);
    out[1] = new Tensor(results[1]);
  });
}
}
