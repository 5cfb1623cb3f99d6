// XLA's custom calls. Shapes are checked where they are traced, in Python.
#include "run.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace gelato {
namespace {

template <class T>
const T* data(const ffi::AnyBuffer& buffer) {  // Null where Python gave an empty array for None.
  return buffer.element_count() ? static_cast<const T*>(buffer.untyped_data()) : nullptr;
}

ffi::Error block_matmul(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer packed, ffi::AnyBuffer scale,
                        ffi::AnyBuffer minimum, ffi::AnyBuffer rows, ffi::AnyBuffer norm, ffi::AnyBuffer bias,
                        ffi::AnyBuffer residual, ffi::Result<ffi::AnyBuffer> out, int64_t inputs, int64_t window,
                        bool gated, float epsilon) {
  Product p{};
  p.x = data<float>(x);
  p.packed = data<uint8_t>(packed);
  p.scale = data<uint16_t>(scale);
  p.minimum = data<uint16_t>(minimum);
  p.norm = data<float>(norm);
  p.bias = data<float>(bias);
  p.residual = data<float>(residual);
  p.out = static_cast<float*>(out->untyped_data());
  p.in = inputs;
  p.outputs = out->dimensions().back();
  p.panels = scale.dimensions()[0];
  p.groups = scale.dimensions()[1];
  p.window = window;
  p.gated = gated;
  p.epsilon = epsilon;
  p.valid = window;
  if (const int32_t* count = data<int32_t>(rows)) p.valid = *count < 0 ? 0 : *count < window ? *count : window;
  const int64_t batch = window && p.outputs ? static_cast<int64_t>(out->element_count()) / p.outputs / window : 0;
  const auto schedule = [&](auto task) { pool.Schedule(std::move(task)); };
  return run(p, batch, pool.num_threads(), schedule) ? ffi::Error::Success()
                                                     : ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory");
}

ffi::Error window_attention(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                            ffi::AnyBuffer lengths, ffi::AnyBuffer fresh_key, ffi::AnyBuffer fresh_value,
                            ffi::Result<ffi::AnyBuffer> out) {
  Attention a{};
  a.query = data<float>(query);
  a.key = key.untyped_data();
  a.value = value.untyped_data();
  a.lengths = data<int32_t>(lengths);
  a.fresh_key = data<float>(fresh_key);
  a.fresh_value = data<float>(fresh_value);
  a.out = static_cast<float*>(out->untyped_data());
  a.batch = query.dimensions()[0];
  a.window = query.dimensions()[1];
  a.heads = query.dimensions()[2];
  a.size = query.dimensions()[3];
  a.kv_heads = key.dimensions()[1];
  a.slots = key.dimensions()[2];
  a.narrow = key.element_type() == ffi::DataType::BF16;
  run(a, pool.num_threads(), [&](auto task) { pool.Schedule(std::move(task)); });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gelato

#define GELATO_EXPORT extern "C" __attribute__((visibility("default")))

GELATO_EXPORT const char* gelato_isa() { return gelato::kernels().name; }

XLA_FFI_DEFINE_HANDLER(block_matmul_handler, gelato::block_matmul,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Attr<int64_t>("inputs")
                           .Attr<int64_t>("window")
                           .Attr<bool>("gated")
                           .Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER(window_attention_handler, gelato::window_attention,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>());

GELATO_EXPORT XLA_FFI_Error* gelato_block_matmul(XLA_FFI_CallFrame* frame) { return block_matmul_handler(frame); }
GELATO_EXPORT XLA_FFI_Error* gelato_window_attention(XLA_FFI_CallFrame* frame) { return window_attention_handler(frame); }
