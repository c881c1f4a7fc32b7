// Root mean square norm (arXiv 1910.07467), in Llama's order: the normalized value is rounded to the element type
// before it is scaled. Per row of `width` elements:
//   sum = x + residual            rounded to the element type
//   rstd = 1 / sqrt(mean(sum^2) + eps)
//   y = round(sum rstd) w

template <int N>
__device__ void rms_norm_row(const Element* x, const Element* residual, const Element* w, Element* sum, Element* y,
                             float* rstd, Index width, float eps) {
  const Index row = blockIdx.x, begin = row * width, step = static_cast<Index>(blockDim.x) * N;
  float squares = 0;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += step) {
    float value[N];
    load(x + begin + i, value);
    if (residual) {
      float more[N];
      load(residual + begin + i, more);
      for (int j = 0; j < N; j++) value[j] = rounded(value[j] + more[j]);
      store(sum + begin + i, value);
    }
    for (int j = 0; j < N; j++) squares += value[j] * value[j];
  }
  const float scale = rsqrtf(block_sum(squares) / width + eps);
  if (threadIdx.x == 0) rstd[row] = scale;
  // The row comes from the cache now, and each thread reads what it has written itself.
  const Element* from = residual ? sum : x;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += step) {
    float value[N], weight[N];
    load(from + begin + i, value);
    load(w + i, weight);
    for (int j = 0; j < N; j++) value[j] = rounded(value[j] * scale) * weight[j];
    store(y + begin + i, value);
  }
}

// x, residual (or null), sum (unused without residual), y: [rows, width]; w: [width]; rstd: [rows]. A block per row.
KERNEL rms_norm_forward(const Element* x, const Element* residual, const Element* w, Element* sum, Element* y,
                        float* rstd, Index width, float eps, int wide) {
  if (wide) {
    rms_norm_row<WIDTH>(x, residual, w, sum, y, rstd, width, eps);
  } else {
    rms_norm_row<1>(x, residual, w, sum, y, rstd, width, eps);
  }
}

template <int N>
__device__ void rms_norm_rows_back(const Element* gy, const Element* gsum, const Element* x, const Element* w,
                                   const float* rstd, Element* gx, float* partial, Index rows, Index width,
                                   int in_shared) {
  DYNAMIC_SHARED(shared);
  const Index vectors = width / N, mine = blockIdx.x * width;
  // A thread owns the same vectors of every row, so its sums need no synchronization. In shared memory, neighbors are
  // in neighboring banks.
  float* gw = in_shared ? shared : partial + mine;
  const Index across = in_shared ? vectors : 1, along = in_shared ? 1 : N;
  if (partial) {
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      for (int j = 0; j < N; j++) gw[v * along + j * across] = 0;
    }
  }
  for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
    const Index begin = row * width;
    const float scale = rstd[row];
    float dot = 0;
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      float g[N], value[N], weight[N];
      load(gy + begin + v * N, g);
      load(x + begin + v * N, value);
      load(w + v * N, weight);
      for (int j = 0; j < N; j++) {
        const float normal = value[j] * scale;
        dot += g[j] * weight[j] * normal;
        if (partial) gw[v * along + j * across] += g[j] * rounded(normal);
      }
    }
    const float mean = block_sum(dot) / width;
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      float g[N], value[N], weight[N], more[N] = {};
      load(gy + begin + v * N, g);
      load(x + begin + v * N, value);
      load(w + v * N, weight);
      if (gsum) load(gsum + begin + v * N, more);
      for (int j = 0; j < N; j++) g[j] = scale * (g[j] * weight[j] - value[j] * scale * mean) + more[j];
      store(gx + begin + v * N, g);
    }
  }
  if (partial && in_shared) {
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      for (int j = 0; j < N; j++) partial[mine + v * N + j] = gw[v * along + j * across];
    }
  }
}

// With n = x rstd, the normalized value, and h = gy w:
//   gx = rstd (h - n mean(h n)) + gsum
//   gw = sum over rows of gy round(n): here each block's part, which sum_rows adds up
// gy, gsum (or null), x (the forward's sum), gx: [rows, width]; rstd: [rows]; partial: [blocks, width], or null if gw
// is not needed. `in_shared`: there is dynamic shared memory for [width] floats; else the sums are in `partial`.
KERNEL rms_norm_backward(const Element* gy, const Element* gsum, const Element* x, const Element* w,
                         const float* rstd, Element* gx, float* partial, Index rows, Index width, int in_shared,
                         int wide) {
  if (wide) {
    rms_norm_rows_back<WIDTH>(gy, gsum, x, w, rstd, gx, partial, rows, width, in_shared);
  } else {
    rms_norm_rows_back<1>(gy, gsum, x, w, rstd, gx, partial, rows, width, in_shared);
  }
}
