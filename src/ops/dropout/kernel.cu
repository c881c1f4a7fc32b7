// Dropout by key with the addition of a residual, rounded once:
//   y[i] = residual[i] + x[i] scale   if bits(key, i) >= threshold, else residual[i]
// bits is the generator of the CPU's dropout, so a mask is the same on both: "lowbias32" (Chris Wellons, Hash
// Prospector), applied twice with the halves of the key. Backward is the same on the gradient, without residual.

__device__ inline unsigned dropout_mix(unsigned x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

template <int N>
__device__ void dropout_at(const Element* x, const Element* residual, Element* y, Index i, unsigned threshold,
                           float scale, unsigned low, unsigned high) {
  float value[N], more[N] = {};
  load(x + i, value);
  if (residual) load(residual + i, more);
  for (int j = 0; j < N; j++) {
    const unsigned bits = dropout_mix(dropout_mix(static_cast<unsigned>(i + j) ^ low) + high);
    value[j] = bits >= threshold ? more[j] + value[j] * scale : more[j];
  }
  store(y + i, value);
}

// x, residual (or null), y: [n]; y may be x or residual. low, high: the halves of the key.
KERNEL dropout(const Element* x, const Element* residual, Element* y, Index n, unsigned threshold, float scale,
               unsigned low, unsigned high, int wide) {
  const Index width = wide ? WIDTH : 1, step = static_cast<Index>(gridDim.x) * blockDim.x * width;
  Index i = (static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x) * width;
  for (; i + width <= n; i += step) {
    if (wide) {
      dropout_at<WIDTH>(x, residual, y, i, threshold, scale, low, high);
    } else {
      dropout_at<1>(x, residual, y, i, threshold, scale, low, high);
    }
  }
  // The elements after the last vector.
  for (; i < n; i++) dropout_at<1>(x, residual, y, i, threshold, scale, low, high);
}
