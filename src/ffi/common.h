// Helpers shared by the files of the shim.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// Runs `body`; returns nullptr, or the message of its exception, which the caller frees.
template <typename F> char* guarded(F&& body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  }
}

inline at::Tensor& tensor(void* pointer) { return *static_cast<at::Tensor*>(pointer); }
