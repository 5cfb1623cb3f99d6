// For x86-64 processors with AVX2, FMA and F16C.
#include "vector_avx2.h"

#include "table.h"

namespace gelato {

const Kernels* avx2_kernels() {
  static const Kernels kernels = table("avx2");
  return &kernels;
}

}  // namespace gelato
