// In plain C++.
#include "vector_generic.h"

#include "table.h"

namespace gelato {

const Kernels* generic_kernels() {
  static const Kernels kernels = table("generic");
  return &kernels;
}

}  // namespace gelato
