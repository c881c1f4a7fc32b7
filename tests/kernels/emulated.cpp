// The kernels of every element type, compiled for the CPU.

#include "emulate.h"

#define ALL(ADD) \
  ADD(sum_rows) ADD(rms_norm_forward) ADD(rms_norm_backward) ADD(layer_norm_forward) ADD(layer_norm_backward) \
  ADD(rotary) ADD(rotary_fp32) ADD(gated_activation_forward) ADD(gated_activation_backward) ADD(activation_forward) \
  ADD(activation_backward) ADD(cross_entropy) ADD(sum_of_squares) ADD(sum_of_parts) ADD(dropout)
#define ADD(NAME) const bool added_##NAME = emulated::add(ELEMENT, #NAME, NAME);

namespace of_float {
#define ELEMENT 0
#include "kernels_of_element.h"
#undef ELEMENT
}  // namespace of_float

namespace of_bf16 {
#define ELEMENT 1
#include "kernels_of_element.h"
#undef ELEMENT
}  // namespace of_bf16

namespace of_fp16 {
#define ELEMENT 2
#include "kernels_of_element.h"
#undef ELEMENT
}  // namespace of_fp16

// The names of the kernels, with spaces between them, for the test that compiles them with NVRTC.
#define NAME(NAME) #NAME " "
extern "C" const char* kernel_names() { return ALL(NAME); }
