"""Every kernel compiled for the chips that it is written for, on a machine that has none of them.

    pip install "./kernels[test,aot]" && pytest kernels/tests -m aot

TPU kernels go through Mosaic to a binary, Triton kernels through ptxas to one; Mosaic GPU kernels
are lowered only (nothing compiles them without their chip). Nothing is executed. What a wheel is
missing for is skipped, and the skip says which. Each chip is a process of its own: the plugins
read the environment when they start, and say much on a machine without their chip.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gelato_kernels as gk

pytestmark = pytest.mark.aot

TPUS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 device_address_bits: 64
  device_vendor: "NVIDIA Corporation" driver_version: "13.0.0" runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0" {numbers} name: "{name}"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
"""
GPUS = {
    "a100": _GPU.format(
        name="NVIDIA A100-SXM4-40GB",
        numbers="core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41 l2_cache_size: 41943040 "
        "memory_bandwidth: 1555200000000 device_memory_size: 42331013120 cuda_compute_capability { major: 8 } "
        "shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912",
    ),
    "h100": _GPU.format(
        name="NVIDIA H100 80GB HBM3",
        numbers="core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800 "
        "memory_bandwidth: 3352320000000 device_memory_size: 84942979072 cuda_compute_capability { major: 9 } "
        "shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448",
    ),
}
"""Published figures of the chips, as XLA's target configuration has them."""

F32, BF16, I8, I32 = jnp.float32, jnp.bfloat16, jnp.int8, jnp.int32
SMOLLM2, QWEN = 49_152, 151_936


def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, dtype)


def _entropy(implementation, logits, uniforms, temperature):
    return gk.entropy(logits, uniforms=uniforms, temperature=temperature, implementation=implementation)


def _unembed(implementation, hidden, weight, uniforms, scale=None):
    return gk.unembed_entropy(hidden, weight, scale=scale, uniforms=uniforms, implementation=implementation)


def _verify(implementation, target, tokens, length, accept, token, draft):
    noise = gk.VerifyUniforms(accept, token)
    return gk.speculative_verify(target, tokens, length, noise, draft_logits=draft, implementation=implementation)


def _product(implementation, x, weights, scale):
    return gk.quantized_matmul(x, weights, scale, implementation=implementation)


def _attention(implementation, query, key, value, lengths, window_key, window_value):
    caches = (key, value, lengths, window_key, window_value)
    return gk.window_attention(query, *caches, implementation=implementation)


def _heads(batch, window, heads, kv_heads, size, slots, dtype):
    cache, fresh = (shape(dtype, batch, kv_heads, n, size) for n in (slots, window))
    return shape(F32, batch, window, heads, size), cache, cache, shape(I32, batch), fresh, fresh


def _window(vocab, dtype=F32):
    distributions = shape(dtype, 2, 5, vocab), shape(dtype, 2, 4, vocab)
    return distributions[0], shape(I32, 2, 4), shape(I32, 2), shape(F32, 2, 4), shape(F32, 2, 2), distributions[1]


CALLS = {
    "entropy short": (_entropy, (shape(F32, 1, 200), shape(F32, 1, 2), shape(F32))),
    "entropy ragged": (_entropy, (shape(F32, 10, 5003), shape(F32, 10, 2), shape(F32))),
    "entropy smollm2": (_entropy, (shape(F32, 1, SMOLLM2), shape(F32, 1, 2), shape(F32))),
    "entropy qwen bfloat16": (_entropy, (shape(BF16, 5, QWEN), shape(F32, 5, 2), shape(F32))),
    "verify smollm2": (_verify, _window(SMOLLM2)),
    "verify qwen bfloat16": (_verify, _window(QWEN, BF16)),
    "unembed smollm2": (_unembed, (shape(F32, 1, 576), shape(F32, SMOLLM2, 576), shape(F32, 1, 2))),
    "unembed qwen 7b bfloat16": (_unembed, (shape(F32, 5, 3584), shape(BF16, 152_064, 3584), shape(F32, 5, 2))),
    "unembed smollm2 int8": (
        _unembed,
        (shape(F32, 5, 576), shape(I8, SMOLLM2, 576), shape(F32, 5, 2), shape(F32, SMOLLM2)),
    ),
    "matmul smollm2 layer": (_product, (shape(F32, 1, 576), shape(I8, 960, 576), shape(F32, 960))),
    "matmul smollm2 head": (_product, (shape(F32, 5, 576), shape(I8, SMOLLM2, 576), shape(F32, SMOLLM2))),
    "matmul qwen 7b": (_product, (shape(BF16, 1, 18_944), shape(I8, 3584, 18_944), shape(F32, 3584))),
    "attention smollm2": (_attention, _heads(1, 5, 9, 3, 64, 512, F32)),
    "attention smollm2 ragged": (_attention, _heads(4, 1, 9, 3, 64, 700, F32)),
    "attention qwen 7b bfloat16": (_attention, _heads(4, 5, 28, 4, 128, 4096, BF16)),
}


def compile_all(chip: str) -> dict[str, str]:
    """Compile every call for a chip: {name: "" or what went wrong}."""
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    if chip in TPUS:
        implementation, where = "pallas_tpu", {"topology_name": TPUS[chip], "platform": "tpu"}
    else:
        where = {"topology_name": "", "platform": "cuda", "topology": "1x1x1", "target_config": GPUS[chip]}
        implementation = "pallas_triton"
    device = SingleDeviceSharding(topologies.get_topology_desc(**where).devices[0])
    results = {}
    for name, (call, arguments) in CALLS.items():
        placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device) for x in arguments]
        try:
            text = jax.jit(partial(call, implementation)).trace(*placed).lower().compile().as_text()
            mark = "tpu_custom_call" if chip in TPUS else "custom_call_target"
            results[name] = "" if mark in (text or "") else f"no kernel in the program ({mark})"
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    return results


def _missing(chip: str) -> str | None:
    """What this machine lacks to compile for a chip."""
    if chip in TPUS:
        return None if importlib.util.find_spec("libtpu") else "libtpu is not installed (pip install './kernels[aot]')"
    if not importlib.util.find_spec("jax_plugins") or not importlib.util.find_spec("jax_plugins.xla_cuda12"):
        return "jax-cuda12-plugin is not installed (pip install './kernels[aot]')"
    return None if shutil.which("ptxas") else "ptxas of the CUDA toolkit is not on the path"


@pytest.fixture(scope="module")
def compiled():
    """Results of `compile_all` by chip, each in a process of its own."""
    found = {}

    def results(chip):
        if reason := _missing(chip):
            pytest.skip(reason)
        if chip not in found:
            environment = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "",
                "TPU_SKIP_MDS_QUERY": "1",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is run: another process may compile too
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            done = subprocess.run([sys.executable, __file__, chip], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            found[chip] = json.loads(done.stdout.splitlines()[-1])
        return found[chip]

    return results


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("chip", [*TPUS, *GPUS])
def test_compiles(compiled, chip, name):
    assert compiled(chip)[name] == ""


@pytest.mark.parametrize("name", [name for name in CALLS if "short" not in name])
def test_mosaic_gpu_lowers(name):
    call, arguments = CALLS[name]
    lowered = jax.jit(partial(call, "mosaic_gpu")).trace(*arguments).lower(lowering_platforms=("cuda",))
    assert "mosaic_gpu" in lowered.as_text()


if __name__ == "__main__":
    print(json.dumps(compile_all(sys.argv[1])))
