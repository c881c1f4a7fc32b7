// The sources as NVRTC gets them, for one ELEMENT.

#include "../../src/ops/cuda/prelude.cu"

#include "../../src/ops/cross_entropy/kernel.cu"
#include "../../src/ops/dropout/kernel.cu"
#include "../../src/ops/gated/kernel.cu"
#include "../../src/ops/gradient_norm/kernel.cu"
#include "../../src/ops/norm/layer.cu"
#include "../../src/ops/norm/rms.cu"
#include "../../src/ops/rotary/kernel.cu"

ALL(ADD)
