// Copies between host and device: many tensors in one asynchronous upload from pinned memory, and one tensor in either
// direction.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>
#include <mutex>
#include <vector>

namespace {

// Device allocations start at multiples of this, and so does each tensor within the buffer.
constexpr int64_t kAlignment = 256;

// One copy stream per device and direction, shared by all threads: a link copies in both directions at a time.
c10::Stream copy_stream(const c10::impl::VirtualGuardImpl& cuda, c10::Device device, bool up) {
  static std::mutex mutex;
  static std::vector<std::optional<c10::Stream>> all[2];
  auto& streams = all[up ? 1 : 0];
  const std::lock_guard<std::mutex> lock(mutex);
  const auto index = static_cast<size_t>(device.index());
  if (streams.size() <= index) streams.resize(index + 1);
  if (!streams[index]) streams[index] = cuda.getStreamFromGlobalPool(device);
  return *streams[index];
}

// Packs `tensors` into one buffer, and returns their offsets.
std::pair<at::Tensor, std::vector<int64_t>> pack(const std::vector<at::Tensor>& tensors, bool pinned) {
  std::vector<int64_t> offsets;
  int64_t total = 0;
  for (const auto& t : tensors) {
    offsets.push_back(total);
    total += (static_cast<int64_t>(t.nbytes()) + kAlignment - 1) / kAlignment * kAlignment;
  }
  auto buffer = at::empty({total}, at::TensorOptions().dtype(at::kByte).pinned_memory(pinned));
  auto* bytes = buffer.mutable_data_ptr<uint8_t>();
  for (size_t i = 0; i < tensors.size(); i++) {
    if (tensors[i].nbytes() > 0) std::memcpy(bytes + offsets[i], tensors[i].const_data_ptr(), tensors[i].nbytes());
  }
  return {buffer, offsets};
}

}  // namespace

extern "C" {

// Replaces `n` CPU tensors by copies on CUDA device `index`, or in one CPU buffer if it is negative (for tests of the
// layout). The copy runs on a separate stream; `*event` is recorded after it, and the caller owns it.
char* trainer_upload(void** tensors, size_t n, int index, void** event) {
  return guarded([&] {
    *event = nullptr;
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> host;
    for (size_t i = 0; i < n; i++) host.push_back(tensor(tensors[i]).contiguous());
    const bool cuda = index >= 0;
    auto [buffer, offsets] = pack(host, cuda);
    if (cuda) {
      const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
      const c10::impl::VirtualGuardImpl guard(c10::kCUDA);
      const c10::Stream copying = copy_stream(guard, device, /*up=*/true);
      const c10::StreamGuard on(copying);
      auto there = at::empty(buffer.sizes(), buffer.options().device(device).pinned_memory(false));
      // The caching allocator for pinned memory keeps `buffer` until this copy has ended.
      there.copy_(buffer, /*non_blocking=*/true);
      // It was allocated on the copy stream and is used on the default stream.
      there.record_stream(guard.getDefaultStream(device));
      auto done = std::make_unique<c10::Event>(c10::kCUDA);
      done->record(copying);
      *event = done.release();
      buffer = there;
    }
    for (size_t i = 0; i < n; i++) {
      const auto bytes = static_cast<int64_t>(host[i].nbytes());
      tensor(tensors[i]) = buffer.narrow(0, offsets[i], bytes).view(host[i].scalar_type()).view(host[i].sizes());
    }
  });
}

// Copies a tensor to another one of the same shape and dtype, one of them on CUDA device `index` and the other in pinned
// memory, on a separate stream after the work that the current stream has now; `*event` is recorded after it, and the
// caller owns it. The caller keeps the host's tensor until then.
char* trainer_copy(void* from, void* to, int index, void** event) {
  return guarded([&] {
    *event = nullptr;
    at::NoGradGuard no_grad;
    const at::Tensor& source = tensor(from);
    at::Tensor& target = tensor(to);
    const bool up = target.is_cuda();
    const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
    const c10::impl::VirtualGuardImpl guard(c10::kCUDA);
    const c10::Stream copying = copy_stream(guard, device, up);
    c10::Event before(c10::kCUDA);
    before.record(guard.getStream(device));
    before.block(copying);
    const c10::StreamGuard on(copying);
    target.copy_(source, /*non_blocking=*/true);
    // It was allocated on another stream: its memory must not be reused before this copy has ended.
    (up ? target : source).record_stream(copying);
    auto done = std::make_unique<c10::Event>(c10::kCUDA);
    done->record(copying);
    *event = done.release();
  });
}

char* trainer_event_synchronize(void* event) {
  return guarded([&] { static_cast<c10::Event*>(event)->synchronize(); });
}

char* trainer_event_block(void* event) {
  return guarded([&] {
    const auto* done = static_cast<c10::Event*>(event);
    const c10::impl::VirtualGuardImpl guard(c10::kCUDA);
    done->block(guard.getStream(done->device()));
  });
}

void trainer_event_free(void* event) { delete static_cast<c10::Event*>(event); }
}
