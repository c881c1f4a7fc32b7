// What tch does not bind, over libtorch's public C++ interface. Every function returns nullptr, or a message that
// the caller frees. A tch::Tensor's pointer is an at::Tensor*. No CUDA headers are needed.

#include "common.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>
#include <ATen/cpu/Utils.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdint>
#include <string>

extern "C" {

char* trainer_backward(void** roots, void** grads, size_t n) {
  return guarded([&] {
    torch::autograd::variable_list outputs, starts;
    for (size_t i = 0; i < n; i++) {
      outputs.push_back(tensor(roots[i]));
      starts.push_back(tensor(grads[i]));
    }
    torch::autograd::backward(outputs, starts);
  });
}

char* trainer_set_grad(void* leaf, void* grad) {
  return guarded([&] { tensor(leaf).mutable_grad() = tensor(grad); });
}

// Clears the leaf's gradient; the tensor stays with its owner.
char* trainer_clear_grad(void* leaf) {
  return guarded([&] { tensor(leaf).mutable_grad() = at::Tensor(); });
}

char* trainer_set_tf32(bool on) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
  });
}

char* trainer_tf32(bool* on) {
  return guarded([&] { *on = at::globalContext().allowTF32CuBLAS(); });
}

// found = whether this CPU has the capability. For AMX the operating system must also grant the tiles to this process.
char* trainer_cpu_has(bool* found, const char* name) {
  return guarded([&] {
    const std::string wanted(name);
    const auto known = at::cpu::get_cpu_capabilities();
    const auto entry = known.find(wanted);
    *found = entry != known.end() && entry->second.isBool() && entry->second.toBool() &&
             (wanted.rfind("amx_", 0) != 0 || at::cpu::init_amx());
  });
}

// text = libtorch's version and build settings, allocated by strdup.
char* trainer_libtorch_config(char** text) {
  return guarded([&] { *text = strdup(at::show_config().c_str()); });
}

// One AdamW step (arXiv 1711.05101) in place on flat slices. `step` is from 1; gradients are divided by `grad_scale`.
char* trainer_fused_adamw(void* weights, void* grads, void* exp_avg, void* exp_avg_sq, double lr, double beta1,
                          double beta2, double weight_decay, double eps, double step, double grad_scale) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor& w = tensor(weights);
    at::Tensor count = at::full({}, step, w.options().dtype(at::kFloat));
    std::optional<at::Tensor> scale;
    if (grad_scale != 1.0) scale = at::full({}, grad_scale, w.options().dtype(at::kFloat));
    at::_fused_adamw_({w}, {tensor(grads)}, {tensor(exp_avg)}, {tensor(exp_avg_sq)}, {}, {count}, lr, beta1, beta2,
                      weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false, scale, std::nullopt);
  });
}
}
