// Passes over rows of logits: statistics of a softmax, masses of a residual, and what sampling makes of logits. A row is one unit of
// work and knows nothing of the others.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "mathematics.h"

namespace gelato {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = -87.0f;  // exp of it, and of all below, counts as 0.

// Up to 16 logits, such as have no weight behind them.
inline Floats logits(const float* x, int64_t n) { return n >= kLanes ? load(x) : first(load_some(x, n), n, -kInfinity); }

inline Floats weight(const Floats& below) { return zero_under(exp(below), below, kLowest); }

inline float largest(const Floats& x) {
  float lanes[kLanes];
  store(lanes, x);
  return *std::max_element(lanes, lanes + kLanes);
}

// The maximum of n logits, the first of them that has it, and the maxima of chunks of them where they are wanted. Nan
// where one is nan, or none is finite, or one infinite.
inline float maximum(const float* x, int64_t n, int64_t* index, int64_t length = 256, float* highs = nullptr) {
  Ints bits = no_ints();  // Of magnitudes: those of nan are above infinity's.
  float most = -kInfinity;
  int64_t chunk = 0;
  for (int64_t start = 0; start < n; start += length) {
    Floats high = set(-kInfinity);
    for (int64_t i = start, end = std::min(start + length, n); i < end; i += kLanes) {
      const Floats some = logits(x + i, end - i);
      high = max(high, some);
      bits = max(bits, magnitude(some));
    }
    const float here = largest(high);
    if (here > most) most = here, chunk = start;
    if (highs) *highs++ = here;
  }
  int32_t lanes[kLanes];
  store(lanes, bits);
  for (*index = chunk; *index < n - 1 && !(x[*index] == most);) ++*index;
  const bool sound = *std::max_element(lanes, lanes + kLanes) <= 0x7F800000 && std::fabs(most) < kInfinity;
  return sound ? most : std::numeric_limits<float>::quiet_NaN();
}

void statistics(const Statistics& s, int64_t row) {
  const float* x = s.logits + row * s.vocab;
  float* sums = s.block_sums + row * s.blocks;
  int64_t index;
  const float most = s.maximum[row] = maximum(x, s.vocab, &index, s.block, sums);
  s.argmax[row] = static_cast<int32_t>(index);
  if (std::isnan(most)) {
    s.total[row] = s.weighted[row] = most;
    std::fill(sums, sums + s.blocks, most);
    return;
  }
  const Floats high = set(most), inverse = set(s.temperature ? 1.0f / s.temperature[row] : 1.0f);
  double total = 0.0, weighted = 0.0;
  for (int64_t b = 0; b < s.blocks; ++b) {
    if (sums[b] - most <= kLowest && !s.temperature) {  // Weighs nothing, as most of a row that sampling has cut.
      sums[b] = 0.0f;
      continue;
    }
    Floats plain = set(0.0f), moment = set(0.0f), warm = set(0.0f);
    for (int64_t i = b * s.block, end = std::min(i + s.block, s.vocab); i < end; i += kLanes) {
      const Floats below = sub(logits(x + i, end - i), high), w = weight(below);
      plain = add(plain, w);
      moment = madd(w, max(below, set(kLowest)), moment);  // No 0 times infinity.
      if (s.temperature) warm = add(warm, weight(mul(below, inverse)));
    }
    const float mass = sum(plain);
    total += mass;
    weighted += sum(moment);
    sums[b] = s.temperature ? sum(warm) : mass;
  }
  s.total[row] = static_cast<float>(total);
  s.weighted[row] = static_cast<float>(weighted);
}

void residual(const Residual& r, int64_t row) {
  float* masses = r.masses + row * r.blocks;
  if (!r.needed[row]) return void(std::fill(masses, masses + r.blocks, 0.0f));
  const float *x = r.target + row * r.vocab, *y = r.draft + row * r.vocab;
  // Subtracted one after the other, as all implementations do: equal rows leave nothing.
  const Floats x_high = set(r.target_maximum[row]), x_log = set(r.target_log[row]);
  const Floats y_high = set(r.draft_maximum[row]), y_log = set(r.draft_log[row]);
  for (int64_t b = 0; b < r.blocks; ++b) {
    Floats mass = set(0.0f);
    for (int64_t i = b * r.block, end = std::min(i + r.block, r.vocab); i < end; i += kLanes) {
      const Floats p = weight(sub(sub(logits(x + i, end - i), x_high), x_log));
      const Floats q = weight(sub(sub(logits(y + i, end - i), y_high), y_log));
      mass = add(mass, max(sub(p, q), set(0.0f)));
    }
    masses[b] = sum(mass);
  }
}

struct Weighted {
  float logit, weight;
};

// The largest logit t such that those of at least t weigh at least `wanted`. Reorders its input.
inline float threshold(Weighted* some, int64_t n, double wanted) {
  double above = 0.0;  // The weight of all that is left out on the upper side.
  while (n > 1) {
    const float pivot = some[n / 2].logit;
    Weighted* equal = std::partition(some, some + n, [&](const Weighted& w) { return w.logit > pivot; });
    Weighted* under = std::partition(equal, some + n, [&](const Weighted& w) { return w.logit == pivot; });
    double upper = above;
    for (const Weighted* w = some; w < equal; ++w) upper += w->weight;
    if (upper >= wanted && equal > some) {
      n = equal - some;
      continue;
    }
    for (const Weighted* w = equal; w < under; ++w) upper += w->weight;
    if (upper >= wanted || under == some + n) return pivot;
    above = upper;
    n = some + n - under;
    some = under;
  }
  return some->logit;
}

inline void keep(float* x, int64_t n, float cut) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] >= cut ? x[i] : -kInfinity;
}

// The k-th largest of n logits, of which none is nan. `room` is for n numbers.
inline float kth_largest(const float* x, int64_t n, int64_t k, float* room) {
  constexpr int64_t kChunk = 256;
  int64_t count = 0;
  for (int64_t start = 0; start < n; start += kChunk) {
    Floats high = set(-kInfinity);
    for (int64_t i = start; i < std::min(start + kChunk, n); i += kLanes) high = max(high, logits(x + i, n - i));
    room[count++] = largest(high);
  }
  // As many chunks hold a number of at least the k-th largest maximum: what is under it is out.
  float least = -kInfinity;
  if (k <= count) {
    std::nth_element(room, room + k - 1, room + count, std::greater<float>());
    least = room[k - 1];
  }
  count = 0;
  for (int64_t i = 0; i < n; ++i) {
    room[count] = x[i];
    count += x[i] >= least;
  }
  std::nth_element(room, room + k - 1, room + count, std::greater<float>());
  return room[k - 1];
}

// The threshold of top-p of n logits whose largest is `most`. `room` is for 2 n numbers, n rounded up to lanes.
inline float nucleus(const float* x, int64_t n, float most, float level, float* room) {
  constexpr float kNear = -3.0f, kFar = -9.0f;  // Nats: of text, the few logits above one of them weigh enough.
  constexpr int64_t kChunk = 1024;
  double near = 0.0, far = 0.0, total = 0.0;
  for (int64_t start = 0; start < n; start += kChunk) {
    Floats nears = set(0.0f), fars = set(0.0f), all = set(0.0f);
    for (int64_t i = start; i < std::min(start + kChunk, n); i += kLanes) {
      const Floats below = sub(logits(x + i, n - i), set(most)), w = weight(below);
      nears = add(nears, zero_under(w, below, kNear));
      fars = add(fars, zero_under(w, below, kFar));
      all = add(all, w);
    }
    near += sum(nears);
    far += sum(fars);
    total += sum(all);
  }
  level = std::max(level, 0.0f);
  const double wanted = level * total, enough = wanted * (1.0 + 1e-5);  // By more than a float sum may be off.
  // Else what weighs less than an even share of what may be left out can be left out together.
  const float share = std::max(kLowest, static_cast<float>(std::log((1.0 - level) * total / static_cast<double>(n))));
  const float limit = near > enough ? kNear : far > enough ? kFar : std::min(share, kFar);
  Weighted* candidates = reinterpret_cast<Weighted*>(room);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats some = logits(x + i, n - i), below = sub(some, set(most));
    if (!any_over(below, limit)) continue;
    float logit[kLanes], under[kLanes], w[kLanes];
    store(logit, some);
    store(under, below);
    store(w, weight(below));
    for (int lane = 0; lane < kLanes; ++lane) {
      candidates[count] = {logit[lane], w[lane]};
      count += under[lane] > limit;
    }
  }
  return count ? threshold(candidates, count, wanted) : most;  // None where `most` is infinite.
}

void warp(const Warp& w, int64_t row) {
  const int64_t n = w.vocab;
  const float* x = w.logits + row * n;
  float* out = w.out + row * n;
  const float temperature = w.temperature[row], level = w.top_p[row];
  int64_t index;
  const float most = maximum(x, n, &index);
  if (!(temperature > 0.0f)) {
    std::fill(out, out + n, -kInfinity);
    out[index] = 0.0f;
    return;
  }
  const Floats by = set(temperature);
  for (int64_t i = 0; i < n; i += kLanes) store_some(out + i, n - i, div(load_some(x + i, n - i), by));
  const int64_t k = w.top_k[row];
  if (std::isnan(most) || ((k <= 0 || k >= n) && level >= 1.0f)) return;
  float* room = scratch(2 * (n + kLanes), Use::kUnit);
  if (!room) __builtin_trap();  // no memory: there is no one to tell
  if (k > 0 && k < n) keep(out, n, kth_largest(out, n, k, room));
  if (level < 1.0f) keep(out, n, nucleus(out, n, out[index], level, room));
}

}  // namespace
}  // namespace gelato
