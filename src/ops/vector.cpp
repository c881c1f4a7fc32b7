#include "vector.h"

#include <limits>

namespace ops {

WIDE_VECTORS float largest(const float* x, int64_t n) {
  float found = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : found)
  for (int64_t i = 0; i < n; i++) found = x[i] > found ? x[i] : found;
  return found;
}

WIDE_VECTORS float sum(const float* x, int64_t n) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; i++) total += x[i];
  return total;
}

WIDE_VECTORS float exponentials(const float* x, float* y, int64_t n, float shift) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; i++) {
    y[i] = exponential(x[i] - shift);
    total += y[i];
  }
  return total;
}

WIDE_VECTORS void add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

}  // namespace ops
