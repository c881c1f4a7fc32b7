// GPUs through libtorch's device-independent interface: no CUDA headers, and nothing of libtorch_cuda is linked by name.

#include "common.h"

#include <ATen/Context.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>

namespace {

constexpr auto kCuda = c10::DeviceType::CUDA;

}  // namespace

extern "C" {

char* trainer_set_device(int32_t index) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl(kCuda).setDevice(c10::Device(kCuda, static_cast<c10::DeviceIndex>(index)));
    // cuDNN's attention builds a plan for every new shape (half a second each), and shapes change in every step.
    at::globalContext().setSDPUseCuDNN(false);
  });
}

char* trainer_synchronize_device(int32_t index) {
  return guarded(
      [&] { c10::impl::VirtualGuardImpl(kCuda).synchronizeDevice(static_cast<c10::DeviceIndex>(index)); });
}

// Sets libtorch's caching allocator, in the format of PYTORCH_ALLOC_CONF.
char* trainer_set_allocator(const char* settings) {
  return guarded([&] { c10::CachingAllocator::setAllocatorSettings(settings); });
}

bool trainer_expandable_segments() {
  return c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments();
}

// Returns blocks that no tensor uses to the device.
char* trainer_empty_cache() {
  return guarded([&] {
    c10::DeviceAllocator* allocator = c10::getDeviceAllocator(kCuda);
    if (allocator->initialized()) allocator->emptyCache();
  });
}
}
