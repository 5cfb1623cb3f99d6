// All kernels by one set of instructions. Included behind a vector_*.h.
#pragma once

#include "attention.h"
#include "product.h"
#include "rows.h"

namespace gelato {
namespace {

Kernels table(const char* name) {
  return {name, kMostRows, prepare, multiply, turn, attend, join, split, statistics, residual, warp};
}

}  // namespace
}  // namespace gelato
