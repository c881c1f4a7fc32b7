// Rotary position embeddings (arXiv 2104.09864), in place. Element i of a head's first half and element i of its second
// half are a pair, which is rotated by the token's angle i:
//   a' = a cos - sign b sin
//   b' = b cos + sign a sin
// `sign` is 1 for forward and -1 for backward, the inverse rotation.

template <int N, typename Table>
__device__ void rotary_token(Element* x, Index stride, const Table* cosines, const Table* sines, int heads, int half,
                             float sign) {
  const Index token = blockIdx.x;
  const int of_head = half / N;
  for (int item = threadIdx.x; item < heads * of_head; item += blockDim.x) {
    const int head = item / of_head, i = item % of_head * N;
    Element* first = x + token * stride + static_cast<Index>(head) * 2 * half + i;
    float a[N], b[N], c[N], s[N];
    load(first, a);
    load(first + half, b);
    load(cosines + token * half + i, c);
    load(sines + token * half + i, s);
    for (int j = 0; j < N; j++) {
      const float turned = a[j] * c[j] - sign * b[j] * s[j];
      b[j] = b[j] * c[j] + sign * a[j] * s[j];
      a[j] = turned;
    }
    store(first, a);
    store(first + half, b);
  }
}

// x: the first column to rotate of a matrix with rows of `stride` elements, `heads` heads of 2 `half` elements from
// there; cosines, sines: [tokens, half]. A block per token.
KERNEL rotary(Element* x, Index stride, const Element* cosines, const Element* sines, int heads, int half, float sign,
              int wide) {
  if (wide) {
    rotary_token<WIDTH>(x, stride, cosines, sines, heads, half, sign);
  } else {
    rotary_token<1>(x, stride, cosines, sines, heads, half, sign);
  }
}

// The same with fp32 cosines and sines.
KERNEL rotary_fp32(Element* x, Index stride, const float* cosines, const float* sines, int heads, int half, float sign,
                   int wide) {
  if (wide) {
    rotary_token<WIDTH>(x, stride, cosines, sines, heads, half, sign);
  } else {
    rotary_token<1>(x, stride, cosines, sines, heads, half, sign);
  }
}
