// Products of a few rows with block weights, and of many rows a few at a time.
//
// For weights of 4 or 8 bits a row is rounded to 15-bit digits with one step. Its sums with a group of 32 weights are whole
// numbers, and exact; the groups of a row are then added in float32, first to last, whatever stands in the other rows of its
// tile. With bfloat16 weights a row stays float32, and its products are added one by one, first to last. So a row's result
// is the same bits alone and in any window.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "mathematics.h"

namespace gelato {
namespace {

constexpr float kSmallestRow = 1e-30f;  // A row whose numbers are all below counts as zeros: 1 / its step overflows.

// x of one row, or what the prologue makes of it, zeros behind it.
inline void prologue(const Product& p, const float* x, float* y) {
  const int64_t padded = p.groups * kGroup;
  if (p.gated) {
    for (int64_t k = 0; k < p.in; k += kLanes) {
      const Floats a = load_some(x + k, p.in - k), b = load_some(x + p.in + k, p.in - k);
      store(y + k, mul(div(a, add(set(1.0f), exp(sub(set(0.0f), a)))), b));
    }
  } else if (p.norm) {
    const Floats factor = norm_factor(x, p.in, p.epsilon);
    for (int64_t k = 0; k < p.in; k += kLanes) {
      const Floats scale = load_some(p.norm + k, p.in - k);
      store(y + k, mul(mul(load_some(x + k, p.in - k), factor), scale));
    }
  } else {
    std::memcpy(y, x, p.in * sizeof(float));
  }
  if (p.in < padded) std::memset(y + p.in, 0, (padded - p.in) * sizeof(float));
}

inline float largest_magnitude(const float* y, int64_t n) {
  Ints bits = no_ints();  // Of magnitudes: these are ordered as whole numbers, and nan is the largest.
  for (int64_t k = 0; k < n; k += kLanes) bits = max(bits, magnitude(load(y + k)));
  int32_t lanes[kLanes], most = 0;
  store(lanes, bits);
  for (int i = 0; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
  float value;
  std::memcpy(&value, &most, sizeof value);
  return value;
}

void prepare(const Product& p, int64_t index) {
  const Tile tile = tile_of(p, index);
  const int64_t padded = p.groups * kGroup, stride = p.in * (p.gated ? 2 : 1);
  for (int r = 0; r < tile.count; ++r) {
    const int64_t row = tile.first + r;
    float* y = p.prepared + row * padded;
    prologue(p, p.x + p.position[row] * stride, y);
    const float largest = largest_magnitude(y, padded);
    const bool finite = largest <= std::numeric_limits<float>::max(), none = !finite || largest < kSmallestRow;
    p.steps[row] = !finite ? std::numeric_limits<float>::quiet_NaN() : none ? 0.0f : largest / kLargestDigit;
    if (p.format == Format::kBfloat16) {
      if (finite) p.steps[row] = 1.0f;
      continue;
    }
    const Floats inverse = set(none ? 0.0f : kLargestDigit / largest);
    int32_t* digits = p.digits + tile.first * p.groups * kWords + r;
    float* sums = p.sums + tile.first * p.groups + r;
    for (int64_t g = 0; g < p.groups; ++g) {
      int16_t group[kGroup] = {};
      if (!none)
        for (int k = 0; k < kGroup; k += kLanes) store_digits(group + k, mul(load(y + g * kGroup + k), inverse));
      int32_t total = 0;
      for (int k = 0; k < kGroup; ++k) total += group[k];
      sums[g * tile.count] = static_cast<float>(total);
      int32_t words[kWords];
      order_digits(group, words);
      for (int k = 0; k < kWords; ++k) digits[(g * kWords + k) * tile.count] = words[k];
    }
  }
}

// Adds what the Nth of four words of digits gives with eight weights of every output.
template <int N, int P, int R, class Eight>
inline void add_word(Dots (&dots)[P][R], const Eight (&eight)[P], const int32_t* word) {
  Weights w[P];
  GELATO_UNROLL for (int p = 0; p < P; ++p) w[p] = weights<N>(eight[p]);
  GELATO_UNROLL for (int r = 0; r < R; ++r) {
    const Digits x = digits(word + N * R + r);
    GELATO_UNROLL for (int p = 0; p < P; ++p) add_dot<N>(dots[p][r], w[p], x);
  }
}

template <int P, int R, class Eight>
inline void add_words(Dots (&dots)[P][R], const Eight (&eight)[P], const int32_t* words) {
  add_word<0>(dots, eight, words);
  add_word<1>(dots, eight, words);
  add_word<2>(dots, eight, words);
  add_word<3>(dots, eight, words);
}

// Adds what group g gives with each panel, of a row's digits.
template <Format F, int P, int R>
inline void add_group(const Product& a, int64_t panel, int64_t g, Tile tile, Floats (&total)[P][R]) {
  constexpr bool Q4 = F == Format::kQ4;
  constexpr int64_t kBytes = bytes_of(F);
  const int32_t* words = a.digits + (tile.first * a.groups + g * R) * kWords;
  Dots dots[P][R];
  GELATO_UNROLL for (int p = 0; p < P; ++p) GELATO_UNROLL for (int r = 0; r < R; ++r) dots[p][r] = no_dots();
  for (int quarter = 0; quarter < 4; ++quarter) {
    std::conditional_t<Q4, Packed, const uint8_t*> eight[P];
    GELATO_UNROLL for (int p = 0; p < P; ++p) {
      const uint8_t* at = a.packed + ((panel + p) * a.groups + g) * kBytes + quarter * kBytes / 4;
      if constexpr (Q4) eight[p] = load_packed(at);
      else eight[p] = at;
    }
    add_words(dots, eight, words + quarter * 4 * R);
  }
  GELATO_UNROLL for (int p = 0; p < P; ++p) {
    const int64_t at = ((panel + p) * a.groups + g) * kLanes;
    const Floats scale = halves(a.scale + at);
    __builtin_prefetch(a.scale + at + P * a.groups * kLanes, 0, 2);
    GELATO_UNROLL for (int r = 0; r < R; ++r) total[p][r] = madd(scale, to_floats(dots[p][r]), total[p][r]);
    if constexpr (Q4) {
      const Floats minimum = halves(a.minimum + at);
      const float* sums = a.sums + tile.first * a.groups + g * R;
      __builtin_prefetch(a.minimum + at + P * a.groups * kLanes, 0, 2);
      GELATO_UNROLL for (int r = 0; r < R; ++r) total[p][r] = madd(minimum, set(sums[r]), total[p][r]);
    }
  }
}

// The same of rows as they are.
template <int P, int R>
inline void add_bfloats(const Product& a, int64_t panel, int64_t g, Tile tile, Floats (&total)[P][R]) {
  const int64_t padded = a.groups * kGroup;
  const float* x = a.prepared + tile.first * padded + g * kGroup;
  const auto* weights = reinterpret_cast<const uint16_t*>(a.packed) + (panel * a.groups + g) * kLanes * kGroup;
  for (int k = 0; k < kGroup; ++k) {
    Floats w[P];
    GELATO_UNROLL for (int p = 0; p < P; ++p) w[p] = bfloats(weights + (p * a.groups * kGroup + k) * kLanes);
    GELATO_UNROLL for (int r = 0; r < R; ++r) {
      const Floats one = set(x[r * padded + k]);
      GELATO_UNROLL for (int p = 0; p < P; ++p) total[p][r] = madd(w[p], one, total[p][r]);
    }
  }
}

template <Format F, int P, int R>
void multiply_tile(const Product& a, int64_t panel, Tile tile) {
  Floats total[P][R];
  GELATO_UNROLL for (int p = 0; p < P; ++p) GELATO_UNROLL for (int r = 0; r < R; ++r) total[p][r] = set(0.0f);
  for (int64_t step = 0; step < a.groups; ++step) {
#ifdef GELATO_MUTANT_ORDER  // What the tests of equality must catch: sums that know how many rows there are.
    const int64_t g = R > 1 ? a.groups - 1 - step : step;
#else
    const int64_t g = step;
#endif
    // The panels behind these are asked for while these are multiplied: a core's own prefetching stops at a page's end.
    constexpr int64_t kBytes = bytes_of(F);
    GELATO_UNROLL for (int p = 0; p < P; ++p) GELATO_UNROLL for (int64_t line = 0; line < kBytes; line += 64)
      __builtin_prefetch(a.packed + ((panel + P + p) * a.groups + g) * kBytes + line, 0, 2);
    if constexpr (F == Format::kBfloat16) add_bfloats(a, panel, g, tile, total);
    else add_group<F>(a, panel, g, tile, total);
  }
  GELATO_UNROLL for (int p = 0; p < P; ++p) GELATO_UNROLL for (int r = 0; r < R; ++r) {
    const int64_t output = (panel + p) * kLanes, left = a.outputs - output;
    const int64_t at = a.position[tile.first + r] * a.outputs + output;
    Floats y = mul(total[p][r], set(a.steps[tile.first + r]));
    if (a.bias) y = add(y, load_some(a.bias + output, left));
    if (a.residual) y = add(y, load_some(a.residual + at, left));
    store_some(a.out + at, left, y);
  }
}

template <Format F, int P, int R = kMostRows>
inline void multiply_rows(const Product& a, int64_t panel, Tile tile) {
  if constexpr (R > 0) {
    if (tile.count == R) return multiply_tile<F, P, R>(a, panel, tile);
    multiply_rows<F, P, R - 1>(a, panel, tile);
  }
}

template <Format F>
void multiply_panels(const Product& a, int64_t panel, int64_t last) {
  // A few panels stay in the first cache while all rows pass by.
  for (; panel + kPanels <= last; panel += kPanels)
    for (int64_t t = 0; t < a.tiles; ++t) multiply_rows<F, kPanels>(a, panel, tile_of(a, t));
  for (; panel < last; ++panel)
    for (int64_t t = 0; t < a.tiles; ++t) multiply_rows<F, 1>(a, panel, tile_of(a, t));
}

void multiply(const Product& a, int64_t first_panel, int64_t last_panel) {
  switch (a.format) {
    case Format::kQ4: return multiply_panels<Format::kQ4>(a, first_panel, last_panel);
    case Format::kQ8: return multiply_panels<Format::kQ8>(a, first_panel, last_panel);
    case Format::kBfloat16: return multiply_panels<Format::kBfloat16>(a, first_panel, last_panel);
  }
}

}  // namespace
}  // namespace gelato
