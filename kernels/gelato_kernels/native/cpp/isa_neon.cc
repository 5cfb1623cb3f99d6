// For all 64-bit ARM processors.
#include "vector_neon.h"

#include "table.h"

namespace gelato {

const Kernels* neon_kernels() {
  static const Kernels kernels = table("neon");
  return &kernels;
}

}  // namespace gelato
