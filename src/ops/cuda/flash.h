// Attention of sequences of different lengths on a GPU, by libtorch's fused kernels: no padding and no mask in memory.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace kernels {

// Whether `varlen_attention` can compute this: a GPU from compute capability 8.0 on, and a dtype, head_dim and mask
// that its kernels have. A window without `causal` exists in half precision only.
bool has_varlen_attention(const at::Tensor& q, bool causal, int64_t window);

// softmax(scale q k^T + mask) v for each of n sequences. q [T, H, D]; k, v [S, Hkv, D], each of whose heads serves H /
// Hkv heads of q; rows may have strides. cu_q, cu_k: int32 [n + 1], the sequences' first rows in q and in k; max_q,
// max_k: the largest lengths. With `causal`, token i of a sequence attends to those up to i + (length in k - length in
// q). A `window` > 0 limits it to tokens less than `window` away (with `causal`: to itself and window - 1 before it).
// `dropout` is the probability; the masks come from libtorch's generator of the device, which the caller seeds.
// Differentiable. Returns [T, H, D]. In half precision it is FlashAttention-2 (arXiv 2307.08691), in fp32 the
// memory-efficient kernel of xFormers.
at::Tensor varlen_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& cu_q,
                            const at::Tensor& cu_k, int64_t max_q, int64_t max_k, double dropout, bool causal,
                            int64_t window, double scale);

}  // namespace kernels
