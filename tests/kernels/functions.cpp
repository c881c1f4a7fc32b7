// The functions of kernels.h and compiler.h for the tests in Rust.

#include "../../src/ffi/common.h"
#include "compiler.h"
#include "kernels.h"

#include <ATen/ATen.h>

#include <string>

using at::Tensor;

extern "C" const char* kernel_names();

namespace {

struct Arguments {
  void* const* tensors;
  const double* numbers;
  int64_t key;

  const Tensor& operator[](int i) const { return tensor(tensors[i]); }
  kernels::OptionalTensor maybe(int i) const {
    return tensors[i] ? kernels::OptionalTensor(tensor(tensors[i])) : std::nullopt;
  }
  kernels::Activation act() const { return static_cast<kernels::Activation>(static_cast<int>(numbers[0])); }
};

template <typename... Tensors> std::vector<Tensor> list(const std::tuple<Tensors...>& results) {
  return std::apply([](const auto&... each) { return std::vector<Tensor>{each...}; }, results);
}

std::vector<Tensor> call(const std::string& name, const Arguments& a) {
  using namespace kernels;
  const double* n = a.numbers;
  if (name == "rms_norm") return list(rms_norm_forward(a[0], a.maybe(1), a[2], n[0]));
  if (name == "rms_norm_backward") return list(rms_norm_backward(a[0], a.maybe(1), a[2], a[3], a[4], n[0] != 0));
  if (name == "layer_norm") return list(layer_norm_forward(a[0], a.maybe(1), a[2], a.maybe(3), n[0]));
  if (name == "layer_norm_backward") {
    return list(layer_norm_backward(a[0], a.maybe(1), a[2], a[3], a[4], a[5], n[0] != 0));
  }
  if (name == "rotary") {
    const auto integer = [&](int i) { return static_cast<int64_t>(n[i]); };
    rotary_(a[0], a[1], a[2], integer(0), integer(1), integer(2), n[3] != 0);
    return {};
  }
  if (name == "gated_activation") return {gated_activation_forward(a[0], a.act())};
  if (name == "gated_activation_backward") return list(gated_activation_backward(a[0], a[1], a.act(), n[1] != 0));
  if (name == "activation") return {activation_forward(a[0], a.act())};
  if (name == "activation_backward") return list(activation_backward(a[0], a[1], a.act(), n[1] != 0));
  if (name == "cross_entropy") return {cross_entropy_(a[0], a[1], n[0])};
  if (name == "sum_of_squares") return {sum_of_squares(a[0])};
  if (name == "dropout_add") return {dropout_add(a[0], a.maybe(1), n[0], a.key)};
  TORCH_CHECK(false, "no function ", name);
}

}  // namespace

extern "C" {

// Writes at most 4 new tensors, null where a result is undefined.
char* kernels_call(const char* name, void** out, void* const* tensors, const double* numbers, int64_t key) {
  return guarded([&] {
    TORCH_CHECK(kernel_names());
    for (const Tensor& result : call(name, {tensors, numbers, key})) {
      *out++ = result.defined() ? new Tensor(result) : nullptr;
    }
  });
}

// Compiles all kernels with the NVRTC of one of these folders (separated by colons). *text: the NVRTC's version and
// path, and the names of kernels that the result lacks.
char* kernels_compile(char** text, const char* folders, int element, const char* architecture, const char* cache) {
  return guarded([&] {
    std::vector<std::string> list;
    for (std::string rest = folders; !rest.empty();) {
      const size_t end = std::min(rest.find(':'), rest.size());
      list.push_back(rest.substr(0, end));
      rest.erase(0, end + 1);
    }
    const kernels::Compiler nvrtc(list);
    const auto options = kernels::options_for(element, architecture);
    const std::string cubin =
        kernels::cached(cache, kernels::cache_name(kernels::source(), options, nvrtc.version()),
                        [&] { return nvrtc.compile(kernels::source(), options); });
    std::string found = "NVRTC " + nvrtc.version() + " " + nvrtc.path();
    for (std::string names = kernel_names(); !names.empty();) {
      const size_t end = names.find(' ');
      const std::string name = names.substr(0, end);
      if (cubin.find(".text." + name + '\0') == std::string::npos) found += ", without " + name;
      names.erase(0, end + 1);
    }
    *text = strdup(found.c_str());
  });
}

// Compiles some other source, whose log is the error.
char* kernels_compile_source(const char* folders, const char* source) {
  return guarded([&] { kernels::Compiler({folders}).compile(source, kernels::options_for(0, "sm_90")); });
}

char* kernels_cache_name(char** text, const char* source, int element, const char* architecture, const char* version) {
  return guarded([&] {
    *text = strdup(kernels::cache_name(source, kernels::options_for(element, architecture), version).c_str());
  });
}

char* kernels_cache_folder(char** text) {
  return guarded([&] { *text = strdup(kernels::cache_folder().c_str()); });
}

// *text: what the cache returns if compiling gives `result`, or fails where that is null.
char* kernels_cached(char** text, const char* folder, const char* name, const char* result) {
  return guarded([&] {
    *text = strdup(kernels::cached(folder, name, [&]() -> std::string {
                     if (!result) throw std::runtime_error("compiled");
                     return result;
                   }).c_str());
  });
}
}
