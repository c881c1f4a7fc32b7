// Memory measurement: an allocator for CPU tensors that counts bytes by use, freeing and reallocating storages, and the
// counters of the device's allocator.

#include "common.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstdint>
#include <limits>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

constexpr size_t kUses = 5;
constexpr uint32_t kDefaultUse = 3;  // Activations, as in memory.rs.

// A counter and its peak. Relaxed, because it orders nothing else.
struct Count {
  std::atomic<uint64_t> current{0}, peak{0};

  // Returns whether this is a new peak.
  bool add(uint64_t bytes) {
    const uint64_t now = current.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    uint64_t old = peak.load(std::memory_order_relaxed);
    while (now > old) {
      if (peak.compare_exchange_weak(old, now, std::memory_order_relaxed)) return true;
    }
    return false;
  }
  void remove(uint64_t bytes) { current.fetch_sub(bytes, std::memory_order_relaxed); }
  void reset() { peak.store(current.load(std::memory_order_relaxed), std::memory_order_relaxed); }
};

// Never destroyed: tensors may outlive every static object.
Count by_use[kUses], total;
std::atomic<uint64_t> at_total_peak[kUses];
thread_local uint32_t current_use = kDefaultUse;

void record_peak_parts() {
  for (size_t i = 0; i < kUses; i++) {
    at_total_peak[i].store(by_use[i].current.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

// Header of each block, as large as the alignment, so that the block stays aligned.
struct alignas(c10::gAlignment) Header {
  uint64_t bytes;
  uint32_t use;
};
static_assert(sizeof(Header) == c10::gAlignment);

void release(void* block) {
  if (block == nullptr) return;
  Header* header = static_cast<Header*>(block) - 1;
  by_use[header->use].remove(header->bytes);
  total.remove(header->bytes);
  c10::free_cpu(header);
}

// libtorch's allocation with a header, counted.
struct CountingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (n == 0) return {nullptr, nullptr, &release, cpu};
    TORCH_CHECK(n <= static_cast<size_t>(std::numeric_limits<int64_t>::max()) - sizeof(Header),
                "can't allocate memory: ", n, " bytes are more than can be addressed");
    auto* header = static_cast<Header*>(c10::alloc_cpu(n + sizeof(Header)));
    *header = {n, current_use};
    by_use[header->use].add(n);
    if (total.add(n)) record_peak_parts();
    void* block = header + 1;
    return {block, block, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
};

// Lets freed memory of tensors be used again: by default, glibc returns blocks of this size to the operating system, which
// clears each page when it is used again. Larger blocks, such as those of files of weights, are returned.
void keep_freed_memory() {
#ifdef __GLIBC__
  constexpr int kLargest = 256 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargest);
  mallopt(M_TRIM_THRESHOLD, 2 * kLargest);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace

extern "C" {

char* trainer_memory_install() {
  return guarded([] {
    keep_freed_memory();
    static CountingAllocator* const allocator = new CountingAllocator;
    c10::SetCPUAllocator(allocator, std::numeric_limits<uint8_t>::max());
    TORCH_CHECK(c10::GetCPUAllocator() == allocator, "another CPU allocator is installed");
  });
}

// Sets the use of this thread's allocations; returns the previous use.
uint32_t trainer_memory_use(uint32_t use) {
  const uint32_t before = current_use;
  current_use = use;
  return before;
}

// current [5], peak [5], at_total_peak [5], total_peak.
void trainer_memory_usage(uint64_t* out) {
  for (size_t i = 0; i < kUses; i++) {
    out[i] = by_use[i].current.load(std::memory_order_relaxed);
    out[kUses + i] = by_use[i].peak.load(std::memory_order_relaxed);
    out[2 * kUses + i] = at_total_peak[i].load(std::memory_order_relaxed);
  }
  out[3 * kUses] = total.peak.load(std::memory_order_relaxed);
}

void trainer_memory_reset_peaks() {
  for (Count& count : by_use) count.reset();
  total.reset();
  record_peak_parts();
}

char* trainer_resize_storage(void* t, size_t bytes) {
  return guarded([&] {
    const c10::Storage& shared = tensor(t).storage();
    c10::StorageImpl* storage = shared.unsafeGetStorageImpl();
    if (storage->nbytes() == bytes) return;
    const c10::Device device = storage->device();
    c10::Allocator* allocator = storage->allocator();
    if (allocator == nullptr) allocator = c10::GetAllocator(device.type());
    // Free the old block first, so that both never exist together; a failed allocation leaves an empty storage.
    storage->set_data_ptr_noswap(c10::DataPtr(nullptr, device));
    storage->set_nbytes(size_t{0});
    if (bytes == 0) return;
    const c10::DeviceGuard guard(device);
    storage->set_data_ptr_noswap(allocator->allocate(bytes));
    storage->set_nbytes(bytes);
  });
}

// Bytes of tensors on a device, their peak, and the device's memory.
char* trainer_device_memory(int32_t kind, int32_t index, uint64_t* out) {
  return guarded([&] {
    c10::DeviceAllocator* allocator = c10::getDeviceAllocator(static_cast<c10::DeviceType>(kind));
    const auto device = static_cast<c10::DeviceIndex>(index);
    const auto aggregate = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    // The allocator has no devices before its first allocation.
    c10::CachingAllocator::Stat bytes;
    if (allocator->initialized()) bytes = allocator->getDeviceStats(device).allocated_bytes[aggregate];
    out[0] = bytes.current;
    out[1] = bytes.peak;
    out[2] = allocator->getMemoryInfo(device).second;
  });
}

char* trainer_device_reset_peak(int32_t kind, int32_t index) {
  return guarded([&] {
    c10::DeviceAllocator* allocator = c10::getDeviceAllocator(static_cast<c10::DeviceType>(kind));
    if (allocator->initialized()) allocator->resetPeakStats(static_cast<c10::DeviceIndex>(index));
  });
}
}
