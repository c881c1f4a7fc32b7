// The kernels on a GPU: the CUDA driver, which is loaded when it is needed, the modules of each device, and launches on
// libtorch's current stream. No CUDA headers, and nothing of libtorch_cuda is linked by name.

#include "launch.h"

#include "compiler.h"
#include "kernels.h"

#include <c10/core/DeviceType.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace kernels {

namespace {

// Types and constants of the driver's interface (cuda.h).
using Code = int;
using Device = int;
using Context = void*;
using Module = void*;
using Kernel = void*;
using Stream = void*;
constexpr int MULTIPROCESSORS = 16;    // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
constexpr int MAJOR = 75, MINOR = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
constexpr int SHARED_OPTIN = 97;       // CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
constexpr int DYNAMIC_SHARED_SIZE = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr size_t SHARED_ALWAYS = 48 << 10;  // what a kernel may use without that attribute
constexpr size_t SHARED_STATIC = 4 << 10;   // more than any kernel here declares

struct Driver {
  Code (*init)(unsigned);
  Code (*device_get)(Device*, int);
  Code (*retain)(Context*, Device);
  Code (*push)(Context);
  Code (*pop)(Context*);
  Code (*attribute)(int*, int, Device);
  Code (*load)(Module*, const void*);
  Code (*function)(Kernel*, Module, const char*);
  Code (*set)(Kernel, int, int);
  Code (*launch)(Kernel, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream, void**, void**);
  Code (*text)(Code, const char**);

  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error("there is no NVIDIA driver: libcuda.so.1 was not found");
    const auto find = [&](auto& pointer, const char* name) {
      void* address = dlsym(library, name);
      if (!address) throw std::runtime_error(std::string("libcuda.so.1 lacks ") + name + ": update the NVIDIA driver");
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(address);
    };
    find(init, "cuInit");
    find(device_get, "cuDeviceGet");
    find(retain, "cuDevicePrimaryCtxRetain");
    find(push, "cuCtxPushCurrent_v2");
    find(pop, "cuCtxPopCurrent_v2");
    find(attribute, "cuDeviceGetAttribute");
    find(load, "cuModuleLoadData");
    find(function, "cuModuleGetFunction");
    find(set, "cuFuncSetAttribute");
    find(launch, "cuLaunchKernel");
    find(text, "cuGetErrorString");
    check("cuInit", init(0));
  }

  // Throws a c10::Error in the form of the messages that src/ffi/device.rs classifies.
  void check(const char* call, Code code) const {
    if (code == 0) return;
    const char* known = nullptr;
    text(code, &known);
    TORCH_CHECK(false, call, " failed: ", known ? known : "unknown error", " (CUDA error ", code, ")");
  }
};

const Driver& driver() {
  static const Driver loaded;
  return loaded;
}

// The folder of libtorch's libraries, by an address in one of them.
std::string libtorch_folder() {
  Dl_info found{};
  const auto address = reinterpret_cast<const void*>(&c10::DeviceTypeName);
  if (!dladdr(address, &found) || !found.dli_fname) return "";
  const std::string path = found.dli_fname;
  return path.substr(0, path.rfind('/'));
}

const Compiler& compiler() {
  static const Compiler loaded(folders_near(libtorch_folder()));
  return loaded;
}

// A GPU's primary context, which is libtorch's, and the kernels that are loaded into it.
class Gpu {
 public:
  explicit Gpu(int ordinal) {
    const Driver& cuda = driver();
    Device device = 0;
    cuda.check("cuDeviceGet", cuda.device_get(&device, ordinal));
    cuda.check("cuDevicePrimaryCtxRetain", cuda.retain(&context_, device));
    const auto attribute = [&](int which) {
      int value = 0;
      cuda.check("cuDeviceGetAttribute", cuda.attribute(&value, which, device));
      return value;
    };
    capability = 10 * attribute(MAJOR) + attribute(MINOR);
    architecture = "sm_" + std::to_string(capability);
    const size_t shared = attribute(SHARED_OPTIN);
    limits = {attribute(MULTIPROCESSORS), std::max(shared, SHARED_ALWAYS) - SHARED_STATIC};
  }

  // Loads the kernels of an element type; throws if they cannot be compiled.
  void prepare(int element) {
    const std::lock_guard lock(mutex_);
    if (modules_[element]) return;
    const Compiler& nvrtc = compiler();
    const auto options = options_for(element, architecture);
    const std::string cubin = cached(cache_folder(), cache_name(source(), options, nvrtc.version()),
                                     [&] { return nvrtc.compile(source(), options); });
    const Current current(context_);
    driver().check("cuModuleLoadData", driver().load(&modules_[element], cubin.data()));
  }

  void start(const char* name, int element, const Grid& grid, void** arguments, Stream stream) {
    const Current current(context_);
    const Kernel kernel = find(name, element, grid.shared);
    driver().check("cuLaunchKernel", driver().launch(kernel, static_cast<unsigned>(grid.blocks), 1, 1,
                                                     static_cast<unsigned>(grid.threads), 1, 1,
                                                     static_cast<unsigned>(grid.shared), stream, arguments, nullptr));
  }

  int capability;
  std::string architecture;
  Limits limits;

 private:
  // Makes a context the thread's current one; threads of autograd may have none.
  struct Current {
    explicit Current(Context context) { driver().check("cuCtxPushCurrent", driver().push(context)); }
    ~Current() {
      Context popped;
      driver().pop(&popped);
    }
  };

  struct Loaded {
    Kernel kernel = nullptr;
    size_t shared = SHARED_ALWAYS - SHARED_STATIC;
  };

  Kernel find(const char* name, int element, size_t shared) {
    const std::lock_guard lock(mutex_);
    TORCH_CHECK(modules_[element], name, ": the kernels have not been loaded: call kernels::available first");
    Loaded& loaded = kernels_[{element, name}];
    if (!loaded.kernel) {
      driver().check("cuModuleGetFunction", driver().function(&loaded.kernel, modules_[element], name));
    }
    if (shared > loaded.shared) {
      driver().check("cuFuncSetAttribute",
                     driver().set(loaded.kernel, DYNAMIC_SHARED_SIZE, static_cast<int>(shared)));
      loaded.shared = shared;
    }
    return loaded.kernel;
  }

  std::mutex mutex_;
  Context context_ = nullptr;
  Module modules_[3] = {};
  std::map<std::pair<int, std::string>, Loaded> kernels_;
};

Gpu& gpu(int ordinal) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<Gpu>> gpus;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Gpu>& found = gpus[ordinal];
  if (!found) found = std::make_unique<Gpu>(ordinal);
  return *found;
}

bool turned_off() {
  static const bool off = [] {
    const char* value = std::getenv("TRAINER_KERNELS");
    return value && std::strcmp(value, "off") == 0;
  }();
  return off;
}

// Returns why the kernels of an element type cannot be used on a GPU; empty if they can. Tries once.
const std::string& problem(int ordinal, int element) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, std::string> known;
  const std::lock_guard lock(mutex);
  const auto [at, is_new] = known.try_emplace({ordinal, element});
  if (is_new) {
    try {
      gpu(ordinal).prepare(element);
    } catch (const c10::Error& e) {
      at->second = e.what_without_backtrace();
    } catch (const std::exception& e) {
      at->second = e.what();
    }
    if (!at->second.empty()) {
      TORCH_WARN_ONCE("the CUDA kernels of this program cannot be used, and libtorch's operations run instead, which "
                      "are slower: ", at->second);
    }
  }
  return at->second;
}

}  // namespace

bool available(const Tensor& x) {
  const int type = element(x.scalar_type());
  return x.is_cuda() && type >= 0 && !turned_off() && problem(x.get_device(), type).empty();
}

std::string state(int64_t device) {
  if (turned_off()) return "off (TRAINER_KERNELS)";
  const std::string& reason = problem(static_cast<int>(device), element(at::kFloat));
  if (!reason.empty()) return "not usable: " + reason;
  return "for " + gpu(static_cast<int>(device)).architecture + ", NVRTC " + compiler().version() + ", " +
         compiler().path();
}

Limits limits(const Tensor& x) { return gpu(x.get_device()).limits; }

int capability(const Tensor& x) { return gpu(x.get_device()).capability; }

void start(const char* kernel, const Tensor& x, const Grid& grid, const Argument* arguments, size_t n) {
  TORCH_CHECK(x.is_cuda(), kernel, ": expected a tensor on a GPU, got ", x.device());
  constexpr int64_t MOST_BLOCKS = (1LL << 31) - 1;
  TORCH_CHECK(grid.blocks <= MOST_BLOCKS, kernel, ": ", grid.blocks, " rows are more than a launch can have");
  std::vector<void*> list;
  for (size_t i = 0; i < n; i++) list.push_back(const_cast<void*>(arguments[i].at));
  const c10::Stream stream = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(x.device());
  gpu(x.get_device()).start(kernel, element(x.scalar_type()), grid, list.data(), stream.native_handle());
}

}  // namespace kernels
