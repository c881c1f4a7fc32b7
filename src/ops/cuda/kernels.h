// The project's own CUDA kernels, as functions of tensors. `available` says whether a tensor's device has them; where
// it has not, libtorch's operations compute the same. The formulas are in `src/ops/<op>/*.cu`.
//
// Tensors are float, bf16 or fp16, all arguments of a call alike, on one device; sums are accumulated in fp32. Rows are
// the last dimension, and what is in front of it counts as T rows. Arguments that are not contiguous are copied, except
// those that are changed in place. Nothing here records a graph. A tensor of other shape or dtype is a c10::Error.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

namespace kernels {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Whether the kernels can be used for this tensor. The first call for a device and an element type compiles and loads
// them; if that fails, one warning has the reason.
bool available(const Tensor& x);

// Describes the state of the kernels for GPU `device`: ready, turned off, or why they cannot be used.
std::string state(int64_t device);

// x, residual [.., H]; w [H]. Returns sum = x + residual (x itself without residual), y [.., H], and rstd, fp32 [T].
std::tuple<Tensor, Tensor, Tensor> rms_norm_forward(const Tensor& x, const OptionalTensor& residual, const Tensor& w,
                                                    double eps);

// gy, and if it is used gsum, are the gradients of y and sum. Returns gx [.., H], which is also the residual's
// gradient, and gw, fp32 [H], undefined unless `weights`. The sums over rows have a fixed order on a given GPU.
std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& gy, const OptionalTensor& gsum, const Tensor& sum,
                                             const Tensor& w, const Tensor& rstd, bool weights);

// x, residual [.., H]; w, b [H], b possibly absent. Returns sum, y [.., H], mean and rstd, fp32 [T].
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_norm_forward(const Tensor& x, const OptionalTensor& residual,
                                                              const Tensor& w, const OptionalTensor& b,
                                                              double eps);

// As rms_norm_backward. Returns gx [.., H], and gw and gb, fp32 [H], undefined unless `weights`.
std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(const Tensor& gy, const OptionalTensor& gsum, const Tensor& sum,
                                                       const Tensor& w, const Tensor& mean, const Tensor& rstd,
                                                       bool weights);

// Rotates `heads` heads of `head_dim` columns of x [T, columns], from `column` on, in place. Rows may have any stride.
// cosines, sines [T, head_dim / 2], fp32 or x's type. `backward`: the inverse rotation, for gradients.
void rotary_(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t column, int64_t heads,
             int64_t head_dim, bool backward);

// The order is that of activate() in src/ops/gated/kernel.cu.
enum class Activation : int { Silu, Gelu, GeluTanh, Relu, Tanh };

// x [.., 2 I], gate columns first. Returns act(gate) up [.., I].
Tensor gated_activation_forward(const Tensor& x, Activation act);

// g [.., I], x as in forward. Returns the gradient of x, and with `value` forward's result again (else undefined).
std::tuple<Tensor, Tensor> gated_activation_backward(const Tensor& g, const Tensor& x, Activation act, bool value);

// act(x) of any shape, and its backward as above.
Tensor activation_forward(const Tensor& x, Activation act);
std::tuple<Tensor, Tensor> activation_backward(const Tensor& g, const Tensor& x, Activation act, bool value);

// logits [n, V], contiguous: each row is replaced by the gradient of its loss. targets: int64 [n]. Returns the losses,
// fp32 [n]; a target outside of 0..V has the loss NaN. `smoothing` is that of torch.nn.CrossEntropyLoss.
Tensor cross_entropy_(const Tensor& logits, const Tensor& targets, double smoothing);

// Returns the sum of squares of all elements of x, contiguous: fp64, no dimensions. The order of additions depends only
// on the number of elements and on whether x begins at a multiple of 16 bytes.
Tensor sum_of_squares(const Tensor& x);

// residual + dropout(x), of any one shape: element i of the mask is that of the CPU's dropout with this key. For
// backward, call it with the gradient and no residual.
Tensor dropout_add(const Tensor& x, const OptionalTensor& residual, double p, int64_t key);

}  // namespace kernels
