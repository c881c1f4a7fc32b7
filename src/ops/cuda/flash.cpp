#include "flash.h"

#include "launch.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <optional>

namespace kernels {

namespace {

bool is_half(const at::Tensor& x) { return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf; }

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& cu_q,
           const at::Tensor& cu_k) {
  TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && v.sizes() == k.sizes() && k.size(2) == q.size(2) && k.size(1) > 0 &&
                  q.size(1) % k.size(1) == 0,
              "varlen_attention: expected q [T, H, D] and k, v [S, Hkv, D], got ", q.sizes(), ", ", k.sizes(), ", ",
              v.sizes());
  for (const at::Tensor& cu : {cu_q, cu_k}) {
    TORCH_CHECK(cu.scalar_type() == at::kInt && cu.dim() == 1 && cu.size(0) == cu_q.size(0) && cu.size(0) > 0,
                "varlen_attention: expected int32 starts [n + 1], got ", cu.dtype(), " ", cu.sizes());
  }
}

// Repeats each head for the heads of q that it serves: the fp32 kernel has no groups.
at::Tensor for_all_heads(const at::Tensor& x, const at::Tensor& q) {
  const int64_t groups = q.size(1) / x.size(1);
  return groups == 1 ? x : x.repeat_interleave(groups, 1);
}

}  // namespace

bool has_varlen_attention(const at::Tensor& q, bool causal, int64_t window) {
  if (!q.is_cuda() || capability(q) < 80) return false;
  const int64_t head_dim = q.size(-1);
  if (is_half(q)) return head_dim % 8 == 0 && head_dim <= 256;
  return q.scalar_type() == at::kFloat && head_dim % 4 == 0 && (causal || window <= 0);
}

at::Tensor varlen_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& cu_q,
                            const at::Tensor& cu_k, int64_t max_q, int64_t max_k, double dropout, bool causal,
                            int64_t window, double scale) {
  check(q, k, v, cu_q, cu_k);
  if (is_half(q)) {
    std::optional<int64_t> before, after;
    if (window > 0) {
      before = window - 1;
      after = causal ? 0 : window - 1;
    }
    return std::get<0>(at::_flash_attention_forward(q, k, v, cu_q, cu_k, max_q, max_k, dropout, causal,
                                                    /*return_debug_mask=*/false, scale, before, after));
  }
  TORCH_CHECK(causal || window <= 0, "varlen_attention: in fp32 a window needs a causal mask");
  constexpr int64_t NO_MASK = 0, CAUSAL_FROM_BOTTOM_RIGHT = 2;  // of sdp::CustomMaskType
  const bool backward = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  const auto result = at::_efficient_attention_forward(
      q.unsqueeze(0), for_all_heads(k, q).unsqueeze(0), for_all_heads(v, q).unsqueeze(0), /*bias=*/std::nullopt, cu_q,
      cu_k, max_q, max_k, dropout, causal ? CAUSAL_FROM_BOTTOM_RIGHT : NO_MASK, /*compute_log_sumexp=*/backward, scale,
      /*seqlen_k=*/std::nullopt, window > 0 ? std::optional<int64_t>(window) : std::nullopt);
  return std::get<0>(result).squeeze(0);
}

}  // namespace kernels
