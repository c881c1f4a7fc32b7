#include "../../ffi/common.h"
#include "flash.h"
#include "kernels.h"

extern "C" {

// *text: the state of the kernels for GPU `device`, by strdup.
char* trainer_kernels_state(char** text, int64_t device) {
  return guarded([&] { *text = strdup(kernels::state(device).c_str()); });
}

// *available: whether the kernels can be used for x.
char* trainer_kernels_available(bool* available, void* x) {
  return guarded([&] { *available = kernels::available(tensor(x)); });
}

// *out: the sum of squares of x, fp64 without dimensions, or null without kernels for it.
char* trainer_kernels_squares(void** out, void* x) {
  return guarded([&] {
    const at::Tensor& values = tensor(x);
    *out = kernels::available(values) ? new at::Tensor(kernels::sum_of_squares(values)) : nullptr;
  });
}

// *out: varlen_attention of sequences to themselves, or null where it does not exist.
char* trainer_varlen_attention(void** out, void* q, void* k, void* v, void* starts, int64_t longest, double dropout,
                               bool causal, int64_t window, double scale) {
  return guarded([&] {
    *out = nullptr;
    if (!kernels::has_varlen_attention(tensor(q), causal, window)) return;
    *out = new at::Tensor(kernels::varlen_attention(tensor(q), tensor(k), tensor(v), tensor(starts), tensor(starts),
                                                    longest, longest, dropout, causal, window, scale));
  });
}
}
