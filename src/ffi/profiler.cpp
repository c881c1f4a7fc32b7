// libtorch's profiler (Kineto): records the host and the GPU, with named ranges.

#include "common.h"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <memory>
#include <set>

namespace {

using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

const std::set<ActivityType> kActivities{ActivityType::CPU, ActivityType::CUDA};

}  // namespace

extern "C" {

char* trainer_profiler_start() {
  return guarded([] {
    const ProfilerConfig config(ProfilerState::KINETO);
    torch::autograd::profiler::prepareProfiler(config, kActivities);
    torch::autograd::profiler::enableProfiler(config, kActivities);
  });
}

char* trainer_profiler_stop(const char* path) {
  return guarded([&] { torch::autograd::profiler::disableProfiler()->save(path); });
}

// Starts a range; trainer_range_end ends it on the same thread.
char* trainer_range_begin(const char* name, void** range) {
  return guarded([&] {
    auto begun = std::make_unique<at::RecordFunction>(at::RecordScope::USER_SCOPE);
    if (begun->isActive()) begun->before(std::string_view(name));
    *range = begun.release();
  });
}

void trainer_range_end(void* range) { delete static_cast<at::RecordFunction*>(range); }
}
