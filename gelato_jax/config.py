"""Frozen, hashable settings: what a compiled program depends on, and what a user sets.

Arrays never live here. A number that may change without recompiling is turned into an array at
the boundary (`decoding.make_job`), never kept static.
"""

from dataclasses import dataclass
from typing import Literal

from gelato_jax.errors import GelatoError

BlockFormat = Literal["q8", "q4", "bfloat16"]
"""Of matrices that are `gelato_kernels.BlockWeights`."""
WeightFormat = Literal["float", "int8", "q8", "q4", "bfloat16"]
"""How a model's matrices are kept; see `ModelConfig.weight_format`."""
CacheType = Literal["auto", "float32", "bfloat16"]
"""Of keys and values. bfloat16 is half of float32's memory, and half of what a long text costs a step; auto is the
embedding's type, float32 where that is in blocks."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Frequency scaling of Llama 3's rotary embedding (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def __post_init__(self) -> None:
        """Refuse bands that cannot be told apart."""
        if self.low_freq_factor >= self.high_freq_factor:
            raise GelatoError(
                f"rope low_freq_factor {self.low_freq_factor} must be below high_freq_factor {self.high_freq_factor}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder of the Llama, Qwen2 or Qwen3 family.

    Attributes:
        family: `llama`, `qwen2` or `qwen3`; provenance, the other fields decide the computation.
        vocab_size: rows of the input embedding (V); may exceed the tokenizer's ids (padding).
        hidden_size: D.
        mlp_size: F.
        num_layers: L.
        num_heads: N query heads.
        num_kv_heads: K key/value heads; N is a multiple of K.
        head_dim: H; N * H need not equal D (Qwen3).
        rope_theta: base of the rotary embedding.
        rope_scaling: Llama 3 frequency scaling, or None.
        norm_eps: epsilon of every RMS norm.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        qk_norm: RMS norm on each query and key head (Qwen3).
        tied_head: the output head is the input embedding.
        max_positions: longest context the checkpoint was trained for.
        exits: layer counts after which logits may be read, ascending; the last is `num_layers`.
        exit_probes: early exits have a linear probe that predicts their entropy.
        head_vocab_size: rows of the output head when it covers a subset of the vocabulary
            (U; a draft's head), or None for all of it.
        known_vocab_size: ids that the tokenizer has, when the model pads its vocabulary beyond
            them; padding logits are left out. None: no padding.
        weight_format: `float`; `int8`: every matrix but the embedding has 8-bit weights and a float32 scale per
            output; `q8` and `q4`: matrices have 8 or 4 bits and a scale for every 32 inputs, embedding and head
            always 8; `bfloat16`: in that type (`models.quantize`, `gelato_kernels.BlockWeights`).
        embedding_format: of the input embedding where it is another model's, as a draft's is its target's; None: that
            of the head.
        cache_type: of keys and values behind a text.
    """

    family: Literal["llama", "qwen2", "qwen3"]
    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float
    max_positions: int
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = True
    exits: tuple[int, ...] = ()
    exit_probes: bool = False
    head_vocab_size: int | None = None
    known_vocab_size: int | None = None
    weight_format: WeightFormat = "float"
    embedding_format: BlockFormat | None = None
    cache_type: CacheType = "auto"

    def __post_init__(self) -> None:
        """Fill the default exit and refuse shapes that cannot run."""
        if not self.exits:
            object.__setattr__(self, "exits", (self.num_layers,))
        if self.exits[-1] != self.num_layers or list(self.exits) != sorted(set(self.exits)) or self.exits[0] < 1:
            raise GelatoError(f"exits {self.exits} must ascend from 1 and end at num_layers {self.num_layers}")
        if self.num_heads % self.num_kv_heads:
            raise GelatoError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise GelatoError(f"head_dim {self.head_dim} must be even for rotary embedding")
        if self.weight_format == "int8" and self.tied_head:
            raise GelatoError("weight_format 'int8' with tied_head True: an 8-bit model needs a head of its own")

    @property
    def saves_tokens(self) -> bool:
        """Whether a window costs its valid tokens, not its width: products with blocks skip the others."""
        return self.block_format is not None

    @property
    def block_format(self) -> BlockFormat | None:
        """Of the layers' matrices where these are `gelato_kernels.BlockWeights`, else None."""
        return self.weight_format if self.weight_format in ("q8", "q4", "bfloat16") else None

    @property
    def head_format(self) -> BlockFormat | None:
        """Of head and embedding, whose errors are the logits' own: never 4 bits."""
        return "q8" if self.block_format == "q4" else self.block_format

    @property
    def is_stacked(self) -> bool:
        """Whether each array of its layers, and of their caches, is one of all layers: of weights in blocks."""
        return self.block_format is not None

    @property
    def output_size(self) -> int:
        """Width of the logits: the head's rows."""
        return self.head_vocab_size or self.vocab_size

    @property
    def valid_outputs(self) -> int:
        """Logits that stand for a token; the rest is padding."""
        return self.head_vocab_size or self.known_vocab_size or self.vocab_size
