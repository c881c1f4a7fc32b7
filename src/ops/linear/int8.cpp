// Linear layers with int8 weights and activations that are quantized row by row, so that no row depends on the others.

#include "../../ffi/common.h"
#include "../vector.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace {

using at::Tensor;

// For VNNI, weights are panels of COLUMNS outputs: [panels, depth / 4, COLUMNS, 4], padded with zeros. A tile is ROWS
// rows of activations by one panel; its sums are in registers.
constexpr int64_t COLUMNS = 64, ROWS = 6;
// Rows of a task of a thread.
constexpr int64_t CHUNK = 8 * ROWS;

int64_t padded(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// sums [ROWS, COLUMNS] = x [ROWS, depth] (unsigned) times a panel, exactly.
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx512f,avx512vnni"))) void tile(const uint8_t* x, const int8_t* panel, int64_t depth,
                                                        int32_t* sums) {
  // Unrolled early, so that the sums stay in registers.
  constexpr int VECTORS = COLUMNS / 16;
  __m512i y[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) y[r][v] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < depth; k += 4, panel += 4 * COLUMNS) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      int32_t four;
      std::memcpy(&four, x + r * depth + k, 4);
      const __m512i a = _mm512_set1_epi32(four);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) {
        y[r][v] = _mm512_dpbusd_epi32(y[r][v], a, _mm512_loadu_si512(panel + 64 * v));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) _mm512_storeu_si512(sums + r * COLUMNS + 16 * v, y[r][v]);
  }
}
#else
void tile(const uint8_t*, const int8_t*, int64_t, int32_t*) { TORCH_CHECK(false, "this processor has no VNNI"); }
#endif

// How the row x [n] became integers: x = scale * (q - zero), q from 0 to 255.
struct Row {
  float scale;
  int32_t zero;
};

// NaN or Inf make the scale NaN.
WIDE_VECTORS Row quantize(const float* x, int64_t n, uint8_t* q) {
  float low = 0.0f, high = 0.0f, finite = 0.0f;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : finite)
  for (int64_t i = 0; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    finite += x[i] * 0.0f;
  }
  const float scale = (high - low) / 255.0f + finite;
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  const float zero = std::floor(0.5f - low * inverse);
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const float rounded = x[i] * inverse + zero + 0.5f;
    q[i] = static_cast<uint8_t>(static_cast<int32_t>(rounded > 0.0f ? (rounded < 255.0f ? rounded : 255.0f) : 0.0f));
  }
  return {scale, static_cast<int32_t>(zero)};
}

// y [n] = scale * scales * (sums - zero * of_ones) + bias
WIDE_VECTORS void dequantize(const int32_t* sums, Row row, const float* scales, const int32_t* of_ones,
                             const float* bias, float* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const float product = row.scale * scales[i] * static_cast<float>(sums[i] - row.zero * of_ones[i]);
    y[i] = bias ? product + bias[i] : product;
  }
}

// x [n] = scale * (q - zero)
WIDE_VECTORS void rounded(const uint8_t* q, Row row, float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) x[i] = row.scale * static_cast<float>(q[i] - row.zero);
}

// y [rows, outputs] = q [padded(rows, ROWS), depth] times panels; of_ones are the sums of each output's weights.
void multiply(const Tensor& q, const std::vector<Row>& rows, const Tensor& panels, const Tensor& scales,
              const Tensor& of_ones, const Tensor* bias, float* y) {
  const int64_t outputs = scales.numel(), depth = q.size(1), n = static_cast<int64_t>(rows.size());
  const uint8_t* x = q.const_data_ptr<uint8_t>();
  const int8_t* w = panels.const_data_ptr<int8_t>();
  const float* scale = scales.const_data_ptr<float>();
  const int32_t* ones = of_ones.const_data_ptr<int32_t>();
  const float* b = bias ? bias->const_data_ptr<float>() : nullptr;
  const int64_t chunks = padded(n, CHUNK) / CHUNK;
  // A thread's tasks are neighbors, which share a panel.
  at::parallel_for(0, padded(outputs, COLUMNS) / COLUMNS * chunks, 1, [&](int64_t first, int64_t last) {
    alignas(64) int32_t sums[ROWS * COLUMNS];
    for (int64_t task = first; task < last; task++) {
      const int64_t column = task / chunks * COLUMNS, start = task % chunks * CHUNK;
      const int64_t width = std::min(COLUMNS, outputs - column);
      for (int64_t at = start; at < std::min(start + CHUNK, n); at += ROWS) {
        tile(x + at * depth, w + column * depth, depth, sums);
        for (int64_t r = at; r < std::min(at + ROWS, n); r++) {
          dequantize(sums + (r - at) * COLUMNS, rows[r], scale + column, ones + column, b ? b + column : nullptr,
                     y + r * outputs + column, width);
        }
      }
    }
  });
}

}  // namespace

extern "C" {

// out = {weights i8, scales f32 [outputs], sums of each output's weights i32 [outputs]} of an f32 weight
// [outputs, inputs]; the weights are panels for VNNI, else [outputs, inputs].
char* trainer_int8_pack(void** out, void* weight, bool vnni) {
  return guarded([&] {
    const Tensor w = tensor(weight).detach().contiguous();
    const int64_t outputs = w.size(0), inputs = w.size(1), depth = padded(inputs, 4);
    const auto options = w.options().dtype(at::kChar);
    Tensor packed = at::zeros({vnni ? padded(outputs, COLUMNS) : outputs, vnni ? depth : inputs}, options);
    Tensor scales = at::empty({outputs}, w.options());
    Tensor sums = at::empty({outputs}, w.options().dtype(at::kInt));
    const float* from = w.const_data_ptr<float>();
    int8_t* to = packed.mutable_data_ptr<int8_t>();
    for (int64_t o = 0; o < outputs; o++, from += inputs) {
      float largest = 0.0f;
      for (int64_t i = 0; i < inputs; i++) largest = std::max(largest, std::abs(from[i]));
      const float scale = largest / 127.0f;
      const int64_t column = o / COLUMNS * COLUMNS * depth + o % COLUMNS * 4;
      int32_t sum = 0;
      for (int64_t i = 0; i < inputs; i++) {
        const auto q = static_cast<int8_t>(scale > 0.0f ? std::nearbyint(from[i] / scale) : 0.0f);
        to[vnni ? column + i / 4 * 4 * COLUMNS + i % 4 : o * inputs + i] = q;
        sum += q;
      }
      scales.mutable_data_ptr<float>()[o] = scale;
      sums.mutable_data_ptr<int32_t>()[o] = sum;
    }
    out[0] = new Tensor(packed);
    out[1] = new Tensor(scales);
    out[2] = new Tensor(sums);
  });
}

// y [.., outputs] of x [.., inputs], f32, with what trainer_int8_pack has made for the same `vnni`.
char* trainer_int8_linear(void** out, void* x, void* weight, void* scales, void* sums, void* bias, bool vnni) {
  return guarded([&] {
    const Tensor input = tensor(x).contiguous();
    const int64_t inputs = input.size(-1), depth = padded(inputs, 4), outputs = tensor(scales).numel();
    TORCH_CHECK(input.scalar_type() == at::kFloat && tensor(weight).size(1) == (vnni ? depth : inputs),
                "an int8 linear layer of other inputs than ", input.scalar_type(), " ", input.sizes());
    const int64_t n = input.numel() / inputs;
    // The padding of a row meets weights that are zero, and rows that complete the last tile are not read.
    Tensor q = at::zeros({padded(n, ROWS), depth}, input.options().dtype(at::kByte));
    std::vector<Row> rows(n);
    const float* from = input.const_data_ptr<float>();
    uint8_t* to = q.mutable_data_ptr<uint8_t>();
    at::parallel_for(0, n, CHUNK, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; r++) rows[r] = quantize(from + r * inputs, inputs, to + r * depth);
    });
    auto sizes = input.sizes().vec();
    sizes.back() = outputs;
    if (vnni) {
      Tensor y = at::empty(sizes, input.options());
      multiply(q, rows, tensor(weight), tensor(scales), tensor(sums), bias ? &tensor(bias) : nullptr,
               y.mutable_data_ptr<float>());
      *out = new Tensor(y);
      return;
    }
    // The same numbers in fp32: on other processors int8 saves memory, not time.
    Tensor near = at::empty({n, inputs}, input.options());
    float* each = near.mutable_data_ptr<float>();
    for (int64_t r = 0; r < n; r++) rounded(to + r * depth, rows[r], each + r * inputs, inputs);
    const Tensor w = tensor(weight).to(at::kFloat).mul_(tensor(scales).unsqueeze(1));
    const auto b = bias ? std::optional<Tensor>(tensor(bias)) : std::nullopt;
    *out = new Tensor(at::linear(near, w, b).view(sizes));
  });
}
}
