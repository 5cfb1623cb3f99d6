// Attention of a window's queries to a cache and to the window itself.
//
// Every sum runs over absolute positions, first to last, and does not know where the cache ends and the window begins:
// a token's result is the same bits in any window. So fresh keys and values are rounded to the cache's type first.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "mathematics.h"

namespace gelato {
namespace {

constexpr int kMostQueries = 4;

inline float rounded_to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;  // ties to even; finite numbers only
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// Keys, or values, of one row and head by absolute position.
struct Text {
  const Attention& a;
  const void* cache;   // [slots, size]
  const float* fresh;  // [window, size]
  int64_t length, padded;

  // Rows [at, at + 16) as float32 with zeros up to `padded`; beyond `end` the last one again, whose weight is zero.
  void rows(int64_t at, int64_t end, float* room, const float** row) const {
    // The next rows are asked for while these are used: a core's own prefetching stops at a page's end.
    const int64_t bytes = a.size * (a.narrow ? 2 : 4), next = (at + kLanes) * bytes;
    const int64_t left = length * bytes - next, ahead = left < kLanes * bytes ? left : kLanes * bytes;
    for (int64_t line = 0; line < ahead; line += 64) __builtin_prefetch(static_cast<const char*>(cache) + next + line, 0, 2);
    for (int i = 0; i < kLanes; ++i) {
      const int64_t position = at + i < end ? at + i : end - 1;
      const bool cached = position < length;
      const int64_t offset = (cached ? position : position - length) * a.size;
      if (!a.narrow && padded == a.size) {
        row[i] = (cached ? static_cast<const float*>(cache) : fresh) + offset;
        continue;
      }
      float* copy = room + i * padded;
      row[i] = copy;
      int64_t h = 0;
      if (!a.narrow) {
        std::memcpy(copy, (cached ? static_cast<const float*>(cache) : fresh) + offset, a.size * sizeof(float));
        h = a.size;
      } else if (cached) {
        const uint16_t* narrow = static_cast<const uint16_t*>(cache) + offset;
        for (; h + kLanes <= a.size; h += kLanes) store(copy + h, bfloats(narrow + h));
        for (; h < a.size; ++h) {
          const uint32_t bits = static_cast<uint32_t>(narrow[h]) << 16;
          std::memcpy(copy + h, &bits, sizeof bits);
        }
      } else {
        for (; h < a.size; ++h) copy[h] = rounded_to_bfloat16(fresh[offset + h]);
      }
      for (; h < padded; ++h) copy[h] = 0.0f;
    }
  }
};

// A query or a key of a token as it is attended with: its norm (arXiv 1910.07467), its rotation (arXiv 2104.09864: the
// pairs are i, i + size / 2), times a scale.
inline void turn(const Attention& a, int64_t token, const float* x, const float* norm, float scale, float* y) {
  const int64_t half = a.size / 2;
  if (norm) {
    const Floats factor = norm_factor(x, a.size, a.epsilon);
    for (int64_t h = 0; h < a.size; h += kLanes) {
      const int64_t left = a.size - h;
      store_some(y + h, left, mul(mul(load_some(x + h, left), factor), load_some(norm + h, left)));
    }
    x = y;
  }
  const Floats by = set(scale);
  if (!a.cosine) {
    for (int64_t h = 0; h < a.size; h += kLanes) store_some(y + h, a.size - h, mul(load_some(x + h, a.size - h), by));
    return;
  }
  for (int64_t h = 0; h < half; h += kLanes) {
    const int64_t left = half - h;
    const Floats c = load_some(a.cosine + token * half + h, left), s = load_some(a.sine + token * half + h, left);
    const Floats first = load_some(x + h, left), second = load_some(x + half + h, left);
    store_some(y + h, left, mul(sub(mul(first, c), mul(second, s)), by));
    store_some(y + half + h, left, mul(add(mul(second, c), mul(first, s)), by));
  }
}

// The window's keys and values out of what lies behind each token's queries; zeros for tokens that do not count.
void split(const Attention& a, float* fresh_key, float* fresh_value) {
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t head = 0; head < a.kv_heads; ++head)
      for (int64_t t = 0; t < a.window; ++t) {
        const int64_t token = b * a.window + t, at = ((b * a.kv_heads + head) * a.window + t) * a.size;
        const float* key = a.query + (token * a.query_heads + a.heads + head) * a.size;
        if (t < a.valid) {
          turn(a, token, key, a.key_norm, 1.0f, fresh_key + at);
          std::memcpy(fresh_value + at, key + a.kv_heads * a.size, a.size * sizeof(float));
        } else {
          std::memset(fresh_key + at, 0, a.size * sizeof(float));
          std::memset(fresh_value + at, 0, a.size * sizeof(float));
        }
      }
}

// Scores of 16 keys for one query.
inline Floats score(const float* query, const float* const* key, int64_t padded) {
  Floats sums[kLanes];
  for (int first_key = 0; first_key < kLanes; first_key += kKeys) {
    Floats partial[kKeys];
    GELATO_UNROLL for (int i = 0; i < kKeys; ++i) partial[i] = set(0.0f);
    for (int64_t h = 0; h < padded; h += kLanes) {
      const Floats q = load(query + h);
      GELATO_UNROLL for (int i = 0; i < kKeys; ++i) partial[i] = madd(load(key[first_key + i] + h), q, partial[i]);
    }
    GELATO_UNROLL for (int i = 0; i < kKeys; ++i) sums[first_key + i] = partial[i];
  }
  return reduce(sums);
}

// Adds 16 weighted rows to V vectors of R queries' sums; weights are [R, stride], sums [R, padded].
template <int R, int V>
inline void add_values(const float* weight, int64_t stride, const float* const* value, int64_t h, float* sum,
                       int64_t padded) {
  Floats total[R][V];
  GELATO_UNROLL for (int r = 0; r < R; ++r) GELATO_UNROLL for (int v = 0; v < V; ++v)
    total[r][v] = load(sum + r * padded + h + v * kLanes);
  for (int i = 0; i < kLanes; ++i) {
    Floats row[V];
    GELATO_UNROLL for (int v = 0; v < V; ++v) row[v] = load(value[i] + h + v * kLanes);
    GELATO_UNROLL for (int r = 0; r < R; ++r) {
      const Floats w = set(weight[r * stride + i]);
      GELATO_UNROLL for (int v = 0; v < V; ++v) total[r][v] = madd(w, row[v], total[r][v]);
    }
  }
  GELATO_UNROLL for (int r = 0; r < R; ++r) GELATO_UNROLL for (int v = 0; v < V; ++v)
    store(sum + r * padded + h + v * kLanes, total[r][v]);
}

template <int R>
void attend_tile(const Attention& a, int64_t row, int64_t head, int64_t first_query) {
  const int64_t groups = a.heads / a.kv_heads, padded = (a.size + kLanes - 1) / kLanes * kLanes;
  const int64_t length = a.lengths[row] < 0 ? 0 : a.lengths[row] < a.slots ? a.lengths[row] : a.slots;
  const int64_t bytes = a.narrow ? 2 : 4, at = row * a.kv_heads + head;
  const auto text = [&](const void* cache, const float* fresh) {
    return Text{a, static_cast<const char*>(cache) + at * a.slots * a.size * bytes, fresh + at * a.window * a.size,
                length, padded};
  };
  const auto token = [&](int64_t query) { return row * a.window + query / groups; };
  const auto query_head = [&](int64_t query) { return head * groups + query % groups; };
  const int64_t end = length + (first_query + R - 1) / groups + 1, stride = (end + kLanes - 1) / kLanes * kLanes;
  float* weights = scratch(R * (stride + 2 * padded) + kLanes * padded);
  if (!weights) __builtin_trap();  // no memory: there is no one to tell
  float* queries = weights + R * stride;
  float* sums = queries + R * padded;
  float* room = sums + R * padded;
  std::memset(queries, 0, 2 * R * padded * sizeof(float));
  for (int r = 0; r < R; ++r) {
    const int64_t t = token(first_query + r);
    const float* query = a.query + (t * a.query_heads + query_head(first_query + r)) * a.size;
    turn(a, t, query, a.query_norm, a.scale, queries + r * padded);
  }

  int64_t seen[R];
  Floats most[R];
  for (int r = 0; r < R; ++r) {
    seen[r] = length + (first_query + r) / groups + 1;
    most[r] = set(-std::numeric_limits<float>::max());
  }
  const float* rows[kLanes];
  const Text keys = text(a.key, a.fresh_key), values = text(a.value, a.fresh_value);
  for (int64_t j = 0; j < end; j += kLanes) {
    keys.rows(j, end, room, rows);
    for (int r = 0; r < R; ++r) {
      const Floats s = first(score(queries + r * padded, rows, padded), seen[r] - j, -std::numeric_limits<float>::max());
      most[r] = max(most[r], s);
      store(weights + r * stride + j, s);
    }
  }
  float total[R];
  for (int r = 0; r < R; ++r) {
    float lanes[kLanes], largest;
    store(lanes, most[r]);
    largest = lanes[0];
    for (int i = 1; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
    Floats added = set(0.0f);
    for (int64_t j = 0; j < end; j += kLanes) {
      float* w = weights + r * stride + j;
      const Floats e = first(exp(sub(load(w), set(largest))), seen[r] - j, 0.0f);
      added = add(added, e);
      store(w, e);
    }
    total[r] = sum(added);
  }
  for (int64_t step = 0; step < end; step += kLanes) {
#ifdef GELATO_MUTANT_ORDER  // As in product.h.
    const int64_t j = a.window > 1 ? stride - kLanes - step : step;
#else
    const int64_t j = step;
#endif
    values.rows(j, end, room, rows);
    int64_t h = 0;
    for (; h + kValueVectors * kLanes <= padded; h += kValueVectors * kLanes)
      add_values<R, kValueVectors>(weights + j, stride, rows, h, sums, padded);
    for (; h < padded; h += kLanes) add_values<R, 1>(weights + j, stride, rows, h, sums, padded);
  }
  for (int r = 0; r < R; ++r) {
    float* out = a.out + (token(first_query + r) * a.heads + query_head(first_query + r)) * a.size;
    for (int64_t h = 0; h < a.size; h += kLanes)
      store_some(out + h, a.size - h, div(load(sums + r * padded + h), set(total[r])));
  }
}

// A unit is a tile of the queries that share a key head of a row; they are in the order of their tokens.
void attend(const Attention& a, int64_t unit) {
  const int64_t queries = a.heads / a.kv_heads * a.valid, first_query = unit % a.tiles * a.queries;
  const int64_t head = unit / a.tiles % a.kv_heads, row = unit / a.tiles / a.kv_heads;
  const int64_t left = queries - first_query;
  switch (left < a.queries ? left : a.queries) {
    case 1: return attend_tile<1>(a, row, head, first_query);
    case 2: return attend_tile<2>(a, row, head, first_query);
    case 3: return attend_tile<3>(a, row, head, first_query);
    default: return attend_tile<4>(a, row, head, first_query);
  }
}

}  // namespace
}  // namespace gelato
