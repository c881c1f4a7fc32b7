// Activations, and the gated feed-forward of arXiv 2002.05202: y = act(gate) up, where a row of `x` has `width` gate
// columns and then `width` up columns. `act` is the place of the activation in the list of activate().

// A value and its derivative.
struct Activated {
  float value, slope;
};

template <int ACT> __device__ inline Activated activate(float x) {
  if (ACT == 0) {  // silu
    const float sigmoid = 1 / (1 + expf(-x));
    return {x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
  } else if (ACT == 1) {  // gelu: x Phi(x), the normal distribution
    const float phi = 0.5f * (1 + erff(x * 0.70710678f));
    return {x * phi, phi + x * 0.39894228f * expf(-0.5f * x * x)};
  } else if (ACT == 2) {  // gelu_tanh, its approximation
    const float t = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
    const float inner = 0.79788456f * (1 + 3 * 0.044715f * x * x);
    return {0.5f * x * (1 + t), 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * inner};
  } else if (ACT == 3) {  // relu; NaN stays
    return {x < 0 ? 0 : x, x > 0 ? 1.0f : 0.0f};
  } else {  // tanh
    const float t = tanhf(x);
    return {t, 1 - t * t};
  }
}

// A row of forward or backward with N elements at a time and one activation; gated or plain.
template <int ACT, int N>
__device__ void gated_forward_row(const Element* x, const Element*, Element* y, Element*, Index width) {
  const Index row = blockIdx.x;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += static_cast<Index>(blockDim.x) * N) {
    float gate[N], up[N];
    load(x + row * 2 * width + i, gate);
    load(x + row * 2 * width + width + i, up);
    for (int j = 0; j < N; j++) up[j] *= activate<ACT>(gate[j]).value;
    store(y + row * width + i, up);
  }
}

template <int ACT, int N>
__device__ void gated_backward_row(const Element* x, const Element* g, Element* y, Element* gx, Index width) {
  const Index row = blockIdx.x;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += static_cast<Index>(blockDim.x) * N) {
    float gate[N], up[N], grad[N], value[N];
    load(x + row * 2 * width + i, gate);
    load(x + row * 2 * width + width + i, up);
    load(g + row * width + i, grad);
    for (int j = 0; j < N; j++) {
      const Activated of = activate<ACT>(gate[j]);
      value[j] = of.value * up[j];
      gate[j] = grad[j] * up[j] * of.slope;
      up[j] = grad[j] * of.value;
    }
    store(gx + row * 2 * width + i, gate);
    store(gx + row * 2 * width + width + i, up);
    if (y) store(y + row * width + i, value);
  }
}

template <int ACT, int N>
__device__ void plain_forward_row(const Element* x, const Element*, Element* y, Element*, Index width) {
  const Index begin = blockIdx.x * width;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += static_cast<Index>(blockDim.x) * N) {
    float value[N];
    load(x + begin + i, value);
    for (int j = 0; j < N; j++) value[j] = activate<ACT>(value[j]).value;
    store(y + begin + i, value);
  }
}

template <int ACT, int N>
__device__ void plain_backward_row(const Element* x, const Element* g, Element* y, Element* gx, Index width) {
  const Index begin = blockIdx.x * width;
  for (Index i = static_cast<Index>(threadIdx.x) * N; i < width; i += static_cast<Index>(blockDim.x) * N) {
    float value[N], grad[N];
    load(x + begin + i, value);
    load(g + begin + i, grad);
    for (int j = 0; j < N; j++) {
      const Activated of = activate<ACT>(value[j]);
      value[j] = of.value;
      grad[j] *= of.slope;
    }
    store(gx + begin + i, grad);
    if (y) store(y + begin + i, value);
  }
}

#define OF_ACTIVATION(ROW, ACT) \
  case ACT: \
    if (wide) { \
      ROW<ACT, WIDTH>(x, g, y, gx, width); \
    } else { \
      ROW<ACT, 1>(x, g, y, gx, width); \
    } \
    break;

// The switch is outside the loop over a row.
#define ACTIVATION_KERNEL(NAME, ROW) \
  KERNEL NAME(const Element* x, const Element* g, Element* y, Element* gx, Index width, int act, int wide) { \
    switch (act) { \
      OF_ACTIVATION(ROW, 0) \
      OF_ACTIVATION(ROW, 1) \
      OF_ACTIVATION(ROW, 2) \
      OF_ACTIVATION(ROW, 3) \
      OF_ACTIVATION(ROW, 4) \
    } \
  }

// x: [rows, 2 width] (plain: [rows, width]); y, g: [rows, width]; gx: as x. Forward computes y from x (g and gx are
// null), backward gx from x and g, and y again unless it is null. A block per row.
ACTIVATION_KERNEL(gated_activation_forward, gated_forward_row)
ACTIVATION_KERNEL(gated_activation_backward, gated_backward_row)
ACTIVATION_KERNEL(activation_forward, plain_forward_row)
ACTIVATION_KERNEL(activation_backward, plain_backward_row)
