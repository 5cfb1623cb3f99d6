// For 64-bit ARM processors with dotprod: Armv8.4, and most of 8.2.
//
// Asked for here, since no flag means this to every compiler.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define GELATO_DOTPROD

#include "vector_neon.h"

#include "table.h"

namespace gelato {

const Kernels* dotprod_kernels() {
  static const Kernels kernels = table("dotprod");
  return &kernels;
}

}  // namespace gelato

#if defined(__clang__)
#pragma clang attribute pop
#endif
