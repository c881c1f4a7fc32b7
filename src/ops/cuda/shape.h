// What the functions of kernels.h share: checks of their arguments, and the shapes of grids.

#pragma once

#include "kernels.h"
#include "launch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <initializer_list>

namespace kernels {

// Elements of a 16-byte vector.
inline int64_t vector_width(const Tensor& x) { return 16 / static_cast<int64_t>(x.element_size()); }

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether rows of `width` elements at these addresses (null: not used) permit vectors.
inline int wide(const Tensor& x, int64_t width, std::initializer_list<const void*> pointers) {
  return width % vector_width(x) == 0 && std::all_of(pointers.begin(), pointers.end(), aligned);
}

// Threads for a row: one for each vector, in whole warps, at most `most`.
inline int64_t threads_for(const Tensor& x, int64_t width, int vectors, int64_t most) {
  const int64_t items = vectors ? width / vector_width(x) : width;
  return std::clamp<int64_t>((items + 31) / 32 * 32, 32, most);
}

inline void check_like(const char* kernel, const Tensor& x, const Tensor& other) {
  TORCH_CHECK(other.scalar_type() == x.scalar_type() && other.device() == x.device(), kernel, ": ", other.dtype(),
              " on ", other.device(), " with ", x.dtype(), " on ", x.device());
}

inline void check_sizes(const char* kernel, const Tensor& x, at::IntArrayRef sizes) {
  TORCH_CHECK(x.sizes() == sizes, kernel, ": expected ", sizes, ", got ", x.sizes());
}

// Checks another argument of x's type and of these sizes, and returns it contiguous.
inline Tensor like(const char* kernel, const Tensor& x, const Tensor& other, at::IntArrayRef sizes) {
  check_like(kernel, x, other);
  check_sizes(kernel, other, sizes);
  return other.contiguous();
}

inline Tensor like(const char* kernel, const Tensor& x, const OptionalTensor& other, at::IntArrayRef sizes) {
  return other && other->defined() ? like(kernel, x, *other, sizes) : Tensor();
}

// Checks that x has an element type with kernels and at least one dimension, which has elements.
inline void check_element(const char* kernel, const Tensor& x) {
  TORCH_CHECK(element(x.scalar_type()) >= 0, kernel, ": there is no kernel for ", x.dtype());
  TORCH_CHECK(x.dim() > 0 && x.size(-1) > 0, kernel, ": no rows in ", x.sizes());
}

inline void* data(const Tensor& x) { return x.defined() ? x.mutable_data_ptr() : nullptr; }
inline const void* const_data(const Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }

}  // namespace kernels
