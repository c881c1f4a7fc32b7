// Cross-entropy with label smoothing `eps` (as in torch.nn.CrossEntropyLoss), and its gradient in place of the logits.
// Per row of V logits, with the target t:
//   loss = logsumexp(logits) - (1 - eps) logits[t] - eps mean(logits)
//   gradient = softmax(logits) - (1 - eps) onehot(t) - eps / V

// A running maximum and the sum of exponentials relative to it (arXiv 1805.02867).
struct Exponentials {
  float highest, sum;
};

__device__ inline Exponentials joined(Exponentials a, Exponentials b) {
  const float highest = fmaxf(a.highest, b.highest);
  // Equal maxima need no factor, and of two infinities the difference is NaN.
  const float of_a = a.highest == highest ? a.sum : a.sum * expf(a.highest - highest);
  const float of_b = b.highest == highest ? b.sum : b.sum * expf(b.highest - highest);
  return {highest, of_a + of_b};
}

template <int N>
__device__ void cross_entropy_row(Element* logits, const Index* targets, float* loss, Index vocabulary, float eps) {
  __shared__ Exponentials of_warp[32];
  const Index row = blockIdx.x, target = targets[row], step = static_cast<Index>(blockDim.x) * N;
  const float infinity = __uint_as_float(0x7f800000u);
  Element* const from = logits + row * vocabulary;
  const bool valid = target >= 0 && target < vocabulary;
  // Before any thread overwrites it.
  const float wanted = valid ? to_float(from[target]) : __uint_as_float(0x7fc00000u);
  Exponentials all = {-infinity, 0};
  float above = 0;  // the sum of differences to the target's logit, so that large logits lose no digits
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < vocabulary; i += step) {
    float value[N];
    load(from + i, value);
    float highest = all.highest;
    for (int j = 0; j < N; j++) highest = fmaxf(highest, value[j]);
    if (highest > all.highest) {
      all.sum *= expf(all.highest - highest);
      all.highest = highest;
    }
    for (int j = 0; j < N; j++) {
      above += value[j] - wanted;
      all.sum += value[j] == -infinity ? 0 : expf(value[j] - highest);
    }
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    all = joined(all, Exponentials{of_lane(all.highest, mask), of_lane(all.sum, mask)});
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (lane == 0) of_warp[warp] = all;
  above = block_sum(above);  // it synchronizes the block
  all = lane < warps ? of_warp[lane] : Exponentials{-infinity, 0};
  for (int mask = 16; mask > 0; mask /= 2) {
    all = joined(all, Exponentials{of_lane(all.highest, mask), of_lane(all.sum, mask)});
  }
  if (threadIdx.x == 0) {
    // Without smoothing a logit may be -inf, whose difference is no number.
    loss[row] = logf(all.sum) + (all.highest - wanted) - (eps == 0 ? 0 : eps * (above / vocabulary));
  }
  const float scale = 1 / all.sum, low = eps / vocabulary;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < vocabulary; i += step) {
    float value[N];
    load(from + i, value);
    for (int j = 0; j < N; j++) {
      value[j] = expf(value[j] - all.highest) * scale - low - (i + j == target ? 1 - eps : 0);
    }
    store(from + i, value);
  }
}

// logits: [rows, vocabulary], overwritten; targets, loss: [rows]. A target outside of the vocabulary has the loss NaN.
// A block per row.
KERNEL cross_entropy(Element* logits, const Index* targets, float* loss, Index vocabulary, float eps, int wide) {
  if (wide) {
    cross_entropy_row<WIDTH>(logits, targets, loss, vocabulary, eps);
  } else {
    cross_entropy_row<1>(logits, targets, loss, vocabulary, eps);
  }
}
