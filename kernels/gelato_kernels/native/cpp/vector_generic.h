// Vectors of 16 in plain C++, for whatever the compiler makes of the loops.
#pragma once

#include <cmath>
#include <cstring>

#include "arguments.h"

namespace gelato {
namespace {

constexpr int kMostRows = 2;       // Of a product's tile.
constexpr int kPanels = 1;         // That share each broadcast of a row's digits.
constexpr int kKeys = 2;           // Whose scores are summed at once.
constexpr int kColumnQueries = 32;  // See attention.h.
constexpr int kValueVectors = 1;   // Of a value's row that are summed at once.

struct Floats { float v[16]; };
struct Ints { int32_t v[16]; };
struct Weights { int16_t v[32]; };  // Two inputs of every output.
struct Digits { int16_t v[2]; };
using Dots = Ints;
using Packed = Weights;  // Four weights of every output in 16 bits of a 32-bit lane, the even inputs in its low half.

template <class F>
inline Floats each(F f) {
  Floats r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}

inline Floats set(float x) { return each([&](int) { return x; }); }
inline Floats load(const float* p) { Floats r; std::memcpy(&r, p, sizeof r); return r; }
inline void store(float* p, const Floats& a) { std::memcpy(p, &a, sizeof a); }
inline Floats add(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats sub(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Floats mul(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats div(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Floats max(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Floats min(const Floats& a, const Floats& b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
// Two roundings, where the other sets have one: a fused step without its instruction is a call.
inline Floats madd(const Floats& a, const Floats& b, const Floats& c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}

// To whole numbers, ties to even, of magnitudes below 2^22.
inline Floats rint(const Floats& a) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return each([&](int i) { return (a.v[i] + kShift) - kShift; });
}

inline Floats times_power(const Floats& a, const Floats& n) {
  return each([&](int i) {
    const int32_t bits = (static_cast<int32_t>(n.v[i]) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return a.v[i] * power;
  });
}

inline Floats first(const Floats& a, int64_t n, float other) {
  return each([&](int i) { return i < n ? a.v[i] : other; });
}

inline Floats zero_under(const Floats& a, const Floats& of, float limit) {  // where `of` is not above the limit
  return each([&](int i) { return of.v[i] > limit ? a.v[i] : 0.0f; });
}
inline bool any_over(const Floats& a, float limit) {
  bool any = false;
  for (const float number : a.v) any |= number > limit;
  return any;
}

inline float half(uint16_t h) {
  // The exponent is shifted to float32's; a subnormal is its fraction times 2^-24.
  const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
  uint32_t bits = sign | ((exponent + 112u) << 23) | (fraction << 13);
  if (exponent == 31u) bits = sign | 0x7F800000u | (fraction << 13);
  float value;
  std::memcpy(&value, &bits, 4);
  if (exponent == 0) value = (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  return value;
}

inline Floats halves(const uint16_t* p) { return each([&](int i) { return half(p[i]); }); }

inline Floats bfloats(const uint16_t* p) {
  Floats r;
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}

inline Ints no_ints() { return Ints{}; }
inline Ints magnitude(const Floats& a) {
  Ints r;
  std::memcpy(&r, &a, sizeof r);
  for (int i = 0; i < 16; ++i) r.v[i] &= 0x7FFFFFFF;
  return r;
}
inline Ints max(const Ints& a, const Ints& b) {
  Ints r;
  for (int i = 0; i < 16; ++i) r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return r;
}
inline void store(int32_t* p, const Ints& a) { std::memcpy(p, &a, sizeof a); }
inline Floats to_floats(const Ints& a) { return each([&](int i) { return static_cast<float>(a.v[i]); }); }

inline void store_digits(int16_t* p, const Floats& a) {
  const Floats whole = rint(a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int16_t>(whole.v[i]);
}

inline void order_digits(const int16_t* group, int32_t* words) { std::memcpy(words, group, kGroup * sizeof *group); }
inline Dots no_dots() { return no_ints(); }
inline Digits digits(const int32_t* p) { Digits r; std::memcpy(&r, p, 4); return r; }

template <int N>
inline void add_dot(Dots& sum, const Weights& w, const Digits& x) {
  for (int i = 0; i < 16; ++i) sum.v[i] += w.v[2 * i] * x.v[0] + w.v[2 * i + 1] * x.v[1];
}

inline Packed load_packed(const uint8_t* p) { Packed r; std::memcpy(&r, p, sizeof r); return r; }
template <int N>
inline Weights weights(const Packed& a) {
  Weights r;
  for (int i = 0; i < 32; ++i) r.v[i] = (static_cast<uint16_t>(a.v[i]) >> (4 * N)) & 15;
  return r;
}
template <int N>
inline Weights weights(const uint8_t* p) {
  Weights r;
  for (int i = 0; i < 32; ++i) r.v[i] = static_cast<int8_t>(p[N * 2 * kLanes + i]);
  return r;
}

// The sums of the lanes of two, added as the other sets add them.
inline void reduce(const Floats (&x)[2], float* sums) {
  for (int i = 0; i < 2; ++i) {
    float s[8];
    for (int k = 0; k < 8; ++k) s[k] = x[i].v[k] + x[i].v[k + 8];
    sums[i] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
  }
}

}  // namespace
}  // namespace gelato
