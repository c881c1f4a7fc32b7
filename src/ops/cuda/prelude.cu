// What all kernels share: the element type, 16-byte loads and stores, sums over a block and over rows.
//
// NVRTC compiles this file followed by every `src/ops/<op>/kernel.cu` as one source, without include paths, once per
// element type: ELEMENT is 0 for float, 1 for bf16, 2 for fp16. Values are computed in fp32 and rounded to the element
// type when they are stored. `tests/kernels` compiles the same source for the CPU and defines KERNEL before it.
//
// A block has a multiple of 32 threads, at most 1024, in one dimension. `wide` says that pointers, rows and their
// lengths permit vectors of WIDTH elements (16 bytes); otherwise elements are loaded one by one.

#ifndef KERNEL
#define KERNEL extern "C" __global__ void __launch_bounds__(1024)
#define DYNAMIC_SHARED(name) extern __shared__ float name[]
#endif

typedef long long Index;

#if ELEMENT == 0
typedef float Element;

__device__ inline float to_float(float x) { return x; }
__device__ inline float from_float(float x, float) { return x; }
#else
struct Element {
  unsigned short bits;
};

__device__ inline float to_float(float x) { return x; }
#if ELEMENT == 1
__device__ inline float to_float(Element x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ inline Element from_float(float x, Element) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  // To the nearest, ties to even.
  const unsigned all = __float_as_uint(x);
  if (x != x) return {0x7fc0};
  return {static_cast<unsigned short>((all + 0x7fff + (all >> 16 & 1)) >> 16)};
#endif
}
#else
#ifdef __CUDA_ARCH__
__device__ inline float to_float(Element x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}

__device__ inline Element from_float(float x, Element) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
}
#else
__device__ inline float to_float(Element x) { return half_to_float(x.bits); }
__device__ inline Element from_float(float x, Element) { return {float_to_half(x)}; }
#endif
#endif
#endif

// Elements of a 16-byte vector.
constexpr int WIDTH = 16 / sizeof(Element);

template <typename Number, int N> struct alignas(N * sizeof(Number)) Vector {
  Number at[N];
};

// Loads N consecutive numbers, 16 bytes at a time.
template <int N, typename Number> __device__ inline void load(const Number* from, float (&to)[N]) {
  constexpr int STEP = N * sizeof(Number) > 16 ? 16 / sizeof(Number) : N;
#pragma unroll
  for (int i = 0; i < N; i += STEP) {
    const auto part = *reinterpret_cast<const Vector<Number, STEP>*>(from + i);
#pragma unroll
    for (int j = 0; j < STEP; j++) to[i + j] = to_float(part.at[j]);
  }
}

// Rounds and stores N consecutive elements.
template <int N> __device__ inline void store(Element* to, const float (&from)[N]) {
  Vector<Element, N> vector;
#pragma unroll
  for (int j = 0; j < N; j++) vector.at[j] = from_float(from[j], Element());
  *reinterpret_cast<Vector<Element, N>*>(to) = vector;
}

__device__ inline float rounded(float x) { return to_float(from_float(x, Element())); }

// Two sums at once.
struct Two {
  float first, second;
};

__device__ inline void add(float& sum, float x) { sum += x; }
__device__ inline void add(double& sum, double x) { sum += x; }
__device__ inline void add(Two& sum, Two x) {
  sum.first += x.first;
  sum.second += x.second;
}
__device__ inline float of_lane(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
__device__ inline double of_lane(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
__device__ inline Two of_lane(Two x, int mask) { return {of_lane(x.first, mask), of_lane(x.second, mask)}; }

// Returns the sum over all threads of the block, to each of them; its order depends on the block's size alone.
template <typename Number> __device__ Number block_sum(Number value) {
  __shared__ Number of_warp[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int mask = 16; mask > 0; mask /= 2) add(value, of_lane(value, mask));
  __syncthreads();  // everybody has read the previous sum
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  value = lane < warps ? of_warp[lane] : Number();
  for (int mask = 16; mask > 0; mask /= 2) add(value, of_lane(value, mask));
  return value;
}

// out [width] = the sum of the rows of x [rows, width]. A block sums 32 columns, each of its 8 warps every 8th row.
KERNEL sum_rows(const float* x, float* out, Index rows, Index width) {
  __shared__ float of_warp[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Index column = static_cast<Index>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (column < width) {
    for (Index row = warp; row < rows; row += 8) sum += x[row * width + column];
  }
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < width) {
    for (int other = 1; other < 8; other++) sum += of_warp[other][lane];
    out[column] = sum;
  }
}
