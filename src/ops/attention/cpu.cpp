// Attention on the CPU with a keyed dropout, a sliding window or shared key heads, and of half types. Scores exist for a
// few sequences, heads and queries at a time, and only for the keys that a query may attend to; backward computes them
// again. Query heads that share a key head are rows of the same matmuls: keys are not repeated.

#include "../../ffi/common.h"
#include "../dropout/mask.h"
#include "../vector.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

struct Config {
  double scale;
  bool causal;
  int64_t window;  // a query attends to keys less than this many positions away; 0: to all
  double p;
  int64_t key;
};

// Queries at a time: fewer if several heads of them share the keys, since their rows are one matmul.
constexpr int64_t kQueries = 128, kSharedQueries = 64;
constexpr int64_t kScores = 1 << 18;  // at a time, unless one block of one key head has more

WIDE_VECTORS void times(float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

WIDE_VECTORS float dot(const float* x, const float* y, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

WIDE_VECTORS void softmax_gradient(const float* weights, float* g, int64_t n, float sum, float scale) {
  for (int64_t i = 0; i < n; i++) g[i] = weights[i] * (g[i] - sum) * scale;
}

// A block of queries of a few sequences or of a few key heads of one, and the keys that they may attend to.
struct Block {
  int64_t sequence, sequences, head, heads, query, queries, key, keys;
};

class Rectangle {
 public:
  Rectangle(const Tensor& q, const Tensor& k, const Tensor& mask, Config config)
      : n_(q.size(0)), heads_(q.size(1)), kv_heads_(k.size(1)), queries_(q.size(2)), keys_(k.size(2)), config_(config) {
    if (mask.defined()) mask_ = mask.to(at::kFloat).expand({n_, 1, 1, keys_}).contiguous();
  }

  std::vector<Block> blocks() const {
    std::vector<Block> found;
    const int64_t queries = std::min(queries_, at_a_time());
    const int64_t scores = std::max<int64_t>(1, shares() * queries * std::min(keys_, span(queries)));
    const int64_t heads = std::clamp<int64_t>(kScores / scores, 1, kv_heads_);
    const int64_t sequences = std::max<int64_t>(1, kScores / (scores * kv_heads_));
    for (int64_t s = 0; s < n_; s += sequences) {
      for (int64_t h = 0; h < kv_heads_; h += heads) {
        for (int64_t i = 0; i < queries_; i += queries) {
          const int64_t count = std::min(queries, queries_ - i), low = first(i), high = last(i + count - 1) + 1;
          found.push_back({s, std::min(sequences, n_ - s), h, std::min(heads, kv_heads_ - h), i, count, low, high - low});
        }
      }
    }
    return found;
  }

  // Number of query heads that share a key head.
  int64_t shares() const { return heads_ / kv_heads_; }

  int64_t at_a_time() const { return shares() > 1 ? kSharedQueries : kQueries; }

  // Scores [sequences * heads, shares * queries, keys] of a block become the softmax.
  void softmax(const Block& b, Tensor& scores) const {
    rows(b, scores, [&](float* row, int64_t s, int64_t, int64_t i, int64_t) {
      const int64_t low = first(i) - b.key, count = last(i) + 1 - first(i);
      if (mask_.defined()) ops::add(row + low, mask_.const_data_ptr<float>() + s * keys_ + first(i), count);
      // A place of padding may have no real key within its window: all weights are 0, and nothing is NaN.
      const float shift = std::max(ops::largest(row + low, count), std::numeric_limits<float>::lowest());
      const float sum = ops::exponentials(row + low, row + low, count, shift);
      times(row + low, count, sum > 0.0f ? 1.0f / sum : 0.0f);
      std::fill(row, row + low, 0.0f);
      std::fill(row + low + count, row + b.keys, 0.0f);
    });
  }

  // The mask of a row depends on its place in the rectangle only.
  void dropout(const Block& b, Tensor& scores) const {
    if (config_.p == 0.0) return;
    rows(b, scores, [&](float* row, int64_t s, int64_t h, int64_t i, int64_t) {
      ops::drop(row, row, b.keys, element(s, h, i, b.key), config_.p, config_.key);
    });
  }

  // The gradient of the dropped weights becomes that of the scores.
  void softmax_backward(const Block& b, const Tensor& weights, Tensor& g) const {
    const float* ws = weights.const_data_ptr<float>();
    rows(b, g, [&](float* row, int64_t s, int64_t h, int64_t i, int64_t index) {
      if (config_.p > 0.0) ops::drop(row, row, b.keys, element(s, h, i, b.key), config_.p, config_.key);
      const float* own = ws + index * b.keys;
      softmax_gradient(own, row, b.keys, dot(own, row, b.keys), static_cast<float>(config_.scale));
    });
  }

 private:
  // The last query is at the last key's position.
  int64_t position(int64_t query) const { return query + keys_ - queries_; }
  int64_t last(int64_t query) const {
    if (config_.causal) return position(query);
    return config_.window > 0 ? std::min(keys_ - 1, position(query) + config_.window - 1) : keys_ - 1;
  }
  int64_t first(int64_t query) const {
    return config_.window > 0 ? std::max<int64_t>(0, position(query) - config_.window + 1) : 0;
  }
  // The keys that a block of queries may attend to, at most.
  int64_t span(int64_t queries) const {
    return config_.window > 0 ? (config_.causal ? 1 : 2) * config_.window + queries : keys_;
  }
  int64_t element(int64_t s, int64_t h, int64_t i, int64_t key) const {
    return ((s * heads_ + h) * queries_ + i) * keys_ + key;
  }

  template <typename F> void rows(const Block& b, Tensor& scores, F&& each) const {
    float* values = scores.mutable_data_ptr<float>();
    const int64_t heads = b.heads * shares(), count = b.sequences * heads * b.queries;
    at::parallel_for(0, count, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, b.keys)), [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; r++) {
        const int64_t i = b.query + r % b.queries, h = b.head * shares() + r / b.queries % heads;
        const int64_t s = b.sequence + r / b.queries / heads;
        each(values + r * b.keys, s, h, i, r);
      }
    });
  }

  int64_t n_, heads_, kv_heads_, queries_, keys_;
  Config config_;
  Tensor mask_;
};

// A block's queries of a tensor [n, heads, queries, head_dim], possibly of a result.
Tensor queries_of(const Tensor& x, const Block& b, int64_t shares) {
  return x.narrow(0, b.sequence, b.sequences).narrow(1, b.head * shares, b.heads * shares).narrow(2, b.query, b.queries);
}

// A block's keys of a tensor [n, kv_heads, keys, head_dim], possibly of a result.
Tensor keys_of(const Tensor& x, const Block& b) {
  return x.narrow(0, b.sequence, b.sequences).narrow(1, b.head, b.heads).narrow(2, b.key, b.keys);
}

// The rows of each key head side by side, f32 [sequences * heads, .., head_dim]: a view for one sequence in f32, unless
// several query heads share a key head.
Tensor by_key_head(const Tensor& x, const Block& b) {
  return x.to(at::kFloat).reshape({b.sequences * b.heads, -1, x.size(3)});
}

struct Attention : Function<Attention> {
  // q [n, heads, queries, head_dim], k and v [n, kv_heads, keys, head_dim]; mask f32 [n, 1, 1, keys], added, or
  // undefined.
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& added, Config config) {
    const Tensor mask = added.value_or(Tensor());
    const Rectangle rectangle(q, k, mask, config);
    const int64_t shares = rectangle.shares();
    // Token rows, the layout of the next layer's input.
    Tensor out = at::empty({q.size(0), q.size(2), q.size(1), v.size(3)}, q.options()).transpose(1, 2);
    for (const Block& b : rectangle.blocks()) {
      const Tensor queries = by_key_head(queries_of(q, b, shares), b).mul(config.scale);
      Tensor scores = queries.bmm(by_key_head(keys_of(k, b), b).transpose(1, 2));
      rectangle.softmax(b, scores);
      rectangle.dropout(b, scores);
      Tensor own = queries_of(out, b, shares);
      own.copy_(scores.bmm(by_key_head(keys_of(v, b), b)).view_as(own));
    }
    ctx->save_for_backward({q, k, v, mask});
    ctx->saved_data["scale"] = config.scale;
    ctx->saved_data["causal"] = config.causal;
    ctx->saved_data["window"] = config.window;
    ctx->saved_data["p"] = config.p;
    ctx->saved_data["key"] = config.key;
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const Config config = {ctx->saved_data["scale"].toDouble(), ctx->saved_data["causal"].toBool(),
                           ctx->saved_data["window"].toInt(), ctx->saved_data["p"].toDouble(),
                           ctx->saved_data["key"].toInt()};
    const Rectangle rectangle(q, k, saved[3], config);
    const int64_t shares = rectangle.shares();
    // Keys that several blocks of queries attend to add up in fp32.
    const bool adds = q.size(2) > rectangle.at_a_time();
    const auto like = [](const Tensor& x, bool sums) {
      const auto options = sums ? x.options().dtype(at::kFloat) : x.options();
      const std::array<int64_t, 4> size = {x.size(0), x.size(2), x.size(1), x.size(3)};
      return (sums ? at::zeros(size, options) : at::empty(size, options)).transpose(1, 2);
    };
    Tensor gq = like(q, false), gk = like(k, adds), gv = like(v, adds);
    const auto put = [&](Tensor& to, const Block& b, const Tensor& weights, const Tensor& values) {
      Tensor own = keys_of(to, b);
      if (adds && b.sequences == 1) {
        own.squeeze(0).baddbmm_(weights.transpose(1, 2), values);
        return;
      }
      const Tensor found = weights.transpose(1, 2).bmm(values).view_as(own);
      adds ? own.add_(found) : own.copy_(found);
    };
    for (const Block& b : rectangle.blocks()) {
      const Tensor queries = by_key_head(queries_of(q, b, shares), b), keys = by_key_head(keys_of(k, b), b);
      const Tensor g = by_key_head(queries_of(grads[0], b, shares), b);
      Tensor weights = queries.mul(config.scale).bmm(keys.transpose(1, 2));
      rectangle.softmax(b, weights);
      Tensor to_scores = g.bmm(by_key_head(keys_of(v, b), b).transpose(1, 2));
      rectangle.softmax_backward(b, weights, to_scores);
      rectangle.dropout(b, weights);
      put(gv, b, weights, g);
      put(gk, b, to_scores, queries);
      Tensor own = queries_of(gq, b, shares);
      own.copy_(to_scores.bmm(keys).view_as(own));
    }
    const auto kind = q.scalar_type();
    return {gq, gk.to(kind), gv.to(kind), Tensor(), Tensor()};
  }
};

}  // namespace

extern "C" {

char* trainer_attention(void** out, void* q, void* k, void* v, void* mask, double scale, bool causal, int64_t window,
                        double p, int64_t key) {
  return guarded([&] {
    const auto added = mask ? std::optional<Tensor>(tensor(mask)) : std::nullopt;
    const Config config = {scale, causal, window, p, key};
    *out = new Tensor(Attention::apply(tensor(q), tensor(k), tensor(v), added, config));
  });
}
}
