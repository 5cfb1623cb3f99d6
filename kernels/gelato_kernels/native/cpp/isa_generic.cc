// The kernels in plain C++.
#include "vector_generic.h"

#include "attention.h"
#include "product.h"

namespace gelato {

const Kernels* generic_kernels() {
  static const Kernels kernels = {"generic", kMostRows, kMostQueries, prepare, multiply, attend};
  return &kernels;
}

}  // namespace gelato
