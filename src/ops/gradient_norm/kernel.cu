// The sum of squares of a flat buffer, in fp64, so that no square overflows and no small one is lost. Each block sums
// its part, and one block the parts: the order depends on the number of elements and `wide`, not on the GPU.

template <int N>
__device__ double squares_of_thread(const Element* x, Index n) {
  double sum = 0;
  const Index step = static_cast<Index>(gridDim.x) * blockDim.x * N;
  Index i = (static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  for (; i + N <= n; i += step) {
    float value[N];
    load(x + i, value);
    for (int j = 0; j < N; j++) sum += static_cast<double>(value[j]) * value[j];
  }
  // The elements after the last vector.
  for (; i < n; i++) sum += static_cast<double>(to_float(x[i])) * to_float(x[i]);
  return sum;
}

// x: [n]; partial: [blocks].
KERNEL sum_of_squares(const Element* x, double* partial, Index n, int wide) {
  const double sum = block_sum(wide ? squares_of_thread<WIDTH>(x, n) : squares_of_thread<1>(x, n));
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// partial: [n]; out: one number. One block.
KERNEL sum_of_parts(const double* partial, double* out, Index n) {
  double sum = 0;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}
