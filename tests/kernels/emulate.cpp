// The fibers of emulate.h, and kernels::start by them.

#include "emulate.h"

#include <ucontext.h>

#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

namespace emulated {

Dimensions thread, block, threads, blocks;
float* dynamic = nullptr;

std::map<std::pair<int, std::string>, Bind>& registry() {
  static std::map<std::pair<int, std::string>, Bind> kernels;
  return kernels;
}

namespace {

constexpr size_t STACK = 64 << 10;
constexpr unsigned WARP = 32;

enum class State { Ready, InWarp, InBlock, Done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  State state;
  unsigned exchanges;
};

std::vector<Fiber> fibers;
std::vector<uint64_t> lanes[2];  // of even and odd exchanges
ucontext_t scheduler;
Fiber* running = nullptr;
const Call* calling = nullptr;

void enter() {
  (*calling)();
  running->state = State::Done;  // and back to the scheduler, by uc_link
}

void wait(State state) {
  Fiber* const self = running;
  const unsigned number = thread.x;
  self->state = state;
  swapcontext(&self->context, &scheduler);
  running = self;
  thread.x = number;
}

// Lets the fibers from..to go on if all of them wait in this state.
bool release(State state, size_t from, size_t to) {
  for (size_t i = from; i < to; i++) {
    if (fibers[i].state != state) return false;
  }
  for (size_t i = from; i < to; i++) fibers[i].state = State::Ready;
  return true;
}

void run_block(size_t n, std::mt19937& random) {
  for (size_t i = 0; i < n; i++) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, enter, 0);
    fiber.state = State::Ready;
    fiber.exchanges = 0;
  }
  for (size_t done = 0; done < n;) {
    bool progress = false;
    // Upwards or downwards from a random thread.
    const size_t first = random() % n, step = random() % 2 ? 1 : n - 1;
    for (size_t k = 0, i = first; k < n; k++, i = (i + step) % n) {
      if (fibers[i].state != State::Ready) continue;
      running = &fibers[i];
      thread.x = static_cast<unsigned>(i);
      swapcontext(&scheduler, &fibers[i].context);
      done += fibers[i].state == State::Done;
      progress = true;
    }
    for (size_t from = 0; from < n; from += WARP) progress |= release(State::InWarp, from, from + WARP);
    progress |= release(State::InBlock, 0, n);
    if (!progress) throw std::runtime_error("threads wait at different places of a kernel");
  }
}

}  // namespace

void synchronize() { wait(State::InBlock); }

uint64_t exchange(uint64_t value, int lane_mask) {
  std::vector<uint64_t>& slots = lanes[running->exchanges++ % 2];
  slots[thread.x] = value;
  wait(State::InWarp);
  return slots[thread.x ^ static_cast<unsigned>(lane_mask)];
}

void run(const kernels::Grid& grid, const Call& call) {
  static std::mt19937 random(1);
  const size_t n = grid.threads;
  if (n == 0 || n % WARP != 0 || n > 1024 || grid.blocks < 1) throw std::runtime_error("a grid that CUDA refuses");
  if (fibers.size() < n) fibers.resize(n);
  for (auto& slots : lanes) slots.resize(n);
  std::vector<float> shared(grid.shared / sizeof(float));
  dynamic = shared.data();
  calling = &call;
  threads = {static_cast<unsigned>(n), 1, 1};
  blocks = {static_cast<unsigned>(grid.blocks), 1, 1};
  for (block.x = 0; block.x < blocks.x; block.x++) {
    shared.assign(shared.size(), std::numeric_limits<float>::quiet_NaN());
    run_block(n, random);
  }
}

}  // namespace emulated

namespace kernels {

// A small device, so that tests reach what happens on a large one: many rows per block, too little shared memory.
Limits limits(const at::Tensor&) { return {3, 8 << 10}; }

void start(const char* kernel, const at::Tensor& x, const Grid& grid, const Argument* arguments, size_t n) {
  const auto found = emulated::registry().find({element(x.scalar_type()), kernel});
  TORCH_CHECK(found != emulated::registry().end(), "there is no kernel ", kernel, " for ", x.dtype());
  TORCH_CHECK(grid.shared <= limits(x).shared, kernel, ": ", grid.shared, " bytes of shared memory");
  emulated::run(grid, found->second(arguments, n));
}

}  // namespace kernels
