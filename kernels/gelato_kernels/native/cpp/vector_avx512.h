// Vectors of 16 of AVX-512, with its VNNI.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "arguments.h"

namespace gelato {
namespace {

constexpr int kMostRows = 6;  // Two panels of 6 rows keep 24 sums; with the weights they fill the 32 registers.
constexpr int kPanels = 2;
constexpr int kKeys = 4;            // Whose scores are summed at once.
constexpr int kColumnQueries = 16;  // See attention.h.
constexpr int kValueVectors = 4;

using Floats = __m512;
using Ints = __m512i;
using Dots = __m512i;
using Packed = __m512i;   // Four weights of every output in 16 bits of a 32-bit lane, the even inputs in its low half.
using Weights = __m512i;  // Two inputs of every output.
using Digits = __m512i;

inline Floats set(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
inline Floats sub(Floats x, Floats y) { return _mm512_sub_ps(x, y); }
inline Floats mul(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
inline Floats div(Floats x, Floats y) { return _mm512_div_ps(x, y); }
inline Floats max(Floats x, Floats y) { return _mm512_max_ps(x, y); }
inline Floats min(Floats x, Floats y) { return _mm512_min_ps(x, y); }
inline Floats madd(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }
inline Floats rint(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats times_power(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }

inline Floats first(Floats x, int64_t n, float other) {
  const __mmask16 lanes = n >= 16 ? 0xFFFF : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
  return _mm512_mask_blend_ps(lanes, _mm512_set1_ps(other), x);
}

inline Floats zero_under(Floats x, Floats of, float limit) {  // where `of` is not above the limit
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, _mm512_set1_ps(limit), _CMP_GT_OQ), x);
}
inline bool any_over(Floats x, float limit) { return _mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0; }

inline __m256i thirty_two(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Floats halves(const uint16_t* p) { return _mm512_cvtph_ps(thirty_two(p)); }
inline Floats bfloats(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(thirty_two(p)), 16));
}

inline Ints no_ints() { return _mm512_setzero_si512(); }
inline Ints magnitude(Floats x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF)); }
inline Ints max(Ints x, Ints y) { return _mm512_max_epi32(x, y); }
inline void store(int32_t* p, Ints x) { _mm512_storeu_si512(p, x); }
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline void store_digits(int16_t* p, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x)));
}

inline void order_digits(const int16_t* group, int32_t* words) { std::memcpy(words, group, kGroup * sizeof *group); }
inline Dots no_dots() { return no_ints(); }
inline Digits digits(const int32_t* p) { return _mm512_set1_epi32(*p); }
template <int N>
inline void add_dot(Dots& sum, Weights w, Digits x) { sum = _mm512_dpwssd_epi32(sum, w, x); }
inline Packed load_packed(const uint8_t* p) { return _mm512_loadu_si512(p); }
template <int N>
inline Weights weights(Packed x) {
  if (N == 3) return _mm512_srli_epi16(x, 12);
  return _mm512_and_si512(N == 0 ? x : _mm512_srli_epi16(x, 4 * N), _mm512_set1_epi16(15));
}
template <int N>
inline Weights weights(const uint8_t* p) { return _mm512_cvtepi8_epi16(thirty_two(p + N * 2 * kLanes)); }

// The sums of the lanes of four: i and i + 8 first, then neighbours, then pairs of these.
inline void reduce(const Floats (&x)[4], float* sums) {
  __m256 s[4];
  GELATO_UNROLL for (int i = 0; i < 4; ++i) s[i] = _mm256_add_ps(_mm512_castps512_ps256(x[i]), _mm512_extractf32x8_ps(x[i], 1));
  const __m256 fours = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
}

#define GELATO_TRANSPOSE
inline void transpose(Floats (&x)[16]) {
  Floats y[16];
  GELATO_UNROLL for (int i = 0; i < 16; i += 2) {  // twos, of neighbours
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  const auto twos = [](Floats a, Floats b, bool high) {
    const __m512d p = _mm512_castps_pd(a), q = _mm512_castps_pd(b);
    return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(p, q) : _mm512_unpacklo_pd(p, q));
  };
  GELATO_UNROLL for (int i = 0; i < 16; i += 4)  // fours: column 4 q + j of rows i to i + 3 is quarter q of x[i + j]
    GELATO_UNROLL for (int j = 0; j < 4; ++j) x[i + j] = twos(y[i + j / 2], y[i + j / 2 + 2], j % 2);
  GELATO_UNROLL for (int j = 0; j < 4; ++j) {
    const Floats even = _mm512_shuffle_f32x4(x[j], x[j + 4], 0x88), odd = _mm512_shuffle_f32x4(x[j], x[j + 4], 0xDD);
    const Floats more = _mm512_shuffle_f32x4(x[j + 8], x[j + 12], 0x88), rest = _mm512_shuffle_f32x4(x[j + 8], x[j + 12], 0xDD);
    y[j] = _mm512_shuffle_f32x4(even, more, 0x88);
    y[j + 4] = _mm512_shuffle_f32x4(odd, rest, 0x88);
    y[j + 8] = _mm512_shuffle_f32x4(even, more, 0xDD);
    y[j + 12] = _mm512_shuffle_f32x4(odd, rest, 0xDD);
  }
  GELATO_UNROLL for (int i = 0; i < 16; ++i) x[i] = y[i];
}

}  // namespace
}  // namespace gelato
