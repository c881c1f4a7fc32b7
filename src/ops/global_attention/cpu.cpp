// Attention within a sliding window and to global tokens (arXiv 2004.05150, section 3.1) over packed sequences, on any
// device. Scores exist for a few queries of a few sequences and heads at a time, and only for the keys that these may
// attend to; backward computes them again.

#include "../../ffi/common.h"
#include "../cuda/kernels.h"
#include "../dropout/mask.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

struct Config {
  int64_t heads;
  int64_t window;  // positions on each side of a query
  double scale;
  double p;
  int64_t key;
};

// Queries and scores at a time: on the CPU as much as fits in its caches, on a GPU few calls.
constexpr int64_t kQueries = 128, kScores = 1 << 18;
constexpr int64_t kQueriesOnGpu = 512, kScoresOnGpu = 1 << 24;

// Sequences of one length, one after another, with global tokens at the same positions.
struct Run {
  int64_t sequences, length;
  int64_t first, count;    // the global tokens: `count` of them from this position on
  int64_t token, global;   // the row of its first token, and that of its first global token among these
};

// Neighboring keys of each sequence.
struct Keys {
  int64_t from, to;
  bool windowed;
};

// A block of queries of some sequences and heads of a run, and the keys that they may attend to.
struct Block {
  Run run;
  bool global;              // queries are counted from the first global token
  int64_t query, queries;
  std::vector<Keys> keys;
  Tensor mask;              // f32 [queries, keys], added to the scores; undefined if nothing is masked
  int64_t sequence, sequences, head, heads;
  int64_t index;
};

std::vector<Run> runs_of(const std::vector<int64_t>& values) {
  std::vector<Run> runs;
  int64_t token = 0, global = 0;
  for (size_t i = 0; i + 3 < values.size(); i += 4) {
    runs.push_back({values[i], values[i + 1], values[i + 2], values[i + 3], token, global});
    token += values[i] * values[i + 1];
    global += values[i] * values[i + 3];
  }
  return runs;
}

// The keys of queries [from, to): those of all their windows, and all global tokens, none of them twice.
std::vector<Keys> keys_for(const Run& run, int64_t from, int64_t to, int64_t window) {
  const int64_t low = std::max<int64_t>(0, from - window), high = std::min(run.length, to + window);
  const int64_t first = run.first, behind = run.first + run.count;
  const Keys all[] = {{low, std::min(high, first), true}, {first, behind, false}, {std::max(low, behind), high, true}};
  std::vector<Keys> keys;
  std::copy_if(std::begin(all), std::end(all), std::back_inserter(keys), [](const Keys& k) { return k.from < k.to; });
  return keys;
}

Tensor mask_of(const Block& b, int64_t window, const at::TensorOptions& options) {
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  std::vector<Tensor> parts;
  bool masks = false;
  for (const Keys& k : b.keys) {
    const std::vector<int64_t> size = {b.queries, k.to - k.from};
    const bool inside = k.from >= b.query + b.queries - 1 - window && k.to - 1 <= b.query + window;
    if (b.global || !k.windowed || inside) {
      parts.push_back(at::zeros(size, options));
      continue;
    }
    // Row r is the query at b.query + r, column c the key at k.from + c.
    const int64_t shift = b.query - k.from;
    const Tensor later = at::full(size, kHidden, options).triu_(shift + window + 1);
    parts.push_back(at::full(size, kHidden, options).tril_(shift - window - 1).add_(later));
    masks = true;
  }
  return masks ? at::cat(parts, 1) : Tensor();
}

// Calls `each` for all blocks.
template <typename F>
void walk(const std::vector<Run>& runs, const Config& config, const Tensor& like, F&& each) {
  const bool gpu = like.is_cuda();
  const int64_t most_queries = gpu ? kQueriesOnGpu : kQueries, most_scores = gpu ? kScoresOnGpu : kScores;
  int64_t index = 0;
  const auto queries = [&](const Run& run, int64_t from, int64_t to, bool global) {
    for (int64_t i = from; i < to; i += most_queries) {
      Block b = {run, global, i, std::min(most_queries, to - i), {}, {}, 0, 0, 0, 0, index};
      b.keys = global ? std::vector<Keys>{{0, run.length, false}} : keys_for(run, i, i + b.queries, config.window);
      b.mask = mask_of(b, config.window, like.options().dtype(at::kFloat));
      int64_t scores = 0;
      for (const Keys& k : b.keys) scores += b.queries * (k.to - k.from);
      const int64_t heads = std::clamp<int64_t>(most_scores / scores, 1, config.heads);
      const int64_t sequences = std::max<int64_t>(1, most_scores / (scores * config.heads));
      for (b.sequence = 0; b.sequence < run.sequences; b.sequence += sequences) {
        for (b.head = 0; b.head < config.heads; b.head += heads) {
          b.sequences = std::min(sequences, run.sequences - b.sequence);
          b.heads = std::min(heads, config.heads - b.head);
          each(b);
          b.index = ++index;
        }
      }
    }
  };
  for (const Run& run : runs) {
    queries(run, 0, run.first, false);
    queries(run, run.first + run.count, run.length, false);
    queries(run, 0, run.count, true);
  }
}

// Part `part` of `parts` of the columns of packed rows, from `row` on: [sequences, heads, length, head_dim].
Tensor columns(const Tensor& rows, int64_t parts, int64_t part, int64_t row, const Run& run, int64_t length,
               int64_t heads) {
  const Tensor own = rows.narrow(0, row, run.sequences * length);
  return own.view({run.sequences, length, parts, heads, -1}).select(2, part).transpose(1, 2);
}

// What a block computes with, or the gradients of that: views.
struct Operands {
  Tensor q, k, v;
};

Operands operands(const Block& b, const Config& config, const Tensor& qkv, const Tensor& global_q,
                  const Tensor& global_kv) {
  const Run& run = b.run;
  const auto own = [&](const Tensor& x) { return x.narrow(0, b.sequence, b.sequences).narrow(1, b.head, b.heads); };
  const auto of = [&](const Tensor& rows, int64_t parts, int64_t part) {
    return own(columns(rows, parts, part, run.token, run, run.length, config.heads));
  };
  if (!b.global) return {of(qkv, 3, 0).narrow(2, b.query, b.queries), of(qkv, 3, 1), of(qkv, 3, 2)};
  const Tensor q = columns(global_q, 1, 0, run.global, run, run.count, config.heads);
  return {own(q).narrow(2, b.query, b.queries), of(global_kv, 2, 0), of(global_kv, 2, 1)};
}

// A block's rows of the result [tokens, heads * head_dim].
Tensor results(const Block& b, const Config& config, const Tensor& out) {
  const Tensor own = columns(out, 1, 0, b.run.token, b.run, b.run.length, config.heads);
  const int64_t query = b.query + (b.global ? b.run.first : 0);
  return own.narrow(0, b.sequence, b.sequences).narrow(1, b.head, b.heads).narrow(2, query, b.queries);
}

// [sequences * heads, .., head_dim], in fp32 on the CPU.
Tensor matrices(const Tensor& x) {
  const Tensor wide = x.is_cuda() ? x : x.to(at::kFloat);
  return wide.reshape({x.size(0) * x.size(1), x.size(2), x.size(3)});
}

// The block's keys side by side.
Tensor matrices_of_keys(const Block& b, const Tensor& x) {
  std::vector<Tensor> parts;
  for (const Keys& k : b.keys) parts.push_back(x.narrow(2, k.from, k.to - k.from));
  return matrices(parts.size() == 1 ? parts[0] : at::cat(parts, 2));
}

Tensor softmax(const Block& b, const Tensor& q, const Tensor& k) {
  Tensor scores = q.bmm(k.transpose(1, 2)).to(at::kFloat);
  if (b.mask.defined()) scores.add_(b.mask);
  return at::softmax(scores, -1);
}

// The dropout of a block of scores. Blocks have keys of their own, mixed as in `nn::rng`: masks of similar keys are
// permutations of each other.
Tensor dropped(const Tensor& x, const Config& config, const Block& b) {
  if (config.p == 0.0) return x;
  uint64_t z = static_cast<uint64_t>(config.key) + static_cast<uint64_t>(b.index) * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  z ^= z >> 31;
  if (!x.is_cuda() || kernels::available(x)) return ops::dropped(x, config.p, static_cast<int64_t>(z));
  at::manual_seed(z);
  return x * at::rand_like(x).ge(config.p) / (1.0 - config.p);
}

// Adds weights^T values to the block's keys in `sums` [sequences, heads, length, head_dim].
void add(const Block& b, const Tensor& sums, const Tensor& weights, const Tensor& values) {
  const Tensor found = weights.transpose(1, 2).bmm(values).view({b.sequences, b.heads, -1, sums.size(3)});
  int64_t column = 0;
  for (const Keys& k : b.keys) {
    sums.narrow(2, k.from, k.to - k.from).add_(found.narrow(2, column, k.to - k.from));
    column += k.to - k.from;
  }
}

struct GlobalAttention : Function<GlobalAttention> {
  // qkv [tokens, 3 * heads * head_dim]; global_q [global tokens, heads * head_dim] and global_kv [tokens, 2 * heads *
  // head_dim], or neither if no token is global.
  static Tensor forward(AutogradContext* ctx, const Tensor& qkv, const std::optional<Tensor>& global_q,
                        const std::optional<Tensor>& global_kv, Config config, const std::vector<int64_t>& runs) {
    const Tensor x = qkv.contiguous();
    const auto rows = [](const std::optional<Tensor>& x) { return x ? x->contiguous() : Tensor(); };
    const Tensor gq = rows(global_q), gkv = rows(global_kv);
    Tensor out = at::empty({x.size(0), x.size(1) / 3}, x.options());
    walk(runs_of(runs), config, x, [&](const Block& b) {
      const Operands own = operands(b, config, x, gq, gkv);
      Tensor weights = softmax(b, matrices(own.q).mul(config.scale), matrices_of_keys(b, own.k));
      const Tensor v = matrices_of_keys(b, own.v);
      weights = dropped(weights.to(v.scalar_type()), config, b);
      Tensor result = results(b, config, out);
      result.copy_(weights.bmm(v).view_as(result));
    });
    ctx->save_for_backward({x, gq, gkv});
    ctx->saved_data["runs"] = runs;
    ctx->saved_data["heads"] = config.heads;
    ctx->saved_data["window"] = config.window;
    ctx->saved_data["scale"] = config.scale;
    ctx->saved_data["p"] = config.p;
    ctx->saved_data["key"] = config.key;
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Config config = {ctx->saved_data["heads"].toInt(), ctx->saved_data["window"].toInt(),
                           ctx->saved_data["scale"].toDouble(), ctx->saved_data["p"].toDouble(),
                           ctx->saved_data["key"].toInt()};
    const Tensor g = grads[0].contiguous();
    // Keys that several blocks attend to add up in fp32.
    Tensor sums[3];
    for (int i = 0; i < 3; i++) {
      if (saved[i].defined()) sums[i] = at::zeros_like(saved[i], saved[i].options().dtype(at::kFloat));
    }
    walk(runs_of(ctx->saved_data["runs"].toIntVector()), config, g, [&](const Block& b) {
      const Operands own = operands(b, config, saved[0], saved[1], saved[2]);
      const Operands to = operands(b, config, sums[0], sums[1], sums[2]);
      const Tensor q = matrices(own.q).mul(config.scale), k = matrices_of_keys(b, own.k);
      const Tensor of_results = matrices(results(b, config, g));
      const Tensor weights = softmax(b, q, k);
      Tensor of_scores = of_results.bmm(matrices_of_keys(b, own.v).transpose(1, 2));
      of_scores = dropped(of_scores, config, b).to(at::kFloat);
      of_scores = at::_softmax_backward_data(of_scores, weights, -1, at::kFloat).to(q.scalar_type());
      to.q.copy_(of_scores.bmm(k).mul_(config.scale).view_as(to.q));
      add(b, to.k, of_scores, q);
      of_scores.reset();
      add(b, to.v, dropped(weights.to(q.scalar_type()), config, b), of_results);
    });
    for (Tensor& sum : sums) {
      if (sum.defined()) sum = sum.to(saved[0].scalar_type());
    }
    return {sums[0], sums[1], sums[2], Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" {

char* trainer_global_attention(void** out, void* qkv, void* global_q, void* global_kv, const int64_t* runs, size_t n,
                               int64_t heads, int64_t window, double scale, double p, int64_t key) {
  return guarded([&] {
    const auto optional = [](void* x) { return x ? std::optional<Tensor>(tensor(x)) : std::nullopt; };
    const Config config = {heads, window, scale, p, key};
    *out = new Tensor(GlobalAttention::apply(tensor(qkv), optional(global_q), optional(global_kv), config,
                                             std::vector<int64_t>(runs, runs + n)));
  });
}
}
