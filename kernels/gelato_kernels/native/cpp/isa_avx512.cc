// For x86-64 processors with AVX-512 and its VNNI.
#include "vector_avx512.h"

#include "table.h"

namespace gelato {

const Kernels* avx512_kernels() {
  static const Kernels kernels = table("avx512");
  return &kernels;
}

}  // namespace gelato
