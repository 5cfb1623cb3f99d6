// A window's keys or values on their way into a cache.
#pragma once

#include <cstring>

#include "arguments.h"

namespace gelato {

inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // nan stays nan
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);  // ties to even
}

inline void run(const Write& w) {
  for (int64_t b = 0; b < w.batch; ++b) {
    const int64_t length = w.lengths[b], first = length < 0 ? -length : 0;
    const int64_t last = w.slots - length < w.window ? w.slots - length : w.window;
    if (last <= first) continue;
    for (int64_t head = b * w.heads; head < (b + 1) * w.heads; ++head) {
      const float* x = w.fresh + (head * w.window + first) * w.size;
      const int64_t at = (head * w.slots + length + first) * w.size, n = (last - first) * w.size;
      if (w.narrow) {
        uint16_t* y = static_cast<uint16_t*>(w.cache) + at;
        for (int64_t i = 0; i < n; ++i) y[i] = to_bfloat16(x[i]);
      } else {
        std::memcpy(static_cast<float*>(w.cache) + at, x, n * sizeof(float));
      }
    }
  }
}

}  // namespace gelato
