"""Entropy, sampling, speculative verification, attention windows, 4- and 8-bit products; depends on jax alone.

Every op takes `implementation=None`: the first one that serves the inputs on the platform that the
program is lowered for. A name picks one, or raises ValueError: `pallas_tpu`, `pallas_triton` and their
twin `mosaic_gpu`, for accelerators; `native`, compiled C++ for CPUs; `cpu`, `xla` and the textbook's
`reference`; with `_interpret` after it, a kernel run as XLA code. All sums are float32, logits of -inf
are legal, no epsilon bends a distribution, and no op offers a gradient.
"""

from gelato_kernels.attention.api import window_attention
from gelato_kernels.block_weights.api import block_matmul, pack_blocks, quantize_blocks, unpack_blocks, unpack_rows
from gelato_kernels.block_weights.records import BlockWeights
from gelato_kernels.caching.api import write_window
from gelato_kernels.coupling.api import gumbel_argmax
from gelato_kernels.noise import bits_to_uniforms, gumbel_noise, uniforms, uniforms_to_gumbel
from gelato_kernels.quantized.api import quantize_rows, quantized_matmul
from gelato_kernels.rotary.api import Attended, rotary_attention
from gelato_kernels.sampling.api import sample
from gelato_kernels.token_stats.api import TokenStats, entropy
from gelato_kernels.truncation.api import top_k_logits, top_p_logits, warp_logits
from gelato_kernels.unembedding.api import unembed_entropy
from gelato_kernels.verification.api import accept, match, sample_residual, speculative_verify
from gelato_kernels.verification.records import ResidualSample, Support, Verification, VerifyUniforms

__all__ = [
    "Attended",
    "BlockWeights",
    "ResidualSample",
    "Support",
    "TokenStats",
    "Verification",
    "VerifyUniforms",
    "accept",
    "bits_to_uniforms",
    "block_matmul",
    "entropy",
    "gumbel_argmax",
    "gumbel_noise",
    "match",
    "pack_blocks",
    "quantize_blocks",
    "quantize_rows",
    "quantized_matmul",
    "rotary_attention",
    "sample",
    "sample_residual",
    "speculative_verify",
    "top_k_logits",
    "top_p_logits",
    "unembed_entropy",
    "uniforms",
    "uniforms_to_gumbel",
    "unpack_blocks",
    "unpack_rows",
    "warp_logits",
    "window_attention",
    "write_window",
]
