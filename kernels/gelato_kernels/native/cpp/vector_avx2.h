// Vectors of 16 as two of AVX2, with FMA and F16C, which every such processor has.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "arguments.h"

namespace gelato {
namespace {

constexpr int kMostRows = 4;
constexpr int kPanels = 1;
constexpr int kKeys = 4;
constexpr int kColumnQueries = 32;
constexpr int kValueVectors = 1;

struct Floats { __m256 a, b; };
struct Ints { __m256i a, b; };
using Dots = Ints;
using Packed = Ints;   // Four weights of every output in 16 bits of a 32-bit lane, the even inputs in its low half.
using Weights = Ints;  // Two inputs of every output.
using Digits = __m256i;

inline Floats set(float x) { const __m256 v = _mm256_set1_ps(x); return {v, v}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, const Floats& x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
inline Floats add(const Floats& x, const Floats& y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Floats sub(const Floats& x, const Floats& y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Floats mul(const Floats& x, const Floats& y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Floats div(const Floats& x, const Floats& y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Floats max(const Floats& x, const Floats& y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Floats min(const Floats& x, const Floats& y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Floats madd(const Floats& x, const Floats& y, const Floats& z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Floats rint(const Floats& x) {
  constexpr int kEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kEven), _mm256_round_ps(x.b, kEven)};
}

inline __m256 power(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Floats times_power(const Floats& x, const Floats& n) { return mul(x, {power(n.a), power(n.b)}); }

inline Floats first(const Floats& x, int64_t n, float other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 rest = _mm256_set1_ps(other);
  const __m256i end = _mm256_set1_epi32(static_cast<int>(n));
  const __m256i low = _mm256_cmpgt_epi32(end, lane);
  const __m256i high = _mm256_cmpgt_epi32(end, _mm256_add_epi32(lane, _mm256_set1_epi32(8)));
  return {_mm256_blendv_ps(rest, x.a, _mm256_castsi256_ps(low)), _mm256_blendv_ps(rest, x.b, _mm256_castsi256_ps(high))};
}

inline Floats zero_under(const Floats& x, const Floats& of, float limit) {  // where `of` is not above the limit
  const __m256 v = _mm256_set1_ps(limit);
  return {_mm256_and_ps(x.a, _mm256_cmp_ps(of.a, v, _CMP_GT_OQ)), _mm256_and_ps(x.b, _mm256_cmp_ps(of.b, v, _CMP_GT_OQ))};
}
inline bool any_over(const Floats& x, float limit) {
  const __m256 v = _mm256_set1_ps(limit);
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, v, _CMP_GT_OQ), _mm256_cmp_ps(x.b, v, _CMP_GT_OQ))) != 0;
}

inline __m128i eight(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline Floats halves(const uint16_t* p) { return {_mm256_cvtph_ps(eight(p)), _mm256_cvtph_ps(eight(p + 8))}; }
inline __m256 eight_bfloats(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight(p)), 16));
}
inline Floats bfloats(const uint16_t* p) { return {eight_bfloats(p), eight_bfloats(p + 8)}; }

inline Ints no_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Ints magnitude(const Floats& x) {
  const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
  return {_mm256_and_si256(_mm256_castps_si256(x.a), mask), _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
}
inline Ints max(const Ints& x, const Ints& y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
inline void store(int32_t* p, const Ints& x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline Floats to_floats(const Ints& x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline void store_digits(int16_t* p, const Floats& x) {
  const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));  // packs mixes halves
}

inline void order_digits(const int16_t* group, int32_t* words) { std::memcpy(words, group, kGroup * sizeof *group); }
inline Dots no_dots() { return no_ints(); }
inline Digits digits(const int32_t* p) { return _mm256_set1_epi32(*p); }
template <int N>
inline void add_dot(Dots& sum, const Weights& w, const Digits& x) {
  sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(w.a, x));
  sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(w.b, x));
}
inline Packed load_packed(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
template <int N>
inline Weights weights(const Packed& x) {
  const __m256i mask = _mm256_set1_epi16(15);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4 * N), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, 4 * N), mask)};
}
template <int N>
inline Weights weights(const uint8_t* p) {
  p += N * 2 * kLanes;
  return {_mm256_cvtepi8_epi16(eight(p)), _mm256_cvtepi8_epi16(eight(p + 16))};
}

// The sums of the lanes of four, added as the other sets add them.
inline void reduce(const Floats (&x)[4], float* sums) {
  __m256 s[4];
  GELATO_UNROLL for (int i = 0; i < 4; ++i) s[i] = _mm256_add_ps(x[i].a, x[i].b);
  const __m256 fours = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
}

}  // namespace
}  // namespace gelato
