// The sources as NVRTC gets them, for one ELEMENT.

#include "../../src/ops/cuda/prelude.cu"

#include "../../src/ops/cross_entropy/kernel.cu"
#include "../../src/ops/dropout/kernel.cu"
#include "../../src/ops/gated_activation/kernel.cu"
#include "../../src/ops/gradient_norm/kernel.cu"
#include "../../src/ops/layer_norm/kernel.cu"
#include "../../src/ops/rms_norm/kernel.cu"
#include "../../src/ops/rotary/kernel.cu"

ALL(ADD)
