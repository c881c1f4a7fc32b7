// Keyed dropout: a counter-based generator, so that masks are not stored.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace ops {

// y = x / (1 - p) where element `first + i` of the mask of `key` is kept, else 0; n elements.
void drop(const float* x, float* y, int64_t n, int64_t first, double p, int64_t key);

// The same of a whole tensor of any float type, from element 0.
at::Tensor dropped(const at::Tensor& x, double p, int64_t key);

}  // namespace ops
