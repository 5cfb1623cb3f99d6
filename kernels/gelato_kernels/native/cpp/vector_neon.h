// Vectors of 16 as four of NEON, with the byte products of dotprod where this is compiled for them.
//
// There are no products of 16-bit pairs: digits of 15 bits are two bytes each, 128 * high + low, and both are multiplied.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "arguments.h"

namespace gelato {
namespace {

constexpr int kMostRows = 2;  // Of high and low sums, that fill 16 of the 32 registers; GCC spills more.
constexpr int kPanels = 1;
constexpr int kKeys = 4;
constexpr int kColumnQueries = 32;
constexpr int kValueVectors = 1;

struct Floats { float32x4_t v[4]; };
struct Ints { int32x4_t v[4]; };
struct Dots { Ints high, low; };
struct Packed { uint8x16_t v[4]; };
struct Weights { int8x16_t v[4]; };  // Four inputs of every output.
using Digits = int8x16_t;

template <class F>
inline Floats each(F f) { return {{f(0), f(1), f(2), f(3)}}; }
template <class F>
inline Ints each_int(F f) { return {{f(0), f(1), f(2), f(3)}}; }

inline Floats set(float x) { return each([&](int) { return vdupq_n_f32(x); }); }
inline Floats load(const float* p) { return each([&](int i) { return vld1q_f32(p + 4 * i); }); }
inline void store(float* p, const Floats& x) { for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]); }
inline Floats add(const Floats& x, const Floats& y) { return each([&](int i) { return vaddq_f32(x.v[i], y.v[i]); }); }
inline Floats sub(const Floats& x, const Floats& y) { return each([&](int i) { return vsubq_f32(x.v[i], y.v[i]); }); }
inline Floats mul(const Floats& x, const Floats& y) { return each([&](int i) { return vmulq_f32(x.v[i], y.v[i]); }); }
inline Floats div(const Floats& x, const Floats& y) { return each([&](int i) { return vdivq_f32(x.v[i], y.v[i]); }); }
// The second where one is nan, as on x86.
inline Floats max(const Floats& x, const Floats& y) {
  return each([&](int i) { return vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
inline Floats min(const Floats& x, const Floats& y) {
  return each([&](int i) { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
}
inline Floats madd(const Floats& x, const Floats& y, const Floats& z) {
  return each([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); });
}
inline Floats rint(const Floats& x) { return each([&](int i) { return vrndnq_f32(x.v[i]); }); }

inline Floats times_power(const Floats& x, const Floats& n) {
  return each([&](int i) {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23);
    return vmulq_f32(x.v[i], vreinterpretq_f32_s32(bits));
  });
}

inline Floats first(const Floats& x, int64_t n, float other) {
  const int32_t lanes[4] = {0, 1, 2, 3};
  const int32x4_t lane = vld1q_s32(lanes);
  return each([&](int i) {
    const uint32x4_t inside = vcltq_s32(lane, vdupq_n_s32(static_cast<int32_t>(n) - 4 * i));
    return vbslq_f32(inside, x.v[i], vdupq_n_f32(other));
  });
}

inline Floats zero_under(const Floats& x, const Floats& of, float limit) {  // where `of` is not above the limit
  return each([&](int i) { return vbslq_f32(vcgtq_f32(of.v[i], vdupq_n_f32(limit)), x.v[i], vdupq_n_f32(0.0f)); });
}
inline bool any_over(const Floats& x, float limit) {
  const float32x4_t high = vmaxnmq_f32(vmaxnmq_f32(x.v[0], x.v[1]), vmaxnmq_f32(x.v[2], x.v[3]));
  return vmaxnmvq_f32(high) > limit;
}

inline Floats halves(const uint16_t* p) {
  return each([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline Floats bfloats(const uint16_t* p) {
  return each([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}

inline Ints no_ints() { return each_int([](int) { return vdupq_n_s32(0); }); }
inline Ints magnitude(const Floats& x) {
  return each_int([&](int i) { return vandq_s32(vreinterpretq_s32_f32(x.v[i]), vdupq_n_s32(0x7FFFFFFF)); });
}
inline Ints max(const Ints& x, const Ints& y) { return each_int([&](int i) { return vmaxq_s32(x.v[i], y.v[i]); }); }
inline void store(int32_t* p, const Ints& x) { for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, x.v[i]); }

inline void store_digits(int16_t* p, const Floats& x) {
  for (int i = 0; i < 4; ++i) vst1_s16(p + 4 * i, vmovn_s32(vcvtnq_s32_f32(x.v[i])));
}

// Of every eight digits 0, 4, 1, 5 low, the same high, and 2, 6, 3, 7 likewise: the order in which both forms of weights
// come apart.
inline void order_digits(const int16_t* group, int32_t* words) {
  constexpr int kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  int8_t bytes[4 * kWords];
  for (int k = 0; k < kGroup; ++k) {
    const int16_t digit = group[k / 8 * 8 + kOrder[k % 8]];
    int8_t* byte = bytes + k / 4 * 8 + k % 4;
    byte[0] = static_cast<int8_t>(digit & 127);
    byte[4] = static_cast<int8_t>(digit >> 7);
  }
  std::memcpy(words, bytes, sizeof bytes);
}

inline Dots no_dots() { return {no_ints(), no_ints()}; }
inline Floats to_floats(const Dots& x) {
  return each([&](int i) { return vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(x.high.v[i], 7), x.low.v[i])); });
}
inline Digits digits(const int32_t* word) { return vreinterpretq_s8_s32(vld1q_dup_s32(word)); }

inline Packed load_packed(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
template <int N>
inline Weights weights(const Packed& x) {
  Weights w;
  GELATO_UNROLL for (int i = 0; i < 4; ++i)
    w.v[i] = vreinterpretq_s8_u8(N < 2 ? vandq_u8(x.v[i], vdupq_n_u8(15)) : vshrq_n_u8(x.v[i], 4));
  return w;
}
template <int N>
inline Weights weights(const uint8_t* p) {
  const int8_t* bytes = reinterpret_cast<const int8_t*>(p) + N / 2 * 2 * kLanes;
  Weights w;
  GELATO_UNROLL for (int i = 0; i < 4; i += 2) {
    const int8x16_t some = vld1q_s8(bytes + 8 * i), others = vld1q_s8(bytes + 4 * kLanes + 8 * i);
    w.v[i] = vzip1q_s8(some, others);
    w.v[i + 1] = vzip2q_s8(some, others);
  }
  return w;
}

inline int32x4_t dot(int32x4_t sum, int8x16_t x, int8x16_t y) {
#if defined(GELATO_DOTPROD)
  return vdotq_s32(sum, x, y);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y)), high = vmull_high_s8(x, y);
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
template <int N>
inline void add_dot(Dots& sum, const Weights& w, Digits x) {
  Ints& part = N % 2 ? sum.high : sum.low;
  GELATO_UNROLL for (int i = 0; i < 4; ++i) part.v[i] = dot(part.v[i], w.v[i], x);
}

// The sums of the lanes of four, added as the other sets add them.
inline void reduce(const Floats (&x)[4], float* sums) {
  float32x4_t pairs[4];
  GELATO_UNROLL for (int i = 0; i < 4; ++i)
    pairs[i] = vpaddq_f32(vaddq_f32(x[i].v[0], x[i].v[2]), vaddq_f32(x[i].v[1], x[i].v[3]));
  vst1q_f32(sums, vpaddq_f32(vpaddq_f32(pairs[0], pairs[1]), vpaddq_f32(pairs[2], pairs[3])));
}

}  // namespace
}  // namespace gelato
