// Layer norm (arXiv 1607.06450). Per row of `width` elements:
//   sum = x + residual            rounded to the element type
//   mean = mean(sum), rstd = 1 / sqrt(mean((sum - mean)^2) + eps)
//   y = (sum - mean) rstd w + b

template <int N>
__device__ void layer_norm_row(const Element* x, const Element* residual, const Element* w, const Element* b,
                               Element* sum, Element* y, float* mean, float* rstd, Index width, float eps) {
  const Index row = blockIdx.x, begin = row * width, step = static_cast<Index>(blockDim.x) * N;
  float total = 0;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += step) {
    float value[N];
    load(x + begin + i, value);
    if (residual) {
      float more[N];
      load(residual + begin + i, more);
      for (int j = 0; j < N; j++) value[j] = rounded(value[j] + more[j]);
      store(sum + begin + i, value);
    }
    for (int j = 0; j < N; j++) total += value[j];
  }
  const float center = block_sum(total) / width;
  // The row comes from the cache now. Squares of differences, because mean(x^2) - mean(x)^2 cancels.
  const Element* from = residual ? sum : x;
  float squares = 0;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += step) {
    float value[N];
    load(from + begin + i, value);
    for (int j = 0; j < N; j++) squares += (value[j] - center) * (value[j] - center);
  }
  const float scale = rsqrtf(block_sum(squares) / width + eps);
  if (threadIdx.x == 0) {
    mean[row] = center;
    rstd[row] = scale;
  }
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += step) {
    float value[N], weight[N], bias[N] = {};
    load(from + begin + i, value);
    load(w + i, weight);
    if (b) load(b + i, bias);
    for (int j = 0; j < N; j++) value[j] = (value[j] - center) * scale * weight[j] + bias[j];
    store(y + begin + i, value);
  }
}

// x, residual (or null), sum (unused without residual), y: [rows, width]; w, b (or null): [width]; mean, rstd: [rows].
// A block per row.
KERNEL layer_norm_forward(const Element* x, const Element* residual, const Element* w, const Element* b, Element* sum,
                          Element* y, float* mean, float* rstd, Index width, float eps, int wide) {
  if (wide) {
    layer_norm_row<WIDTH>(x, residual, w, b, sum, y, mean, rstd, width, eps);
  } else {
    layer_norm_row<1>(x, residual, w, b, sum, y, mean, rstd, width, eps);
  }
}

template <int N>
__device__ void layer_norm_rows_back(const Element* gy, const Element* gsum, const Element* x, const Element* w,
                                     const float* mean, const float* rstd, Element* gx, float* partial, Index rows,
                                     Index width, int in_shared) {
  DYNAMIC_SHARED(shared);
  const Index vectors = width / N, mine = blockIdx.x * 2 * width;
  // As in the root mean square norm: gw, then gb.
  float* gw = in_shared ? shared : partial + mine;
  float* gb = gw + width;
  const Index across = in_shared ? vectors : 1, along = in_shared ? 1 : N;
  if (partial) {
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      for (int j = 0; j < N; j++) gw[v * along + j * across] = gb[v * along + j * across] = 0;
    }
  }
  for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
    const Index begin = row * width;
    const float center = mean[row], scale = rstd[row];
    Two sums = {0, 0};
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      float g[N], value[N], weight[N];
      load(gy + begin + v * N, g);
      load(x + begin + v * N, value);
      load(w + v * N, weight);
      for (int j = 0; j < N; j++) {
        const float normal = (value[j] - center) * scale;
        add(sums, Two{g[j] * weight[j] * normal, g[j] * weight[j]});
        if (partial) {
          gw[v * along + j * across] += g[j] * normal;
          gb[v * along + j * across] += g[j];
        }
      }
    }
    sums = block_sum(sums);
    const float dot = sums.first / width, shift = sums.second / width;
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      float g[N], value[N], weight[N], more[N] = {};
      load(gy + begin + v * N, g);
      load(x + begin + v * N, value);
      load(w + v * N, weight);
      if (gsum) load(gsum + begin + v * N, more);
      for (int j = 0; j < N; j++) {
        const float normal = (value[j] - center) * scale;
        g[j] = scale * (g[j] * weight[j] - shift - normal * dot) + more[j];
      }
      store(gx + begin + v * N, g);
    }
  }
  if (partial && in_shared) {
    for (Index v = threadIdx.x; v < vectors; v += blockDim.x) {
      for (int j = 0; j < N; j++) {
        partial[mine + v * N + j] = gw[v * along + j * across];
        partial[mine + width + v * N + j] = gb[v * along + j * across];
      }
    }
  }
}

// With n = (x - mean) rstd and h = gy w:
//   gx = rstd (h - mean(h) - n mean(h n)) + gsum
//   gw = sum over rows of gy n, gb = sum over rows of gy: here each block's part, which sum_rows adds up
// gy, gsum (or null), x (the forward's sum), gx: [rows, width]; mean, rstd: [rows]; partial: [blocks, 2 width], gw
// before gb, or null if they are not needed. `in_shared`: there is dynamic shared memory for [2 width] floats; else the
// sums are in `partial`.
KERNEL layer_norm_backward(const Element* gy, const Element* gsum, const Element* x, const Element* w,
                           const float* mean, const float* rstd, Element* gx, float* partial, Index rows, Index width,
                           int in_shared, int wide) {
  if (wide) {
    layer_norm_rows_back<WIDTH>(gy, gsum, x, w, mean, rstd, gx, partial, rows, width, in_shared);
  } else {
    layer_norm_rows_back<1>(gy, gsum, x, w, mean, rstd, gx, partial, rows, width, in_shared);
  }
}
