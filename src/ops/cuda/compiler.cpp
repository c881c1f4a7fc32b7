#include "compiler.h"

#include "kernel_sources.h"  // written by build.rs

#include <c10/util/hash.h>

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <utility>

namespace kernels {

namespace fs = std::filesystem;

namespace {

std::string sha1(const std::string& text) { return c10::sha1(text).str(); }

// Loads a library; returns null and adds the loader's reason.
void* open(const std::string& path, std::string& reasons) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    reasons += (reasons.empty() ? "" : "; ") + std::string(reason ? reason : path);
  }
  return library;
}

// Returns the files of a folder that begin with `prefix`, the shortest name first (libx.so.13 before libx.so.13.0.1).
std::vector<std::string> files(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> found;
  std::error_code ignored;
  for (fs::directory_iterator at(folder, ignored), end; !ignored && at != end; at.increment(ignored)) {
    if (at->path().filename().string().rfind(prefix, 0) == 0) found.push_back(at->path().string());
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.size(), a) < std::make_pair(b.size(), b);
  });
  return found;
}

}  // namespace

const char* source() { return SOURCE; }

Compiler::Compiler(const std::vector<std::string>& folders) {
  std::string reasons;
  for (const std::string& folder : folders) {
    for (const std::string& path : files(folder, "libnvrtc.so")) {
      // NVRTC loads it by name, and finds the one that is already loaded.
      for (const std::string& part : files(folder, "libnvrtc-builtins.so")) {
        if (open(part, reasons)) break;
      }
      if ((library_ = open(path, reasons))) {
        path_ = path;
        break;
      }
    }
    if (library_) break;
  }
  for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}) {
    if (library_) break;
    if ((library_ = open(name, reasons))) path_ = name;
  }
  if (!library_) throw std::runtime_error("NVRTC was not found (" + reasons + ")");
  int major = 0, minor = 0;
  check("nvrtcVersion", reinterpret_cast<int (*)(int*, int*)>(function("nvrtcVersion"))(&major, &minor));
  version_ = std::to_string(major) + "." + std::to_string(minor);
}

Compiler::Function Compiler::function(const char* name) const {
  void* address = dlsym(library_, name);
  if (!address) throw std::runtime_error(path_ + " lacks " + name);
  return reinterpret_cast<Function>(address);
}

void Compiler::check(const char* call, int code) const {
  if (code == 0) return;
  const auto text = reinterpret_cast<const char* (*)(int)>(function("nvrtcGetErrorString"))(code);
  throw std::runtime_error(std::string(call) + " failed: " + (text ? text : "unknown error"));
}

std::string Compiler::compile(const std::string& source, const std::vector<std::string>& options) const {
  using Program = void*;
  const auto create = reinterpret_cast<int (*)(Program*, const char*, const char*, int, const char* const*,
                                               const char* const*)>(function("nvrtcCreateProgram"));
  const auto run = reinterpret_cast<int (*)(Program, int, const char* const*)>(function("nvrtcCompileProgram"));
  const auto destroy = reinterpret_cast<int (*)(Program*)>(function("nvrtcDestroyProgram"));
  Program program = nullptr;
  check("nvrtcCreateProgram", create(&program, source.c_str(), "kernels.cu", 0, nullptr, nullptr));
  const auto destroyed = [&](Program* pointer) { destroy(pointer); };
  const std::unique_ptr<Program, decltype(destroyed)> guard(&program, destroyed);
  const auto get = [&](const char* size_of, const char* contents_of) {
    size_t size = 0;
    check(size_of, reinterpret_cast<int (*)(Program, size_t*)>(function(size_of))(program, &size));
    std::string contents(size, '\0');
    check(contents_of, reinterpret_cast<int (*)(Program, char*)>(function(contents_of))(program, contents.data()));
    return contents;
  };
  std::vector<const char*> list;
  for (const std::string& option : options) list.push_back(option.c_str());
  const int code = run(program, static_cast<int>(list.size()), list.data());
  if (code != 0) {
    std::string log = get("nvrtcGetProgramLogSize", "nvrtcGetProgramLog").c_str();  // up to the terminating zero
    throw std::runtime_error("the CUDA kernels do not compile (NVRTC " + version_ + ", " + path_ + "): " + log);
  }
  return get("nvrtcGetCUBINSize", "nvrtcGetCUBIN");
}

std::vector<std::string> folders_near(const std::string& libtorch) {
  // In a Python environment torch/lib is beside nvidia/cu13 (CUDA 13) or nvidia/cuda_nvrtc (CUDA 12).
  const std::string packages = libtorch + "/../../nvidia/";
  return {packages + "cu13/lib", packages + "cuda_nvrtc/lib", libtorch};
}

std::string cache_folder() {
  const auto folder = [](const char* name) {
    const char* value = std::getenv(name);
    return value && value[0] == '/' ? std::string(value) : std::string();
  };
  std::string cache = folder("XDG_CACHE_HOME");
  if (cache.empty()) {
    cache = folder("HOME");
    if (cache.empty()) return cache;
    cache += "/.cache";
  }
  return cache + "/trainer/kernels";
}

std::vector<std::string> options_for(int element, const std::string& architecture) {
  return {"--gpu-architecture=" + architecture, "-DELEMENT=" + std::to_string(element), "--std=c++17"};
}

std::string cache_name(const std::string& source, const std::vector<std::string>& options, const std::string& version) {
  std::string all = version + '\0';
  for (const std::string& option : options) all += option + '\0';
  return sha1(all + source) + ".cubin";
}

std::string cached(const std::string& folder, const std::string& name, const std::function<std::string()>& compile) {
  const fs::path path = fs::path(folder) / name;
  if (!folder.empty()) {
    std::ifstream file(path, std::ios::binary);
    std::string sum, contents;
    if (std::getline(file, sum)) {
      contents.assign(std::istreambuf_iterator<char>(file), {});
      if (sum == sha1(contents)) return contents;
    }
  }
  std::string contents = compile();
  if (!folder.empty()) {
    std::error_code ignored;
    fs::create_directories(folder, ignored);
    const fs::path temporary = path.string() + "." + std::to_string(getpid());
    std::ofstream file(temporary, std::ios::binary);
    file << sha1(contents) << '\n' << contents;
    file.close();
    if (file) fs::rename(temporary, path, ignored);
    if (!file || ignored) fs::remove(temporary, ignored);
  }
  return contents;
}

}  // namespace kernels
