// Runs the compiled kernels without JAX, for a compiler's sanitizers: arrays that end where they end, odd sizes, several
// callers at once. Exit code 0 where results are right, and the same bits alone and in a window; prints a digest of them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "run.h"
#include "write.h"

namespace {

using namespace gelato;

std::mutex mutex;
std::vector<std::thread> pool;
const auto schedule = [](auto task) {
  std::lock_guard<std::mutex> lock(mutex);
  pool.emplace_back(std::move(task));
};

void expect(bool right, const char* what, int64_t a, int64_t b) {
  if (right) return;
  std::fprintf(stderr, "%s: %lld, %lld\n", what, static_cast<long long>(a), static_cast<long long>(b));
  std::_Exit(1);
}

std::atomic<uint64_t> digest{0};  // Of all results, in any order.

void note(const std::vector<float>& results, uint64_t place) {
  for (float x : results) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    digest += (place += 0x9E3779B97F4A7C15) * (bits | 1ull << 32);
  }
}

std::vector<float> normal(std::mt19937& random, int64_t n) {
  std::normal_distribution<float> law;
  std::vector<float> v(n);
  for (float& x : v) x = law(random);
  return v;
}

float bfloat16(const uint8_t* at) {
  const uint32_t bits = static_cast<uint32_t>(at[0] | at[1] << 8) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

struct Setting {
  int64_t in, outputs, window;
  Format format;
  bool norm, gated, extras;
  int threads;
};

void product(unsigned seed, const Setting& s) {
  std::mt19937 random(seed);
  Product p{};
  p.in = s.in, p.outputs = s.outputs, p.window = s.window, p.batch = 1, p.gated = s.gated, p.epsilon = 1e-5f;
  p.groups = (s.in + kGroup - 1) / kGroup, p.panels = (s.outputs + kLanes - 1) / kLanes, p.format = s.format;
  const bool q4 = s.format == Format::kQ4, whole = s.format != Format::kBfloat16;
  const int64_t width = s.in * (s.gated ? 2 : 1);
  std::vector<uint8_t> packed(p.panels * p.groups * bytes_of(s.format));
  for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
  if (!whole)
    for (size_t i = 1; i < packed.size(); i += 2) packed[i] = packed[i] % 2 ? 0x3f : 0xbf;  // 0.5 to 2, of either sign
  std::vector<uint16_t> scale(p.panels * p.groups * kLanes, 0x3800), minimum(scale.size(), 0xC400);  // 0.5 and -4
  const auto x = normal(random, s.window * width), norm = normal(random, s.in), bias = normal(random, s.outputs);
  const auto residual = normal(random, s.window * s.outputs);
  std::vector<float> out(s.window * s.outputs, NAN), alone(s.outputs, NAN);
  p.x = x.data(), p.packed = packed.data(), p.out = out.data();
  if (whole) p.scale = scale.data();
  if (q4) p.minimum = minimum.data();
  if (s.norm) p.norm = norm.data();
  const int32_t some = static_cast<int32_t>(s.window > 1 ? s.window - 1 : 1);
  if (s.extras) p.bias = bias.data(), p.residual = residual.data(), p.counts = &some;
  expect(run(p, s.threads, schedule), "no memory", 0, 0);
  note(out, seed);
  for (int64_t t = 0; t < s.window; ++t) {
    Product one = p;
    one.x = p.x + t * width, one.out = alone.data(), one.window = 1, one.counts = nullptr;
    if (s.extras) one.residual = p.residual + t * s.outputs;
    expect(run(one, s.threads, schedule), "no memory", 0, 0);
    for (int64_t o = 0; o < s.outputs; ++o)
      expect(out[t * s.outputs + o] == (t < counted(p.counts, 0, s.window) ? alone[o] : 0.0f), "a product depends on its window", t, o);
    if (t || s.norm || s.gated) continue;
    for (int64_t o = 0; o < s.outputs; ++o) {  // by its definition
      double y = s.extras ? bias[o] + residual[o] : 0.0, size = 1.0;
      for (int64_t k = 0; k < s.in; ++k) {
        const int64_t block = (o / kLanes * p.groups + k / kGroup) * kLanes, lane = o % kLanes, i = k % kGroup;
        const uint8_t* group = packed.data() + block / kLanes * bytes_of(s.format);
        const uint8_t nibbles = q4 ? group[i / 8 * 64 + lane * 4 + i % 2 * 2 + i % 8 / 4] : 0;
        const double q = q4      ? (i / 2 % 2 ? nibbles >> 4 : nibbles & 15) * 0.5 - 4
                         : whole ? static_cast<int8_t>(group[i / 2 * 32 + lane * 2 + i % 2]) * 0.5
                                 : bfloat16(group + (i * kLanes + lane) * 2);
        y += x[k] * q, size += std::fabs(x[k] * q);
      }
      expect(std::fabs(y - out[o]) < 2e-4 * size, "a product is wrong", o, s.in);
    }
  }
}

void attention(unsigned seed, int64_t size, int64_t window, int64_t length, bool narrow, int threads) {
  std::mt19937 random(seed);
  Attention a{};
  a.batch = 2, a.window = window, a.heads = a.query_heads = 6, a.scale = 1.0f, a.kv_heads = a.cache_heads = 2, a.slots = length + 1, a.size = size, a.narrow = narrow;
  const auto query = normal(random, 2 * window * 6 * size), key = normal(random, 2 * 2 * a.slots * size);
  const auto fresh = normal(random, 2 * 2 * window * size);
  std::vector<uint16_t> halves(key.size());
  for (size_t i = 0; i < key.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &key[i], 4);
    halves[i] = static_cast<uint16_t>(bits >> 16);
  }
  const std::vector<int32_t> lengths = {static_cast<int32_t>(length), -3}, first = {static_cast<int32_t>(length), 0};
  std::vector<float> out(query.size(), NAN), again(2 * 6 * size, NAN);
  a.query = query.data(), a.lengths = lengths.data(), a.out = out.data();
  a.key = a.value = narrow ? static_cast<const void*>(halves.data()) : key.data();
  a.fresh_key = a.fresh_value = fresh.data();
  run(a, threads, schedule);
  for (float x : out) expect(std::isfinite(x), "attention is not finite", size, window);
  note(out, seed);
  // The same as the last of three layers that lie between one row and the next.
  const int64_t layer = 2 * a.slots * size, layers = 3;
  std::vector<float> stack(2 * layers * layer, NAN), of_stack(query.size(), NAN);
  std::vector<uint16_t> narrow_stack(stack.size(), 0x7fc0);
  for (int64_t b = 0; b < 2; ++b) {
    std::copy_n(key.begin() + b * layer, layer, stack.begin() + (b * layers + layers - 1) * layer);
    std::copy_n(halves.begin() + b * layer, layer, narrow_stack.begin() + (b * layers + layers - 1) * layer);
  }
  a.cache_heads = layers * a.kv_heads, a.out = of_stack.data();
  a.key = a.value = narrow ? static_cast<const void*>(narrow_stack.data() + (layers - 1) * layer) : stack.data() + (layers - 1) * layer;
  run(a, threads, schedule);
  for (size_t i = 0; i < out.size(); ++i) expect(out[i] == of_stack[i], "attention depends on the layers beside", size, i);
  a.cache_heads = a.kv_heads;
  a.key = a.value = narrow ? static_cast<const void*>(halves.data()) : key.data();
  // The first token alone: its key is the first of each head's fresh ones.
  std::vector<float> one_query, one_fresh;
  for (int64_t b = 0; b < 2; ++b) one_query.insert(one_query.end(), query.begin() + b * window * 6 * size, query.begin() + (b * window + 1) * 6 * size);
  for (int64_t h = 0; h < 4; ++h) one_fresh.insert(one_fresh.end(), fresh.begin() + h * window * size, fresh.begin() + (h * window + 1) * size);
  a.window = 1, a.query = one_query.data(), a.fresh_key = a.fresh_value = one_fresh.data(), a.out = again.data();
  a.lengths = first.data();
  run(a, threads, schedule);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 6 * size; ++i)
      expect(out[b * window * 6 * size + i] == again[b * 6 * size + i], "attention depends on its window", b, i);
}

void rotation(unsigned seed, int64_t size, int64_t window, bool normed) {
  std::mt19937 random(seed);
  Attention a{};
  const std::vector<int32_t> some = {0, static_cast<int32_t>(window > 1 ? window - 1 : 1)};
  a.batch = 2, a.window = window, a.counts = some.data(), a.heads = 4, a.kv_heads = a.cache_heads = 2, a.query_heads = 8;
  a.slots = 3, a.size = size, a.scale = 0.5f, a.epsilon = 1e-5f;
  const auto projected = normal(random, 2 * window * 8 * size), cache = normal(random, 2 * 2 * 3 * size);
  const auto angles = normal(random, 2 * window * (size / 2)), norm = normal(random, size);
  const std::vector<int32_t> lengths = {3, 1};
  std::vector<float> cosine, sine, out(2 * window * 4 * size, NAN), key(2 * 2 * window * size, NAN), value(key);
  for (float x : angles) cosine.push_back(std::cos(x)), sine.push_back(std::sin(x));
  a.query = projected.data(), a.key = a.value = cache.data(), a.lengths = lengths.data(), a.out = out.data();
  a.cosine = cosine.data(), a.sine = sine.data();
  if (normed) a.query_norm = a.key_norm = norm.data();
  kernels().split(a, key.data(), value.data());
  a.fresh_key = key.data(), a.fresh_value = value.data();
  run(a, 2, schedule);
  for (const auto* some : {&out, &key, &value})
    for (float x : *some) expect(std::isfinite(x), "a rotation is not finite", size, window);
  for (int64_t t = 0; t < window; ++t) {  // by its definition, of the second row's last key head
    const float* x = projected.data() + ((window + t) * 8 + 5) * size;
    const float* y = key.data() + (3 * window + t) * size;
    double squares = 0.0;
    for (int64_t h = 0; h < size; ++h) squares += x[h] * x[h];
    const double factor = normed ? 1.0 / std::sqrt(squares / size + a.epsilon) : 1.0;
    for (int64_t h = 0; h < size / 2; ++h) {
      const int64_t at = (window + t) * (size / 2) + h;
      const double first = x[h] * factor * (normed ? norm[h] : 1.0f);
      const double second = x[h + size / 2] * factor * (normed ? norm[h + size / 2] : 1.0f);
      const double counts = t < a.valid(1);
      expect(std::fabs(y[h] - counts * (first * cosine[at] - second * sine[at])) < 1e-4, "a rotation is wrong", t, h);
      expect(std::fabs(y[h + size / 2] - counts * (second * cosine[at] + first * sine[at])) < 1e-4, "a rotation is wrong", t, h);
    }
  }
}

void writes(unsigned seed, int64_t window, int64_t size, bool narrow) {
  std::mt19937 random(seed);
  const int64_t batch = 5, heads = 3, slots = 7;
  const auto fresh = normal(random, batch * heads * window * size), before = normal(random, batch * heads * slots * size);
  std::vector<float> wide = before;
  std::vector<uint16_t> halves;
  for (float x : before) halves.push_back(to_bfloat16(x));
  const std::vector<int32_t> lengths = {0, 4, -2, 7, 2000000000};
  run(Write{fresh.data(), narrow ? static_cast<void*>(halves.data()) : wide.data(), lengths.data(), batch, heads, window, slots, size, narrow});
  for (int64_t i = 0; i < batch * heads * slots * size; ++i) {
    const int64_t head = i / (slots * size), token = i / size % slots - lengths[head / heads];
    const bool written = token >= 0 && token < window;
    const float y = written ? fresh[(head * window + token) * size + i % size] : before[i];
    expect(narrow ? halves[i] == to_bfloat16(y) : wide[i] == y, "a cache is wrong", i, token);
  }
}

void passes(unsigned seed, int64_t vocab, int64_t block) {
  std::mt19937 random(seed);
  const int64_t rows = 3, blocks = (vocab + block - 1) / block;
  auto x = normal(random, rows * vocab), y = normal(random, rows * vocab);
  for (int64_t i = 0; i + 1 < vocab; i += 3) x[vocab + i] = -INFINITY;
  std::vector<float> maximum(rows), total(rows), weighted(rows), sums(rows * blocks), warm(rows, 0.7f), masses(rows * blocks);
  std::vector<float> y_maximum(rows), y_total(rows), out(rows * vocab), log(rows), y_log(rows);
  std::vector<int32_t> argmax(rows);
  Statistics s{y.data(), nullptr, y_maximum.data(), y_total.data(), weighted.data(), argmax.data(), sums.data(), vocab, block, blocks};
  run_rows(s, kernels().statistics, rows, 3, schedule);
  s.logits = x.data(), s.temperature = warm.data(), s.maximum = maximum.data(), s.total = total.data();
  run_rows(s, kernels().statistics, rows, 3, schedule);
  for (int64_t r = 0; r < rows; ++r) {
    double all = 0.0, cold = 0.0, mass = 0.0, expected = 0.0;
    for (int64_t i = 0; i < vocab; ++i) {
      expect(x[r * vocab + i] <= maximum[r], "a maximum is wrong", r, i);
      all += std::exp(double(x[r * vocab + i]) - maximum[r]);
      cold += std::exp((double(x[r * vocab + i]) - maximum[r]) / 0.7f);
    }
    expect(x[r * vocab + argmax[r]] == maximum[r], "an argmax is wrong", r, argmax[r]);
    expect(std::fabs(total[r] - all) < 1e-5 * all, "a sum is wrong", r, vocab);
    for (int64_t b = 0; b < blocks; ++b) mass += sums[r * blocks + b];
    expect(std::fabs(mass - cold) < 1e-5 * cold, "a block's sum is wrong", r, vocab);
    log[r] = std::log(total[r]), y_log[r] = std::log(y_total[r]);
    for (int64_t i = 0; i < vocab; ++i)
      expected += std::fmax(0.0, std::exp(double(x[r * vocab + i]) - maximum[r] - log[r]) -
                                     std::exp(double(y[r * vocab + i]) - y_maximum[r] - y_log[r]));
    const bool needed = true;
    const Residual one{x.data() + r * vocab, y.data() + r * vocab, &maximum[r], &log[r], &y_maximum[r], &y_log[r],
                       &needed, masses.data(), vocab, block, blocks};
    run_rows(one, kernels().residual, 1, 1, schedule);
    mass = 0.0;
    for (int64_t b = 0; b < blocks; ++b) mass += masses[b];
    expect(std::fabs(mass - expected) < 1e-5, "a residual is wrong", r, vocab);
  }
  const std::vector<float> temperature = {0.0f, 1.0f, 2.0f}, level = {1.0f, 0.5f, 0.9f};
  const std::vector<int32_t> k = {0, 4, 0};
  const Warp w{x.data(), temperature.data(), k.data(), level.data(), out.data(), vocab};
  run_rows(w, kernels().warp, rows, 3, schedule);
  for (int64_t r = 0; r < rows; ++r) {
    int64_t kept = 0;
    for (int64_t i = 0; i < vocab; ++i) kept += out[r * vocab + i] > -INFINITY;
    expect(kept >= 1 && kept <= (r == 0 ? 1 : r == 1 ? 4 : vocab), "a cut is wrong", r, kept);
    expect(out[r * vocab + argmax[r]] > -INFINITY, "the likeliest is cut", r, vocab);
  }
}

void everything(unsigned seed) {
  for (int64_t vocab : {1, 6, 16, 129, 5003}) passes(seed++, vocab, vocab < 256 ? vocab : 256);
  for (int64_t window : {0, 1, 3, 9})
    for (bool narrow : {false, true}) writes(seed++, window, 5, narrow);
  for (int64_t size : {2, 22, 64})
    for (int64_t window : {1, 3, 17})
      for (bool normed : {false, true}) rotation(seed++, size, window, normed);
  for (Format format : {Format::kQ4, Format::kQ8, Format::kBfloat16})
    for (int64_t window : {1, 2, 5, 9, 19}) {
      product(seed++, {64, 48, window, format, false, false, true, 3});
      product(seed++, {47, 33, window, format, true, false, false, 1});
      product(seed++, {70, 17, window, format, false, true, true, 2});
      product(seed++, {544, 976, window, format, false, false, false, 3});
    }
  for (int64_t size : {8, 20, 64, 80})
    for (int64_t window : {1, 3, 17})
      for (int64_t length : {0, 1, 15, 130})
        for (bool narrow : {false, true}) attention(seed++, size, window, length, narrow, 3);
}

}  // namespace

int main() {
  std::vector<std::thread> callers;
  for (unsigned i = 0; i < 2; ++i) callers.emplace_back(everything, 1000 * i);
  for (std::thread& caller : callers) caller.join();
  for (std::thread& helper : pool) helper.join();
  std::printf("%s: all right, %016llx\n", gelato::kernels().name, static_cast<unsigned long long>(digest));
}
