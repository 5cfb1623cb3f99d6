// Which kernels this processor gets, asked at run time: the library may have been compiled on another machine.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "arguments.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace gelato {
namespace {

#if defined(__x86_64__)
struct Leaf { unsigned a = 0, b = 0, c = 0, d = 0; };

Leaf leaf(unsigned number) {
  Leaf r;
  __get_cpuid_count(number, 0, &r.a, &r.b, &r.c, &r.d);
  return r;
}

bool has(unsigned bits, std::initializer_list<int> wanted) {
  for (int bit : wanted)
    if (!(bits >> bit & 1u)) return false;
  return true;
}

// Registers that the system saves: bits 1, 2 for AVX, 5 to 7 for AVX-512 (Intel's manual, volume 1, section 13.3).
unsigned saved() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool avx2() {
  return has(leaf(1).c, {12 /* FMA */, 27 /* OSXSAVE */, 28 /* AVX */, 29 /* F16C */}) && has(saved(), {1, 2}) &&
         has(leaf(7).b, {5});
}

bool avx512() {
  return avx2() && has(saved(), {5, 6, 7}) && has(leaf(7).b, {16 /* F */, 17 /* DQ */, 30 /* BW */, 31 /* VL */}) &&
         has(leaf(7).c, {11 /* VNNI */});
}
#elif defined(__aarch64__) && defined(__linux__)
bool dotprod() { return getauxval(AT_HWCAP) >> 20 & 1u; }  // HWCAP_ASIMDDP, which old headers do not name
#else
bool dotprod() { return true; }  // Apple's all have it.
#endif

const Kernels& choose() {
  const char* asked = std::getenv("GELATO_NATIVE_ISA");
  const Kernels* best_first[] = {
#if defined(__x86_64__)
      avx512() ? avx512_kernels() : nullptr, avx2() ? avx2_kernels() : nullptr,
#elif defined(__aarch64__)
      dotprod() ? dotprod_kernels() : nullptr, neon_kernels(),
#endif
      generic_kernels()};
  const Kernels* best = nullptr;
  for (const Kernels* kernels : best_first) {
    if (kernels && asked && !std::strcmp(kernels->name, asked)) return *kernels;
    if (!best) best = kernels;
  }
  return *best;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

float* scratch(int64_t floats, Use use) {
  struct Memory {
    void* start = nullptr;
    int64_t floats = 0;
    ~Memory() { std::free(start); }
  };
  thread_local Memory memories[2];
  Memory& memory = memories[static_cast<int>(use)];
  constexpr int64_t kAlignment = 64;
  if (floats > memory.floats) {
    std::free(memory.start);
    const int64_t size = floats + floats / 2;
    memory.start = std::malloc(size * sizeof(float) + kAlignment);
    memory.floats = memory.start ? size : 0;
    if (!memory.start) return nullptr;
  }
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.start) + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace gelato
