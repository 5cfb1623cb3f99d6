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

constexpr int kTileQueries = 4;  // That share a row of keys or values while it is in registers.

inline float rounded_to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7FFFu + ((bits >> 16) & 1u)) & 0xFFFF0000u;  // ties to even; finite numbers only
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

// Rows [16, padded] of keys or values, one behind the other: of float32, or of bfloat16 where `wide` is null.
struct Rows {
  const float* wide;
  const uint16_t* narrow;

  template <bool Narrow>
  Floats part(int64_t at) const {
    if constexpr (Narrow) return bfloats(narrow + at);
    else return load(wide + at);
  }
};

// Keys, or values, of one row and head by absolute position.
struct Text {
  const Attention& a;
  const void* cache;   // [slots, size]
  const float* fresh;  // [window, size]
  int64_t length, end, padded;

  // Positions [at, at + 16), where they are or as float32 in `room`: beyond `end` the last one again, whose weight is zero.
  Rows rows(int64_t at, float* room) const {
    const int64_t offset = at * a.size;
    if (padded == a.size && at + kLanes <= length) {
      if (a.narrow) return {nullptr, static_cast<const uint16_t*>(cache) + offset};
      return {static_cast<const float*>(cache) + offset, nullptr};
    }
    for (int i = 0; i < kLanes; ++i) copy(at + i < end ? at + i : end - 1, room + i * padded);
    return {room, nullptr};
  }

  // Asks for positions [at, at + 16): a core's own prefetching stops at a page's end.
  void ask_for(int64_t at) const {
    const int64_t bytes = a.size * (a.narrow ? 2 : 4), last = length < at + kLanes ? length : at + kLanes;
    const char* first = static_cast<const char*>(cache);
    for (int64_t line = at * bytes; line < last * bytes; line += 64) __builtin_prefetch(first + line, 0, 2);
  }

 private:
  void copy(int64_t position, float* y) const {
    int64_t h = 0;
    if (position < length && a.narrow) {
      const uint16_t* x = static_cast<const uint16_t*>(cache) + position * a.size;
      for (; h + kLanes <= a.size; h += kLanes) store(y + h, bfloats(x + h));
      for (; h < a.size; ++h) {
        const uint32_t bits = static_cast<uint32_t>(x[h]) << 16;
        std::memcpy(y + h, &bits, sizeof bits);
      }
    } else {
      const bool cached = position < length;
      const float* x = cached ? static_cast<const float*>(cache) + position * a.size : fresh + (position - length) * a.size;
      for (; h < a.size; ++h) y[h] = a.narrow ? rounded_to_bfloat16(x[h]) : x[h];
    }
    for (; h < padded; ++h) y[h] = 0.0f;
  }
};

// A query or a key of a token as it is attended with: its norm (arXiv 1910.07467), its rotation (arXiv 2104.09864: the
// pairs are i, i + size / 2), times a scale.
inline void turn_one(const Attention& a, int64_t token, const float* x, const float* norm, float scale, float* y) {
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
        if (t < a.valid(b)) {
          turn_one(a, token, key, a.key_norm, 1.0f, fresh_key + at);
          std::memcpy(fresh_value + at, key + a.kv_heads * a.size, a.size * sizeof(float));
        } else {
          std::memset(fresh_key + at, 0, a.size * sizeof(float));
          std::memset(fresh_value + at, 0, a.size * sizeof(float));
        }
      }
}

// Scores of 16 keys for R queries; queries are [R, padded], scores [R, kChunk]. A score is a sum of 16 lanes' sums, which
// `reduce` adds: the same for `scores_across`, that knows the keys by columns.
template <int R, bool Narrow>
inline void scores(const float* query, const Rows& key, int64_t padded, float* score) {
  for (int first_key = 0; first_key < kLanes; first_key += kKeys) {
    Floats partial[R][kKeys];
    GELATO_UNROLL for (int r = 0; r < R; ++r) GELATO_UNROLL for (int i = 0; i < kKeys; ++i) partial[r][i] = set(0.0f);
    for (int64_t h = 0; h < padded; h += kLanes)
      GELATO_UNROLL for (int i = 0; i < kKeys; ++i) {
        const Floats k = key.part<Narrow>((first_key + i) * padded + h);
        GELATO_UNROLL for (int r = 0; r < R; ++r) partial[r][i] = madd(k, load(query + r * padded + h), partial[r][i]);
      }
    GELATO_UNROLL for (int r = 0; r < R; ++r) reduce(partial[r], score + r * kChunk + first_key);
  }
}

// Rows [16, padded] as columns [padded, 16].
inline void turn_around(const Rows& rows, int64_t padded, float* columns) {
  for (int64_t h = 0; h < padded; h += kLanes) {
    Floats block[kLanes];
    for (int i = 0; i < kLanes; ++i) block[i] = rows.wide ? rows.part<false>(i * padded + h) : rows.part<true>(i * padded + h);
    transpose(block);
    for (int i = 0; i < kLanes; ++i) store(columns + (h + i) * kLanes, block[i]);
  }
}

// What N lanes of the sums of `scores` come to, k the first of them, of keys as columns [padded, 16].
template <int N, int R>
inline void sum_lanes(const float* query, const float* keys, int64_t padded, int64_t k, Floats (&sum)[R]) {
  if constexpr (N == 2) {  // lanes k and k + 8
    Floats low[R], high[R];
    GELATO_UNROLL for (int r = 0; r < R; ++r) low[r] = high[r] = set(0.0f);
    for (int64_t h = k; h < padded; h += kLanes) {
      const Floats x = load(keys + h * kLanes), y = load(keys + (h + kLanes / 2) * kLanes);
      GELATO_UNROLL for (int r = 0; r < R; ++r) {
        low[r] = madd(x, set(query[r * padded + h]), low[r]);
        high[r] = madd(y, set(query[r * padded + h + kLanes / 2]), high[r]);
      }
    }
    GELATO_UNROLL for (int r = 0; r < R; ++r) sum[r] = add(low[r], high[r]);
  } else {
    Floats other[R];
    sum_lanes<N / 2>(query, keys, padded, k, sum);
    sum_lanes<N / 2>(query, keys, padded, k + N / 4, other);
    GELATO_UNROLL for (int r = 0; r < R; ++r) sum[r] = add(sum[r], other[r]);
  }
}

template <int R>
inline void scores_across(const float* query, const float* keys, int64_t padded, float* score) {
  Floats sum[R];
  sum_lanes<kLanes>(query, keys, padded, 0, sum);
  GELATO_UNROLL for (int r = 0; r < R; ++r) store(score + r * kChunk, sum[r]);
}

// Adds 16 weighted rows to V vectors of R queries' sums; weights are [R, kChunk], sums [R, stride].
template <int R, int V, bool Narrow>
inline void add_values(const float* weight, const Rows& value, int64_t padded, int64_t h, float* sum, int64_t stride) {
  Floats total[R][V];
  GELATO_UNROLL for (int r = 0; r < R; ++r) GELATO_UNROLL for (int v = 0; v < V; ++v)
    total[r][v] = load(sum + r * stride + h + v * kLanes);
  for (int i = 0; i < kLanes; ++i) {
    Floats row[V];
    GELATO_UNROLL for (int v = 0; v < V; ++v) row[v] = value.part<Narrow>(i * padded + h + v * kLanes);
    GELATO_UNROLL for (int r = 0; r < R; ++r) {
      const Floats w = set(weight[r * kChunk + i]);
      GELATO_UNROLL for (int v = 0; v < V; ++v) total[r][v] = madd(w, row[v], total[r][v]);
    }
  }
  GELATO_UNROLL for (int r = 0; r < R; ++r) GELATO_UNROLL for (int v = 0; v < V; ++v)
    store(sum + r * stride + h + v * kLanes, total[r][v]);
}

template <int R, bool Narrow>
inline void add_values(const float* weight, const Rows& value, int64_t padded, float* sum, int64_t stride) {
  int64_t h = 0;
  for (; h + kValueVectors * kLanes <= padded; h += kValueVectors * kLanes)
    add_values<R, kValueVectors, Narrow>(weight, value, padded, h, sum, stride);
  for (; h < padded; h += kLanes) add_values<R, 1, Narrow>(weight, value, padded, h, sum, stride);
}

// A row and key head.
struct Head {
  const Attention& a;
  int64_t index, row, groups, padded, queries, length, end;  // Positions below `end` are attended to by some query.

  Head(const Attention& attention, int64_t head)
      : a(attention), index(head), row(head / a.kv_heads), groups(a.heads / a.kv_heads), padded(a.padded()),
        queries(groups * a.valid(row)), length(a.length(row)), end(length + a.valid(row)) {}

  int64_t token(int64_t query) const { return row * a.window + query / groups; }
  int64_t query_head(int64_t query) const { return index % a.kv_heads * groups + query % groups; }
  int64_t seen(int64_t query) const { return length + query / groups + 1; }  // Positions that a query attends to.
  const float* query(int64_t query) const { return a.turned + (index * a.queries + query) * padded; }
  Text text(const void* cache, const float* fresh) const {
    const int64_t bytes = a.size * (a.narrow ? 2 : 4);
    const int64_t head = row * a.cache_heads + index % a.kv_heads;
    return {a, static_cast<const char*>(cache) + head * a.slots * bytes, fresh + index * a.window * a.size, length, end, padded};
  }
};

// What some positions give a query: [padded] values by their weights, then the largest score and the sum of weights, each
// in all lanes. Nothing was seen where that sum is zero.
struct Part {
  float* values;
  int64_t padded;

  Floats most() const { return load(values + padded); }
  Floats total() const { return load(values + padded + kLanes); }
  void set_totals(Floats most, Floats total) const {
    store(values + padded, most);
    store(values + padded + kLanes, total);
  }
};

// Adds what the next positions give.
inline void fold(const Part& all, const Part& next) {
  if (next.values[next.padded + kLanes] == 0.0f) return;
  if (all.values[all.padded + kLanes] == 0.0f)
    return void(std::memcpy(all.values, next.values, (all.padded + 2 * kLanes) * sizeof(float)));
  const Floats most = max(all.most(), next.most()), mine = exp(sub(all.most(), most)), other = exp(sub(next.most(), most));
  for (int64_t h = 0; h < all.padded; h += kLanes)
    store(all.values + h, madd(load(next.values + h), other, mul(load(all.values + h), mine)));
  all.set_totals(most, madd(next.total(), other, mul(all.total(), mine)));
}

inline void write_out(const Head& head, int64_t query, const Part& part) {
  float* out = head.a.out + (head.token(query) * head.a.heads + head.query_head(query)) * head.a.size;
  for (int64_t h = 0; h < head.a.size; h += kLanes)
    store_some(out + h, head.a.size - h, div(load(part.values + h), part.total()));
}

// A chunk's positions, 16 by 16.
struct Chunk {
  int64_t first, count;  // Of positions, the latter in whole sixteens.
  Rows key[kChunk / kLanes], value[kChunk / kLanes];
  const float* columns;  // [count / 16, padded, 16] keys by columns, or null
};

// What a chunk gives R queries; parts are [R, stride].
template <int R>
void attend_tile(const Head& head, int64_t query, const Chunk& chunk, float* parts) {
  const int64_t padded = head.padded, stride = head.a.part();
  alignas(64) float weights[R * kChunk];
  for (int64_t j = 0; j < chunk.count; j += kLanes) {
    const Rows& key = chunk.key[j / kLanes];
    if (chunk.columns) scores_across<R>(head.query(query), chunk.columns + j * padded, padded, weights + j);
    else if (key.wide) scores<R, false>(head.query(query), key, padded, weights + j);
    else scores<R, true>(head.query(query), key, padded, weights + j);
  }
  for (int r = 0; r < R; ++r) {
    const Part part{parts + r * stride, padded};
    const int64_t seen = head.seen(query + r) - chunk.first;
    std::memset(part.values, 0, padded * sizeof(float));
    float* w = weights + r * kChunk;
    constexpr float kLeast = -std::numeric_limits<float>::max();
    Floats most = set(kLeast);
    for (int64_t j = 0; j < chunk.count; j += kLanes) most = max(most, first(load(w + j), seen - j, kLeast));
    float lanes[kLanes], largest;
    store(lanes, most);
    largest = lanes[0];
    for (int i = 1; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
    Floats added = set(0.0f);
    for (int64_t j = 0; j < chunk.count; j += kLanes) {
      const Floats e = first(exp(sub(load(w + j), set(largest))), seen - j, 0.0f);
      added = add(added, e);
      store(w + j, e);
    }
    part.set_totals(set(largest), set(sum(added)));
  }
  for (int64_t step = 0; step < chunk.count; step += kLanes) {
#ifdef GELATO_MUTANT_ORDER  // As in product.h.
    const int64_t j = head.a.window > 1 ? chunk.count - kLanes - step : step;
#else
    const int64_t j = step;
#endif
    const Rows& value = chunk.value[j / kLanes];
    if (value.wide) add_values<R, false>(weights + j, value, padded, parts, stride);
    else add_values<R, true>(weights + j, value, padded, parts, stride);
  }
}

// What the positions of a chunk give the queries [query, last); parts are [queries, stride].
void attend_chunk(const Head& head, int64_t query, int64_t last, int64_t index, float* room, float* parts) {
  const int64_t left = head.end - index * kChunk, stride = head.a.part(), rows = kLanes * head.padded;
  if (left <= 0) {
    for (int64_t q = query; q < last; ++q) Part{parts + (q - query) * stride, head.padded}.set_totals(set(0.0f), set(0.0f));
    return;
  }
  Chunk chunk{index * kChunk, left < kChunk ? (left + kLanes - 1) / kLanes * kLanes : kChunk};
  const Text keys = head.text(head.a.key, head.a.fresh_key), values = head.text(head.a.value, head.a.fresh_value);
  // Turning keys around pays where many queries then add without crossing lanes.
  float* columns = last - query < kColumnQueries ? nullptr : room + 2 * kChunk * head.padded;
  for (int64_t j = 0; j < chunk.count; j += kLanes, room += 2 * rows) {
    const int64_t at = chunk.first + j;
    keys.ask_for(at + kChunk);  // while these are used
    values.ask_for(at + kChunk);
    chunk.key[j / kLanes] = keys.rows(at, room);
    chunk.value[j / kLanes] = values.rows(at, room + rows);
    if (columns) turn_around(chunk.key[j / kLanes], head.padded, columns + j * head.padded);
  }
  chunk.columns = columns;
  for (; query < last; query += kTileQueries, parts += kTileQueries * stride) switch (last - query) {
      case 1: attend_tile<1>(head, query, chunk, parts); break;
      case 2: attend_tile<2>(head, query, chunk, parts); break;
      case 3: attend_tile<3>(head, query, chunk, parts); break;
      default: attend_tile<kTileQueries>(head, query, chunk, parts);
    }
}

void turn(const Attention& a) {
  std::memset(a.turned, 0, a.batch * a.kv_heads * a.queries * a.padded() * sizeof(float));
  for (int64_t index = 0; index < a.batch * a.kv_heads; ++index) {
    const Head head(a, index);
    for (int64_t query = 0; query < head.queries; ++query) {
      const int64_t token = head.token(query);
      const float* x = a.query + (token * a.query_heads + head.query_head(query)) * a.size;
      turn_one(a, token, x, a.query_norm, a.scale, a.turned + (index * a.queries + query) * head.padded);
    }
  }
}

// Chunks are added up one after the other, whether a unit goes through them or `join` does: the bits are the same.
void attend(const Attention& a, int64_t unit) {
  const int64_t padded = a.padded(), stride = a.part(), rooms = 3 * kChunk * padded;
  float* room = scratch(rooms + (a.apart ? 0 : 2 * a.block * stride), Use::kUnit);
  if (!room) __builtin_trap();  // no memory: there is no one to tell
  if (a.apart) {
    const Head head(a, unit / a.chunks);
    return attend_chunk(head, 0, head.queries, unit % a.chunks, room, a.parts + unit * a.queries * stride);
  }
  const Head head(a, unit / a.blocks);
  const int64_t first_query = unit % a.blocks * a.block;
  const int64_t last = first_query + a.block < head.queries ? first_query + a.block : head.queries;
  if (last <= first_query) return;  // a row with fewer tokens than another
  const int64_t count = last - first_query;
  float *all = room + rooms, *next = all + a.block * stride;
  attend_chunk(head, first_query, last, 0, room, all);
  for (int64_t chunk = 1; chunk * kChunk < head.seen(last - 1); ++chunk) {
    attend_chunk(head, first_query, last, chunk, room, next);
    for (int64_t q = 0; q < count; ++q) fold({all + q * stride, padded}, {next + q * stride, padded});
  }
  for (int64_t q = 0; q < count; ++q) write_out(head, first_query + q, {all + q * stride, padded});
}

void join(const Attention& a, int64_t index) {
  const Head head(a, index);
  const int64_t stride = a.part();
  for (int64_t query = 0; query < head.queries; ++query) {
    float* parts = a.parts + (index * a.chunks * a.queries + query) * stride;
    for (int64_t chunk = 1; chunk < a.chunks; ++chunk)
      fold({parts, head.padded}, {parts + chunk * a.queries * stride, head.padded});
    write_out(head, query, {parts, head.padded});
  }
}

}  // namespace
}  // namespace gelato
