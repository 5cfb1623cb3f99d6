// What the handlers hand to the kernels: plain pointers and sizes, so that only handlers.cc knows XLA.
#pragma once

#include <cstdint>

#define GELATO_UNROLL _Pragma("GCC unroll 16")

namespace gelato {

constexpr int kLanes = 16;  // Outputs of a panel: each has a lane, so that no sum of a product is horizontal.
constexpr int kGroup = 32;  // Inputs that share a scale.
constexpr int kWords = kGroup / 2;  // Of 32 bits, that a group's digits take.
constexpr int kLargestDigit = 16383;  // Of a rounded row: 15 bits with the sign.

// How many rows of a window count: as many as stated, or all where nothing is.
inline int64_t counted(const int32_t* counts, int64_t index, int64_t window) {
  return !counts || counts[index] > window ? window : counts[index] < 0 ? 0 : counts[index];
}

enum class Format { kQ4, kQ8, kBfloat16 };

// out = epilogue(prologue(x) times weights), of the rows that count.
struct Product {
  Format format;            // Of the weights.
  const float* x;           // [batch * window, in], or [.., 2 * in] if gated
  const uint8_t* packed;    // [panels, groups, bytes of a group]
  const uint16_t* scale;    // float16 [panels, groups, 16]; of kBfloat16 null
  const uint16_t* minimum;  // The same, of kQ4.
  const float* norm;        // [in] or null
  const float* bias;        // [outputs] or null
  const float* residual;    // [batch * window, outputs] or null
  float* out;               // [batch * window, outputs]
  int64_t in, outputs, groups, panels;
  int64_t batch, window;
  const int32_t* counts;    // [batch] first rows of each window that count; null: all.
  int64_t rows, tiles;      // All rows that count, and the tiles that they are multiplied in.
  float epsilon;
  bool gated;
  // Scratch.
  float* prepared;   // [rows, groups * 32]
  int32_t* digits;   // Of tile t, behind those of the rows ahead of it: [groups * 16 words, rows of the tile]
  float* sums;       // Likewise: [groups, rows of the tile], each the sum of a group's digits
  float* steps;      // [rows] what a digit of 1 stands for; of kBfloat16, which takes rows as they are, 1
  int32_t* position;  // [rows] where each stands in x and out
};

// Of a group of a panel.
constexpr int64_t bytes_of(Format format) {
  return kLanes * kGroup * (format == Format::kQ4 ? 1 : format == Format::kQ8 ? 2 : 4) / 2;
}

struct Tile {
  int64_t first;
  int count;
};

// Rows are split evenly: tiles of 5 and 4 spend less than tiles of 6 and 3.
inline Tile tile_of(const Product& p, int64_t index) {
  const int64_t base = p.rows / p.tiles, extra = p.rows % p.tiles;
  return {index * base + (index < extra ? index : extra), static_cast<int>(base + (index < extra))};
}

struct Attention {
  const float* query;     // [batch, window, query_heads, size], of which the first `heads` are queries
  const void* key;        // [batch, kv_heads, slots, size], float32, or bfloat16 if narrow
  const void* value;
  const int32_t* lengths;  // [batch]
  const float* fresh_key;  // [batch, kv_heads, window, size]
  const float* fresh_value;
  float* out;  // [batch, window, heads, size]
  int64_t batch, window, heads, query_heads, kv_heads, slots, size;
  int64_t cache_heads;  // From one row of a cache to the next: more than kv_heads where other layers lie between.
  const int32_t* counts;  // As of a product.
  float scale;  // Of scores.
  bool narrow;
  // Of queries, and of keys where those are made here; null: nothing is done.
  const float* cosine;  // [batch, window, size / 2]
  const float* sine;
  const float* query_norm;  // [size]
  const float* key_norm;
  float epsilon;
  // A unit of work is a block of the queries of one row and key head; or, where blocks are few, a chunk of positions too.
  int64_t queries;         // Of a row and key head that count, in the order of their tokens; the most of any row.
  int64_t block, blocks;   // Queries of a unit, and how many such there are.
  int64_t chunks;          // Of positions, of the longest row.
  bool apart;              // Units are of one chunk each, and `join` adds them up.
  // Scratch.
  float* turned;  // [batch, kv_heads, queries, padded] queries as they are attended with
  float* parts;   // [batch, kv_heads, chunks, queries, part] what the chunks gave, if apart

  int64_t valid(int64_t row) const { return counted(counts, row, window); }
  int64_t length(int64_t row) const { return lengths[row] < 0 ? 0 : lengths[row] < slots ? lengths[row] : slots; }
  int64_t padded() const { return (size + kLanes - 1) / kLanes * kLanes; }
  int64_t part() const { return padded() + 2 * kLanes; }
};

struct Write {
  const float* fresh;  // [batch, heads, window, size]
  void* cache;         // [batch, heads, slots, size], float32, or bfloat16 if narrow
  const int32_t* lengths;  // [batch]
  int64_t batch, heads, window, slots, size;
  bool narrow;
};

constexpr int64_t kChunk = 64;  // Positions, from a multiple of as many on: their keys and values stay in a first cache.

// Of rows [vocab] of logits, in blocks of which the last may be short.
struct Statistics {
  const float* logits;       // [rows, vocab]
  const float* temperature;  // [rows] above 0, or null: 1
  float* maximum;            // [rows]
  float* total;              // of exp(x - maximum)
  float* weighted;           // of (x - maximum) * exp(x - maximum)
  int32_t* argmax;
  float* block_sums;  // [rows, blocks] of exp((x - maximum) / temperature)
  int64_t vocab, block, blocks;
};

struct Residual {
  const float* target;  // [rows, vocab] logits of p
  const float* draft;   // of q
  const float* target_maximum;  // [rows]: p = exp(x - maximum - log)
  const float* target_log;
  const float* draft_maximum;
  const float* draft_log;
  const bool* needed;  // [rows]
  float* masses;       // [rows, blocks] of max(p - q, 0)
  int64_t vocab, block, blocks;
};

// Logits over a temperature, cut to top-k, then to top-p; a point mass on the first largest where it is not above 0.
struct Warp {
  const float* logits;       // [rows, vocab]
  const float* temperature;  // [rows]
  const int32_t* top_k;
  const float* top_p;
  float* out;
  int64_t vocab;
};

// One set of instructions.
struct Kernels {
  const char* name;
  int most_rows;     // Of a tile of a product.
  void (*prepare)(const Product&, int64_t tile);
  void (*multiply)(const Product&, int64_t first_panel, int64_t last_panel);
  void (*turn)(const Attention&);
  void (*attend)(const Attention&, int64_t unit);
  void (*join)(const Attention&, int64_t head);
  void (*split)(const Attention&, float* fresh_key, float* fresh_value);
  void (*statistics)(const Statistics&, int64_t row);
  void (*residual)(const Residual&, int64_t row);
  void (*warp)(const Warp&, int64_t row);
};

// Each of a file of its own, that is compiled for its family of processors.
const Kernels* generic_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();
const Kernels* dotprod_kernels();

// The best that this processor runs; GELATO_NATIVE_ISA asks for a lesser one.
const Kernels& kernels();

// Memory of this thread, aligned to 64 bytes, that its next call for the same use may return again; null if there is none.
enum class Use { kCall, kUnit };
float* scratch(int64_t floats, Use use);

}  // namespace gelato
