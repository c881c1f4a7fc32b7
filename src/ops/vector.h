// Row functions for the CPU kernels: the compiler vectorizes them for each instruction set.

#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE_VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE_VECTORS
#endif

namespace ops {

// e^x within 2 units in the last place; 0 below -87.3. Cody and Waite's reduction to |r| <= ln(2) / 2, then the
// polynomial of Cephes (Moshier, expf).
inline float exponential(float x) {
  const float bounded = x > 88.3762589f ? 88.3762589f : x;
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  const float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<int32_t>(shifted) + 127) << 23);
  return x < -87.3f ? 0.0f : p * scale;
}

// The largest of n elements, and their sum.
float largest(const float* x, int64_t n);
float sum(const float* x, int64_t n);

// y = e^(x - shift), possibly in place; returns the sum.
float exponentials(const float* x, float* y, int64_t n, float shift);

// x += y
void add(float* x, const float* y, int64_t n);

}  // namespace ops
