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

// Makes a GPU the current device of the calling thread.
char* trainer_set_device(int32_t index) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl(kCuda).setDevice(c10::Device(kCuda, static_cast<c10::DeviceIndex>(index)));
    // cuDNN's attention makes a plan for every new shape, half a second each, and our shapes change at every step.
    at::globalContext().setSDPUseCuDNN(false);
  });
}

// Returns when a GPU has done all that was asked of it.
char* trainer_synchronize_device(int32_t index) {
  return guarded(
      [&] { c10::impl::VirtualGuardImpl(kCuda).synchronizeDevice(static_cast<c10::DeviceIndex>(index)); });
}

// Settings of libtorch's caching allocator, as PYTORCH_ALLOC_CONF has them.
char* trainer_set_allocator(const char* settings) {
  return guarded([&] { c10::CachingAllocator::setAllocatorSettings(settings); });
}

// Whether libtorch's caching allocator grows segments instead of making new ones.
bool trainer_expandable_segments() {
  return c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments();
}

// Gives blocks that no tensor uses back to the device.
char* trainer_empty_cache() {
  return guarded([&] {
    c10::DeviceAllocator* allocator = c10::getDeviceAllocator(kCuda);
    if (allocator->initialized()) allocator->emptyCache();
  });
}
}
