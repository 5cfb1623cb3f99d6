// XLA's custom calls. Shapes are checked where they are traced, in Python.
#include "run.h"
#include "write.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace gelato {
namespace {

template <class T>
const T* data(const ffi::AnyBuffer& buffer) {  // Null where Python gave an empty array for None.
  return buffer.element_count() ? static_cast<const T*>(buffer.untyped_data()) : nullptr;
}

// What `layer` names of arrays that are stacked along an axis, or all where it names none. Out of range it is the nearest.
int64_t layer_of(const ffi::AnyBuffer& layer, int64_t layers) {
  const int32_t* index = data<int32_t>(layer);
  return !index || *index < 0 ? 0 : *index < layers ? *index : layers - 1;
}

template <class T>
const T* data(const ffi::AnyBuffer& stack, const ffi::AnyBuffer& layer) {
  const T* first = data<T>(stack);
  if (!first || !layer.element_count()) return first;
  const int64_t layers = stack.dimensions()[0];
  return first + layer_of(layer, layers) * (static_cast<int64_t>(stack.size_bytes() / sizeof(T)) / layers);
}

template <class T>
T* out(ffi::Result<ffi::AnyBuffer>& buffer) { return static_cast<T*>(buffer->untyped_data()); }

ffi::Error done(bool had_memory) {
  return had_memory ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory");
}

ffi::Error block_matmul(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer packed, ffi::AnyBuffer scale,
                        ffi::AnyBuffer minimum, ffi::AnyBuffer rows, ffi::AnyBuffer norm, ffi::AnyBuffer bias,
                        ffi::AnyBuffer residual, ffi::AnyBuffer layer, ffi::Result<ffi::AnyBuffer> out, int64_t inputs,
                        int64_t window, bool gated, float epsilon) {
  Product p{};
  p.x = data<float>(x);
  p.format = packed.element_type() == ffi::DataType::U16 ? Format::kBfloat16
             : minimum.element_count()                    ? Format::kQ4
                                                          : Format::kQ8;
  p.packed = data<uint8_t>(packed, layer);
  p.scale = data<uint16_t>(scale, layer);
  p.minimum = data<uint16_t>(minimum, layer);
  p.norm = data<float>(norm, layer);
  p.bias = data<float>(bias, layer);
  p.residual = data<float>(residual);
  p.out = static_cast<float*>(out->untyped_data());
  p.in = inputs;
  p.outputs = out->dimensions().back();
  p.panels = packed.dimensions()[packed.dimensions().size() - 3];
  p.groups = packed.dimensions()[packed.dimensions().size() - 2];
  p.window = window;
  p.gated = gated;
  p.epsilon = epsilon;
  p.counts = data<int32_t>(rows);
  p.batch = window && p.outputs ? static_cast<int64_t>(out->element_count()) / p.outputs / window : 0;
  return done(run(p, pool.num_threads(), [&](auto task) { pool.Schedule(std::move(task)); }));
}

// Caches are [batch, kv_heads, slots, size], or [batch, layers, kv_heads, slots, size].
void set_cache(Attention& a, const ffi::AnyBuffer& key, const ffi::AnyBuffer& value, const ffi::AnyBuffer& lengths,
               int64_t layer) {
  const auto shape = key.dimensions();
  a.lengths = data<int32_t>(lengths);
  a.kv_heads = shape[shape.size() - 3];
  a.slots = shape[shape.size() - 2];
  a.size = shape[shape.size() - 1];
  a.cache_heads = shape.size() == 5 ? shape[1] * a.kv_heads : a.kv_heads;
  a.narrow = key.element_type() == ffi::DataType::BF16;
  const int64_t offset = layer * a.kv_heads * a.slots * a.size * (a.narrow ? 2 : 4);
  a.key = static_cast<const char*>(key.untyped_data()) + offset;
  a.value = static_cast<const char*>(value.untyped_data()) + offset;
}

ffi::Error window_attention(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                            ffi::AnyBuffer lengths, ffi::AnyBuffer fresh_key, ffi::AnyBuffer fresh_value,
                            ffi::Result<ffi::AnyBuffer> out) {
  Attention a{};
  set_cache(a, key, value, lengths, 0);
  a.query = data<float>(query);
  a.fresh_key = data<float>(fresh_key);
  a.fresh_value = data<float>(fresh_value);
  a.out = static_cast<float*>(out->untyped_data());
  a.batch = query.dimensions()[0];
  a.window = query.dimensions()[1];
  a.heads = a.query_heads = query.dimensions()[2];
  a.scale = 1.0f;
  return done(run(a, pool.num_threads(), [&](auto task) { pool.Schedule(std::move(task)); }));
}

ffi::Error rotary_attention(ffi::ThreadPool pool, ffi::AnyBuffer projected, ffi::AnyBuffer key, ffi::AnyBuffer value,
                            ffi::AnyBuffer lengths, ffi::AnyBuffer cosine, ffi::AnyBuffer sine,
                            ffi::AnyBuffer query_norm, ffi::AnyBuffer key_norm, ffi::AnyBuffer rows,
                            ffi::AnyBuffer layer, ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> fresh_key,
                            ffi::Result<ffi::AnyBuffer> fresh_value, float scale, float epsilon) {
  Attention a{};
  set_cache(a, key, value, lengths, layer_of(layer, key.dimensions()[1]));
  a.query = data<float>(projected);
  a.out = static_cast<float*>(out->untyped_data());
  a.batch = projected.dimensions()[0];
  a.window = projected.dimensions()[1];
  a.counts = data<int32_t>(rows);
  a.query_heads = projected.dimensions()[2] / a.size;
  a.heads = a.query_heads - 2 * a.kv_heads;
  a.scale = scale;
  a.cosine = data<float>(cosine);
  a.sine = data<float>(sine);
  a.query_norm = data<float>(query_norm, layer);
  a.key_norm = data<float>(key_norm, layer);
  a.epsilon = epsilon;
  float* keys = static_cast<float*>(fresh_key->untyped_data());
  float* values = static_cast<float*>(fresh_value->untyped_data());
  kernels().split(a, keys, values);
  a.fresh_key = keys;
  a.fresh_value = values;
  return done(run(a, pool.num_threads(), [&](auto task) { pool.Schedule(std::move(task)); }));
}

ffi::Error write_window(ffi::AnyBuffer cache, ffi::AnyBuffer window, ffi::AnyBuffer lengths,
                        ffi::Result<ffi::AnyBuffer> written) {
  if (written->untyped_data() != cache.untyped_data()) return ffi::Error(ffi::ErrorCode::kInternal, "not in place");
  const auto shape = cache.dimensions();
  Write w{};
  w.fresh = data<float>(window);
  w.cache = written->untyped_data();
  w.lengths = data<int32_t>(lengths);
  w.batch = shape[0];
  w.slots = shape[shape.size() - 2];
  w.size = shape[shape.size() - 1];
  w.window = window.dimensions()[shape.size() - 2];
  w.narrow = cache.element_type() == ffi::DataType::BF16;
  w.heads = 1;
  for (size_t axis = 1; axis + 2 < shape.size(); ++axis) w.heads *= shape[axis];
  run(w);
  return ffi::Error::Success();
}

ffi::Error statistics(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer temperature,
                      ffi::Result<ffi::AnyBuffer> maximum, ffi::Result<ffi::AnyBuffer> total,
                      ffi::Result<ffi::AnyBuffer> weighted, ffi::Result<ffi::AnyBuffer> argmax,
                      ffi::Result<ffi::AnyBuffer> block_sums, int64_t block) {
  Statistics s{};
  s.logits = data<float>(logits);
  s.temperature = data<float>(temperature);
  s.maximum = out<float>(maximum);
  s.total = out<float>(total);
  s.weighted = out<float>(weighted);
  s.argmax = out<int32_t>(argmax);
  s.block_sums = out<float>(block_sums);
  s.vocab = logits.dimensions().back();
  s.block = block;
  s.blocks = block_sums->dimensions().back();
  const auto schedule = [&](auto task) { pool.Schedule(std::move(task)); };
  run_rows(s, kernels().statistics, maximum->element_count(), pool.num_threads(), schedule);
  return ffi::Error::Success();
}

ffi::Error residual(ffi::ThreadPool pool, ffi::AnyBuffer target, ffi::AnyBuffer draft, ffi::AnyBuffer target_maximum,
                    ffi::AnyBuffer target_log, ffi::AnyBuffer draft_maximum, ffi::AnyBuffer draft_log,
                    ffi::AnyBuffer needed, ffi::Result<ffi::AnyBuffer> masses, int64_t block) {
  Residual r{};
  r.target = data<float>(target);
  r.draft = data<float>(draft);
  r.target_maximum = data<float>(target_maximum);
  r.target_log = data<float>(target_log);
  r.draft_maximum = data<float>(draft_maximum);
  r.draft_log = data<float>(draft_log);
  r.needed = data<bool>(needed);
  r.masses = out<float>(masses);
  r.vocab = target.dimensions().back();
  r.block = block;
  r.blocks = masses->dimensions().back();
  const auto schedule = [&](auto task) { pool.Schedule(std::move(task)); };
  run_rows(r, kernels().residual, needed.element_count(), pool.num_threads(), schedule);
  return ffi::Error::Success();
}

ffi::Error warp(ffi::ThreadPool pool, ffi::AnyBuffer logits, ffi::AnyBuffer temperature, ffi::AnyBuffer top_k,
                ffi::AnyBuffer top_p, ffi::Result<ffi::AnyBuffer> warped) {
  const Warp w{data<float>(logits), data<float>(temperature), data<int32_t>(top_k), data<float>(top_p),
               out<float>(warped),  logits.dimensions().back()};
  const auto schedule = [&](auto task) { pool.Schedule(std::move(task)); };
  run_rows(w, kernels().warp, top_p.element_count(), pool.num_threads(), schedule);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gelato

#define GELATO_EXPORT extern "C" __attribute__((visibility("default")))

GELATO_EXPORT const char* gelato_isa() { return gelato::kernels().name; }

#define POOL ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
#define IN .Arg<ffi::AnyBuffer>()
#define OUT .Ret<ffi::AnyBuffer>()

XLA_FFI_DEFINE_HANDLER(block_matmul_handler, gelato::block_matmul,
                       POOL IN IN IN IN IN IN IN IN IN OUT
                           .Attr<int64_t>("inputs")
                           .Attr<int64_t>("window")
                           .Attr<bool>("gated")
                           .Attr<float>("epsilon"));
XLA_FFI_DEFINE_HANDLER(window_attention_handler, gelato::window_attention, POOL IN IN IN IN IN IN OUT);
XLA_FFI_DEFINE_HANDLER(rotary_attention_handler, gelato::rotary_attention,
                       POOL IN IN IN IN IN IN IN IN IN IN OUT OUT OUT.Attr<float>("scale").Attr<float>("epsilon"));
XLA_FFI_DEFINE_HANDLER(write_window_handler, gelato::write_window, ffi::Ffi::Bind() IN IN IN OUT);
XLA_FFI_DEFINE_HANDLER(statistics_handler, gelato::statistics, POOL IN IN OUT OUT OUT OUT OUT.Attr<int64_t>("block"));
XLA_FFI_DEFINE_HANDLER(residual_handler, gelato::residual, POOL IN IN IN IN IN IN IN OUT.Attr<int64_t>("block"));
XLA_FFI_DEFINE_HANDLER(warp_handler, gelato::warp, POOL IN IN IN IN OUT);

GELATO_EXPORT XLA_FFI_Error* gelato_block_matmul(XLA_FFI_CallFrame* frame) { return block_matmul_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_window_attention(XLA_FFI_CallFrame* frame) { return window_attention_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_rotary_attention(XLA_FFI_CallFrame* frame) { return rotary_attention_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_write_window(XLA_FFI_CallFrame* frame) { return write_window_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_statistics(XLA_FFI_CallFrame* frame) { return statistics_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_residual(XLA_FFI_CallFrame* frame) { return residual_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_warp(XLA_FFI_CallFrame* frame) { return warp_handler(frame); }
