// The kernels in plain C++.
#include "vector_generic.h"

#include "attention.h"
#include "product.h"
#include "rows.h"

namespace gelato {

const Kernels* generic_kernels() {
  static const Kernels kernels = {"generic", kMostRows, prepare, multiply, turn, attend, join, split, statistics, residual, warp};
  return &kernels;
}

}  // namespace gelato
