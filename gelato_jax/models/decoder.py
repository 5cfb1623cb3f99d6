"""A decoder-only transformer with exits, and the record that carries its weights.

Layers are separate modules, unrolled: of a stacked array that is indexed in a loop XLA copies every slice on a CPU.
Weights in blocks are read by calls that find their layer in a stack themselves, so there one layer runs in a loop: a
program of a tenth of the instructions and arguments, which is made, loaded and called that much faster.
All methods only read the cache; `cache.write` follows.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

import gelato_kernels
from gelato_jax.config import CacheType, ModelConfig
from gelato_jax.models.attention import Attention
from gelato_jax.models.cache import Cache, Fresh, Joined, KeyValue
from gelato_jax.models.layers import Angles, Embedding, GatedMLP, Head, RMSNorm, rope_frequencies
from gelato_jax.types import record, static


class Layer(nnx.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs | None):
        self.input_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = GatedMLP(config, rngs=rngs)

    def __call__(
        self,
        x: Array,
        angles: Angles,
        cached: KeyValue | Joined | None,
        lengths: Array,
        valid: Array | None = None,
        layer: Array | None = None,
    ) -> tuple[Array, KeyValue]:
        """Map `x [B, T, D]` to `[B, T, D]` and the window's keys and values; of a stack, through its `layer`."""
        x, fresh = self.attention(x, self.input_norm, angles, cached, lengths, valid, layer)
        return self.mlp(x, self.mlp_norm, valid, layer), fresh

    def keys_values(self, x: Array, angles: Angles, valid: Array | None = None, layer: Array | None = None) -> KeyValue:
        """What this layer would cache for `x`, without computing the layer."""
        return self.attention.keys_values(x, self.input_norm, angles, valid, layer)


def _stack(config: ModelConfig, *, rngs: nnx.Rngs | None) -> Layer:
    """All layers as one, each of whose arrays has a leading axis of them."""
    graphdef, state = nnx.split(Layer(config, rngs=rngs))
    count = config.num_layers
    if rngs is None:
        outline = lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)  # noqa: E731
        return nnx.merge(graphdef, jax.tree.map(outline, state))
    others = [nnx.state(Layer(config, rngs=rngs)) for _ in range(count - 1)]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), state, *others))


@partial(jax.jit, static_argnums=0)
def _run_layer(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    x: Array,
    angles: Angles,
    cached: KeyValue | Joined | None,
    lengths: Array,
    valid: Array | None,
    layer: Array | None,
) -> tuple[Array, KeyValue]:
    """One layer. Jitted, so that layers alike are traced and lowered once; XLA inlines the calls."""
    return nnx.merge(graphdef, params)(x, angles, cached, lengths, valid, layer)


def _in_loop(
    through: Callable[[Array, Array], tuple[Array, KeyValue]], x: Array, start: int, stop: int
) -> tuple[Array, Fresh]:
    """Layers `start` to `stop` of a stack, one after the other: the last state, and their keys and values."""
    if start == stop:
        return x, ()
    x, (keys, values) = lax.scan(through, x, jnp.arange(start, stop))
    return x, ((keys.swapaxes(0, 1), values.swapaxes(0, 1)),)


class Decoder(nnx.Module):
    """A Llama, Qwen2 or Qwen3 decoder whose logits may be read after any of `config.exits`.

    An early exit has a norm of its own and shares the head. With `config.exit_probes`, a linear
    probe of an early exit's state predicts the entropy that the head would show, so that asking
    whether to go deeper costs a dot product instead of an unembedding; without, the head is asked.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs | None):
        self.config = config
        self.embed = Embedding(config, rngs=rngs)
        if config.is_stacked:
            self.layers = _stack(config, rngs=rngs)
        else:
            self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])
        early = len(config.exits) - 1
        self.exit_norms = nnx.List([RMSNorm(config.hidden_size, eps=config.norm_eps) for _ in range(early)])
        probes = early if config.exit_probes else 0
        self.exit_probes = nnx.List([ExitProbe(config) for _ in range(probes)])
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.head = None if config.tied_head else Head(config, rngs=rngs)

    def angles(self, lengths: Array, window: int) -> Angles:
        """Rotary angles of a window of `window` tokens after `lengths [B]`."""
        positions = lengths[:, None] + jnp.arange(window)
        angles = positions[..., None].astype(jnp.float32) * rope_frequencies(self.config)
        return jnp.cos(angles), jnp.sin(angles)

    @property
    def cache_dtype(self) -> Any:
        """Type of its caches, see `config.CacheType`."""
        if self.config.cache_type != "auto":
            return jnp.dtype(self.config.cache_type)
        return jnp.float32 if self.config.block_format else self.embed.embedding.dtype

    def embed_tokens(self, tokens: Array) -> Array:
        """`[B, T]` int32 -> `[B, T, D]` float32."""
        return self.embed(tokens)

    def run(
        self,
        x: Array,
        angles: Angles,
        cache: Cache | None,
        lengths: Array,
        start: int,
        stop: int,
        moving: Array | None = None,
        valid: Array | None = None,
    ) -> tuple[Array, Fresh]:
        """Run layers `start` to `stop` over `x [B, T, D]`; also returns their fresh keys and values.

        Tokens outside `moving [B, T]` have left at an earlier exit: their state stays, and every
        layer caches what it projects from that state, as `skip` does. With `cache` None nothing is
        cached, and `lengths` are not read. Of the T tokens `valid [B]` count; what the others give means nothing.
        """
        if isinstance(self.layers, Layer):
            group, parts = None if cache is None else cache[0], nnx.split(self.layers)

            def through(x: Array, layer: Array) -> tuple[Array, KeyValue]:
                deeper, keys_values = _run_layer(*parts, x, angles, group, lengths, valid, layer)
                return deeper if moving is None else jnp.where(moving[..., None], deeper, x), keys_values

            return _in_loop(through, x, start, stop)
        fresh = []
        for index in range(start, stop):
            cached = None if cache is None else cache[index]
            deeper, keys_values = _run_layer(*nnx.split(self.layers[index]), x, angles, cached, lengths, valid, None)
            x = deeper if moving is None else jnp.where(moving[..., None], deeper, x)
            fresh.append(keys_values)
        return x, tuple(fresh)

    def skip(self, x: Array, angles: Angles, start: int, stop: int, valid: Array | None = None) -> Fresh:
        """Keys and values of skipped layers, projected from the exit's state (CALM, arXiv 2207.07061)."""
        if isinstance(self.layers, Layer):
            stack = self.layers
            return _in_loop(lambda x, layer: (x, stack.keys_values(x, angles, valid, layer)), x, start, stop)[1]
        return tuple(self.layers[index].keys_values(x, angles, valid) for index in range(start, stop))

    def unembed(self, x: Array, exit_index: int = -1, valid: Array | None = None) -> Array:
        """Logits `[..., U]` float32 of hidden states `x [..., D]` taken at an exit; of T tokens `valid [B]` count."""
        return self._logits(x, self.exit_norm(exit_index), valid)

    def exit_norm(self, exit_index: int) -> RMSNorm:
        """The norm ahead of the head at an exit; -1 is the deepest."""
        return [*self.exit_norms, self.norm][exit_index]

    def head_logits(self, normed: Array, valid: Array | None = None) -> Array:
        """Logits `[..., U]` float32 of states that an exit's norm has already been through; `valid` as in `unembed`.

        Padding rows of the head, ids that the tokenizer does not have, are left out.
        """
        return self._logits(normed, None, valid)

    def _logits(self, x: Array, norm: RMSNorm | None, valid: Array | None = None) -> Array:
        head = self.embed.unembed if self.head is None else self.head
        logits: Array = head(x, norm=norm, valid=valid)
        return logits[..., : self.config.valid_outputs]

    def head_stats(self, normed: Array) -> gelato_kernels.TokenStats:
        """Entropy (nats) and the rest of the distribution of `head_logits`, `[...]`; kernels store no logits for it."""
        # The fused kernels know neither padding rows nor blocks.
        if self.config.valid_outputs < self.config.output_size or self.config.block_format:
            return gelato_kernels.entropy(self.head_logits(normed))
        if self.head is None:
            return gelato_kernels.unembed_entropy(normed, self.embed.embedding[...])
        scale = None if self.head.kernel_scale is None else self.head.kernel_scale[...]
        return gelato_kernels.unembed_entropy(normed, self.head.kernel[...], scale=scale)

    def forward(
        self, tokens: Array, cache: Cache | None, lengths: Array, valid: Array | None = None
    ) -> tuple[Array, Fresh]:
        """Run a window `[B, T]` through every layer: hidden states `[B, T, D]`, fresh keys and values.

        Of the T tokens `valid [B]` count; what the others give means nothing.
        """
        angles = self.angles(lengths, tokens.shape[1])
        x = self.embed_tokens(tokens)
        return self.run(x, angles, cache, lengths, 0, self.config.num_layers, valid=valid)


class ExitProbe(nnx.Module):
    """Predicts the entropy (nats) of an exit's distribution from its normed state."""

    def __init__(self, config: ModelConfig):
        self.weight = nnx.Param(jnp.zeros((config.hidden_size,)))
        self.bias = nnx.Param(jnp.zeros(()))

    def __call__(self, normed: Array) -> Array:
        """`[..., D]` -> `[...]` nats, never negative."""
        return jax.nn.relu(normed @ self.weight[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32))


@record
class Model:
    """A decoder's shape and its weights, keyed by path: what a jitted function takes."""

    config: ModelConfig = static()
    params: dict[str, Array]

    def bind(self) -> Decoder:
        """The module over these weights. Only at trace time: it costs nothing in the program."""
        graphdef, treedef, outlines = _structure(self.config)
        return nnx.merge(graphdef, jax.tree.unflatten(treedef, [self.params[path] for path in outlines]))

    def with_cache(self, cache_type: CacheType) -> "Model":
        """The same model with caches of another type."""
        return replace(self, config=replace(self.config, cache_type=cache_type))


@lru_cache(maxsize=32)
def _structure(config: ModelConfig):
    graphdef, state = nnx.split(Decoder(config, rngs=None))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    return graphdef, treedef, {_dotted(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves}


def _dotted(path) -> str:
    keys = (getattr(entry, "key", getattr(entry, "name", None)) for entry in path)
    return ".".join(str(key) for key in keys if key not in (None, "value"))


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Path and shape of every weight of a decoder: the contract between checkpoints and models."""
    return {path: outline.shape for path, outline in _structure(config)[2].items()}


def parameter_outlines(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """`parameter_shapes` with dtypes: those of weights in few bits, float32 for what may be of any floating dtype."""
    return dict(_structure(config)[2])


def stack_layers(params: dict[str, Array]) -> dict[str, Array]:
    """Weights by the paths of separate layers, under those of a stack of them."""
    layers: dict[str, dict[int, Array]] = {}
    stacked = {}
    for path, array in params.items():
        if found := re.fullmatch(r"layers\.(\d+)\.(.+)", path):
            layers.setdefault(f"layers.{found[2]}", {})[int(found[1])] = array
        else:
            stacked[path] = array
    for path, arrays in layers.items():  # on the host: each shape would be a program of its own
        stacked[path] = jnp.asarray(np.stack([arrays[index] for index in sorted(arrays)]))
    return stacked


def random_model(config: ModelConfig, seed: int = 0) -> Model:
    """A decoder with random weights: for tests, and for shapes when no checkpoint is at hand."""
    state = nnx.state(Decoder(config, rngs=nnx.Rngs(seed)))
    return Model(config=config, params={_dotted(p): v for p, v in jax.tree_util.tree_flatten_with_path(state)[0]})
