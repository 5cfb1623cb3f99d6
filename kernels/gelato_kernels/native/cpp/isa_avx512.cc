// The kernels for processors with avx512; compiled with its flags, and empty where the compiler has none.
#include "arguments.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "vector_avx512.h"

#include "attention.h"
#include "product.h"
#include "rows.h"

namespace gelato {

const Kernels* avx512_kernels() {
  static const Kernels kernels = {"avx512", kMostRows, prepare, multiply, turn, attend, join, split, statistics, residual, warp};
  return &kernels;
}

}  // namespace gelato
#else
namespace gelato {

const Kernels* avx512_kernels() { return nullptr; }

}  // namespace gelato
#endif
