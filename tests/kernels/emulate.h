// Runs the source of CUDA kernels on the CPU. The threads of a block are fibers that one OS thread switches between, in
// random order; a fiber runs until __syncthreads or a shuffle. Shared memory is static, because blocks run one after
// another.

#pragma once

#include "launch.h"

#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace emulated {

struct Dimensions {
  unsigned x = 0, y = 0, z = 0;
};

extern Dimensions thread, block, threads, blocks;  // threadIdx, blockIdx, blockDim, gridDim
extern float* dynamic;                             // dynamic shared memory, full of NaN when a block starts

void synchronize();                               // __syncthreads
uint64_t exchange(uint64_t value, int lane_mask);  // __shfl_xor_sync with all lanes

// A kernel with its arguments, to be called by each thread.
using Call = std::function<void()>;

// Runs a grid; throws std::runtime_error if threads of a block or warp wait for ever.
void run(const kernels::Grid& grid, const Call& call);

// The kernels of each element type by name: they bind arguments, whose sizes and kinds must be the parameters'.
using Bind = std::function<Call(const kernels::Argument*, size_t)>;
std::map<std::pair<int, std::string>, Bind>& registry();

template <typename Argument> Argument read(const kernels::Argument& from, const char* name) {
  const char kind = std::is_pointer_v<Argument> ? 'p' : std::is_floating_point_v<Argument> ? 'f' : 'i';
  TORCH_CHECK(from.size == sizeof(Argument) && from.kind == kind, name, ": an argument of ", from.size, " bytes (",
              from.kind, ") for a parameter of ", sizeof(Argument), " (", kind, ")");
  Argument value;
  std::memcpy(&value, from.at, sizeof value);
  return value;
}

template <typename... Parameters, size_t... I>
Call bound(void (*kernel)(Parameters...), const char* name, const kernels::Argument* from, std::index_sequence<I...>) {
  return [=, values = std::make_tuple(read<Parameters>(from[I], name)...)] { std::apply(kernel, values); };
}

template <typename... Parameters> bool add(int element, const char* name, void (*kernel)(Parameters...)) {
  registry()[{element, name}] = [=](const kernels::Argument* from, size_t n) {
    TORCH_CHECK(n == sizeof...(Parameters), name, ": ", n, " arguments for ", sizeof...(Parameters), " parameters");
    return bound(kernel, name, from, std::index_sequence_for<Parameters...>());
  };
  return true;
}

}  // namespace emulated

// What the kernels use of CUDA.
#define __device__
#define __shared__ static
#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::threads
#define gridDim emulated::blocks
#define KERNEL static void
#define DYNAMIC_SHARED(name) float* const name = emulated::dynamic

inline void __syncthreads() { emulated::synchronize(); }

template <typename Number> Number __shfl_xor_sync(unsigned, Number value, int lane_mask) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emulated::exchange(bits, lane_mask);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float half_to_float(unsigned short bits) { return c10::detail::fp16_ieee_to_fp32_value(bits); }
inline unsigned short float_to_half(float x) { return c10::detail::fp16_ieee_from_fp32_value(x); }
