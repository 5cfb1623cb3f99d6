// The kernels for processors with avx2; compiled with its flags, and empty where the compiler has none.
#include "arguments.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "vector_avx2.h"

#include "attention.h"
#include "product.h"
#include "rows.h"

namespace gelato {

const Kernels* avx2_kernels() {
  static const Kernels kernels = {"avx2", kMostRows, prepare, multiply, turn, attend, join, split, statistics, residual, warp};
  return &kernels;
}

}  // namespace gelato
#else
namespace gelato {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace gelato
#endif
