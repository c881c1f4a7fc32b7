// Starts a kernel on a tensor's device. tests/kernels has another implementation of `start` and `limits`, which runs
// the same kernels on the CPU.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace kernels {

// Blocks and threads, in one dimension, and bytes of dynamic shared memory.
struct Grid {
  int64_t blocks;
  int64_t threads;
  size_t shared = 0;
};

// An argument of a kernel: its address, its size, and 'p' (pointer), 'f' (floating point) or 'i' (integer).
struct Argument {
  const void* at;
  size_t size;
  char kind;
};

// What kernels need to know of a device: multiprocessors, and bytes of shared memory that a block can have.
struct Limits {
  int64_t processors;
  size_t shared;
};

Limits limits(const at::Tensor& x);

// Returns the compute capability of the GPU of x, such as 90 for 9.0.
int capability(const at::Tensor& x);

// Returns the number of an element type in prelude.cu; -1 for types without kernels.
inline int element(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return 0;
    case at::kBFloat16: return 1;
    case at::kHalf: return 2;
    default: return -1;
  }
}

// Queues a kernel for x's element type in the current stream of x's device. An error is a c10::Error.
void start(const char* kernel, const at::Tensor& x, const Grid& grid, const Argument* arguments, size_t n);

// The same with the kernel's arguments, whose types must be exactly its parameters' (Index is int64_t).
template <typename... Arguments>
void launch(const char* kernel, const at::Tensor& x, const Grid& grid, const Arguments&... arguments) {
  const Argument list[] = {{&arguments, sizeof(Arguments),
                            std::is_pointer_v<Arguments> ? 'p' : std::is_floating_point_v<Arguments> ? 'f' : 'i'}...};
  start(kernel, x, grid, list, sizeof...(Arguments));
}

}  // namespace kernels
