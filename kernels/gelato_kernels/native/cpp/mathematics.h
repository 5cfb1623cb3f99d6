// What the kernels share beyond single instructions. Included behind a vector_*.h.
#pragma once

#include <cmath>
#include <cstring>

namespace gelato {
namespace {

// exp(x) for |x| up to 87, beyond which x is clamped; within 1e-6 of itself. Coefficients: Cephes, expf.
inline Floats exp(Floats x) {
  x = max(min(x, set(87.0f)), set(-87.0f));
  const Floats n = rint(mul(x, set(1.44269504f)));
  Floats r = madd(n, set(-0.693359375f), x);  // log 2 in two parts: n times the first is exact
  r = madd(n, set(2.12194440e-4f), r);
  Floats p = set(1.9875691500e-4f);
  p = madd(p, r, set(1.3981999507e-3f));
  p = madd(p, r, set(8.3334519073e-3f));
  p = madd(p, r, set(4.1665795894e-2f));
  p = madd(p, r, set(1.6666665459e-1f));
  p = madd(p, r, set(5.0000001201e-1f));
  p = add(madd(mul(r, r), p, r), set(1.0f));
  return times_power(p, n);
}

// Up to 16 numbers, zeros behind them.
inline Floats load_some(const float* p, int64_t n) {
  if (n >= kLanes) return load(p);
  float some[kLanes] = {};
  std::memcpy(some, p, n * sizeof(float));
  return load(some);
}

inline void store_some(float* p, int64_t n, const Floats& x) {
  if (n >= kLanes) return store(p, x);
  float some[kLanes];
  store(some, x);
  std::memcpy(p, some, n * sizeof(float));
}

#ifndef GELATO_TRANSPOSE  // Where a set has no better one.
inline void transpose(Floats (&x)[kLanes]) {
  float rows[kLanes][kLanes], columns[kLanes][kLanes];
  for (int i = 0; i < kLanes; ++i) store(rows[i], x[i]);
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j) columns[j][i] = rows[i][j];
  for (int i = 0; i < kLanes; ++i) x[i] = load(columns[i]);
}
#endif

inline float sum(const Floats& x) {
  float s[kLanes];
  store(s, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  return s[0];
}

// What an RMS norm multiplies n numbers by (arXiv 1910.07467), its scale left out.
inline Floats norm_factor(const float* x, int64_t n, float epsilon) {
  Floats squares = set(0.0f);
  for (int64_t k = 0; k < n; k += kLanes) {
    const Floats some = load_some(x + k, n - k);
    squares = madd(some, some, squares);
  }
  return set(1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + epsilon));
}

}  // namespace
}  // namespace gelato
