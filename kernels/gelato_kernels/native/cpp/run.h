// One job from its arguments: scratch memory, tiles, parts. Apart from the handlers, so that a test runs it without XLA.
#pragma once

#include <cstring>

#include "arguments.h"
#include "team.h"

namespace gelato {

constexpr int64_t kParts = 8;            // Of a job on two threads: few enough to be cheap, enough to even out.
constexpr int64_t kMostQueries = 64;      // Of a unit of attention: their sums fill half of a first cache.
constexpr int64_t kFewQueries = 16;
constexpr int64_t kWorthSharing = 65536; // Bytes of weights, products of attention, or logits, below which the caller is alone.

inline int64_t parts_for(int64_t units, int64_t threads) {
  const int64_t wanted = threads > 2 ? kParts / 2 * threads : kParts;
  const int64_t most = wanted < Team::kMostParts ? wanted : Team::kMostParts;
  return units < most ? units : most;
}

// Splits 0 .. units - 1 into parts and calls body(first, last) for each.
template <class Body, class Schedule>
void share(int64_t units, bool alone, int64_t threads, const Schedule& schedule, const Body& body) {
  struct Context { const Body& body; int64_t units, parts; } context{body, units, alone ? 1 : parts_for(units, threads)};
  const auto task = +[](void* data, int64_t part) {
    const Context& c = *static_cast<const Context*>(data);
    c.body(part * c.units / c.parts, (part + 1) * c.units / c.parts);
  };
  Team::run(context.parts, threads, task, &context, schedule);
}

// False where there is no memory.
template <class Schedule>
bool run(Product p, int64_t threads, const Schedule& schedule) {
  const Kernels& k = kernels();
  p.rows = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t valid = counted(p.counts, b, p.window);
    std::memset(p.out + (b * p.window + valid) * p.outputs, 0, (p.window - valid) * p.outputs * sizeof(float));
    p.rows += valid;
  }
  p.tiles = (p.rows + k.most_rows - 1) / k.most_rows;
  if (!p.rows || !p.outputs) return true;
  const int64_t padded = p.groups * kGroup;
  p.prepared = scratch(p.rows * (padded + padded / 2 + p.groups + 2), Use::kCall);
  if (!p.prepared) return false;
  p.digits = reinterpret_cast<int32_t*>(p.prepared + p.rows * padded);
  p.sums = reinterpret_cast<float*>(p.digits + p.rows * p.groups * kWords);
  p.steps = p.sums + p.rows * p.groups;
  p.position = reinterpret_cast<int32_t*>(p.steps + p.rows);
  for (int64_t b = 0, row = 0; b < p.batch; ++b)
    for (int64_t t = 0, valid = counted(p.counts, b, p.window); t < valid; ++t)
      p.position[row++] = static_cast<int32_t>(b * p.window + t);
  share(p.tiles, p.rows * padded < kWorthSharing, threads, schedule, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) k.prepare(p, tile);
  });
  // In steps of two panels, which share broadcasts where the kernels hold two.
  const int64_t bytes = p.panels * p.groups * bytes_of(p.format);
  share((p.panels + 1) / 2, bytes * p.rows < kWorthSharing, threads, schedule, [&](int64_t first, int64_t last) {
    k.multiply(p, 2 * first, 2 * last < p.panels ? 2 * last : p.panels);
  });
  return true;
}

// False where there is no memory.
template <class Schedule>
bool run(Attention a, int64_t threads, const Schedule& schedule) {
  const Kernels& k = kernels();
  const int64_t all = a.batch * a.kv_heads, width = a.heads * a.size;
  int64_t longest = 0;  // Text of any row that counts.
  a.queries = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t valid = a.valid(b), queries = a.heads / a.kv_heads * valid, end = a.length(b) + valid;
    std::memset(a.out + (b * a.window + valid) * width, 0, (a.window - valid) * width * sizeof(float));
    if (queries > a.queries) a.queries = queries;
    if (queries && end > longest) longest = end;
  }
  if (!a.queries || !all) return true;
  // Many queries at once read a text once for all of them, but leave threads idle where there are few.
  a.block = a.queries < kMostQueries ? a.queries : kMostQueries;
  while (a.block > kFewQueries && all * ((a.queries + a.block - 1) / a.block) < 2 * threads) a.block /= 2;
  a.blocks = (a.queries + a.block - 1) / a.block;
  a.chunks = (longest + kChunk - 1) / kChunk;
  a.apart = all * a.blocks < 2 * threads && a.chunks > 1;
  if (a.apart) a.block = a.queries, a.blocks = 1;
  const int64_t turned = all * a.queries * a.padded(), parts = a.apart ? all * a.chunks * a.queries * a.part() : 0;
  a.turned = scratch(turned + parts, Use::kCall);
  if (!a.turned) return false;
  a.parts = a.turned + turned;
  k.turn(a);
  const bool alone = all * a.queries * longest * a.size < kWorthSharing;
  share(all * (a.apart ? a.chunks : a.blocks), alone, threads, schedule, [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) k.attend(a, unit);
  });
  if (a.apart)
    share(all, parts < kWorthSharing, threads, schedule, [&](int64_t first, int64_t last) {
      for (int64_t head = first; head < last; ++head) k.join(a, head);
    });
  return true;
}

// Passes over rows: `pass` of one row after another, rows shared where there is enough of them.
template <class Pass, class Schedule>
void run_rows(const Pass& pass, void (*one)(const Pass&, int64_t), int64_t rows, int64_t threads, const Schedule& schedule) {
  share(rows, rows * pass.vocab < kWorthSharing, threads, schedule, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) one(pass, row);
  });
}

}  // namespace gelato
