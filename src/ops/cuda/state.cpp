#include "../../ffi/common.h"
#include "kernels.h"

extern "C" {

// *text: the state of the kernels for GPU `device`, by strdup.
char* trainer_kernels_state(char** text, int64_t device) {
  return guarded([&] { *text = strdup(kernels::state(device).c_str()); });
}
}
