// Compiles CUDA source at run time with NVRTC, which is loaded when it is needed, and caches the result on disk. Needs
// no GPU.

#pragma once

#include <functional>
#include <string>
#include <vector>

namespace kernels {

// The sources of all kernels, one string (build.rs embeds them).
const char* source();

// A loaded NVRTC.
class Compiler {
 public:
  // Loads libnvrtc from the first folder that has it, else by the loader's search path. Throws std::runtime_error with
  // the loader's reasons if there is none or it lacks a function.
  explicit Compiler(const std::vector<std::string>& folders);

  const std::string& version() const { return version_; }  // such as 13.0
  const std::string& path() const { return path_; }

  // Returns the cubin of `source`. Throws std::runtime_error with the compiler's log.
  std::string compile(const std::string& source, const std::vector<std::string>& options) const;

 private:
  using Function = void (*)();

  Function function(const char* name) const;
  void check(const char* call, int code) const;

  void* library_ = nullptr;
  std::string path_, version_;
};

// Returns the folders in which pip installs NVRTC, relative to that of libtorch's libraries.
std::vector<std::string> folders_near(const std::string& libtorch);

// Returns the user's folder for compiled kernels; empty without a home.
std::string cache_folder();

// Returns the options for an element type (prelude.cu) and an architecture such as "sm_90".
std::vector<std::string> options_for(int element, const std::string& architecture);

// Returns the name of the cache file of a result: a hash of everything that determines it.
std::string cache_name(const std::string& source, const std::vector<std::string>& options, const std::string& version);

// Returns the contents of file `name` in `folder`, or what `compile` returns, which it then writes there. A file whose
// checksum is wrong is written again; a folder that cannot be written to (or "") is no error. Processes may race.
std::string cached(const std::string& folder, const std::string& name, const std::function<std::string()>& compile);

}  // namespace kernels
