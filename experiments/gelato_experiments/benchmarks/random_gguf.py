"""A GGUF file of random weights in the shape of a 1B Llama, in Q4_1: so that a speed is no trick of a small model.

python -m gelato_experiments.benchmarks.random_gguf big.gguf
gelato bench peers --model big.gguf --draft layers:1 --prompts FILE --limit 3
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import gguf
import numpy as np
import tyro
from gguf.quants import quantize

from gelato_checkpoints import cache_directory
from gelato_checkpoints.base import silent
from gelato_experiments.benchmarks.peers.files import source_file, write_like
from gelato_jax.errors import GelatoError

_KIND = gguf.GGMLQuantizationType.Q4_1
_TABLE_KIND = gguf.GGMLQuantizationType.Q8_0
_TOKENIZER_OF = "smollm2-135m"


@dataclasses.dataclass(frozen=True)
class RandomGguf:
    """Write a Llama of random weights, Q4_1 and its embedding Q8_0, with the tokenizer of SmolLM2.

    The defaults are the shape of Llama 3.2 1B with SmolLM2's 49,152 tokens: 1.07 billion weights, 0.7 GB.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """File to write; it must not be there yet."""
    hidden: int = 2048
    """Width of the residual stream."""
    layers: int = 16
    """Layers."""
    heads: int = 32
    """Heads of queries."""
    kv_heads: int = 8
    """Heads of keys and values."""
    mlp: int = 8192
    """Width of the MLP."""
    seed: int = 0
    """Random numbers."""

    def tensors(self, vocab: int) -> Iterator[tuple[str, np.ndarray, gguf.GGMLQuantizationType | None]]:
        """Name, array and quantised type of every tensor."""
        rng = np.random.default_rng(self.seed)
        keys = self.hidden // self.heads * self.kv_heads

        def matrix(outputs: int, inputs: int, kind: gguf.GGMLQuantizationType = _KIND):
            values = rng.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
            return quantize(values, kind), kind

        norm = np.ones(self.hidden, np.float32)
        yield "token_embd.weight", *matrix(vocab, self.hidden, _TABLE_KIND)
        yield "output_norm.weight", norm, None
        for layer in range(self.layers):
            block = f"blk.{layer}"
            yield f"{block}.attn_norm.weight", norm, None
            yield f"{block}.attn_q.weight", *matrix(self.hidden, self.hidden)
            yield f"{block}.attn_k.weight", *matrix(keys, self.hidden)
            yield f"{block}.attn_v.weight", *matrix(keys, self.hidden)
            yield f"{block}.attn_output.weight", *matrix(self.hidden, self.hidden)
            yield f"{block}.ffn_norm.weight", norm, None
            yield f"{block}.ffn_gate.weight", *matrix(self.mlp, self.hidden)
            yield f"{block}.ffn_up.weight", *matrix(self.mlp, self.hidden)
            yield f"{block}.ffn_down.weight", *matrix(self.hidden, self.mlp)

    def run(self) -> None:
        """Write the file.

        Raises:
            GelatoError: the file is there already, or a width does not divide.
        """
        if self.path.exists():
            raise GelatoError(f"{self.path} is there already; name another file")
        if self.hidden % self.heads or self.heads % self.kv_heads or self.hidden % 32 or self.mlp % 32:
            raise GelatoError(
                f"hidden {self.hidden}, mlp {self.mlp}, heads {self.heads}, kv-heads {self.kv_heads}: heads must "
                "divide hidden, kv-heads heads, and 32 both widths"
            )
        file = source_file(_TOKENIZER_OF, cache_directory() / "peers", silent)
        assert file is not None
        source = gguf.GGUFReader(file)
        fields = {
            "general.name": f"random {self.hidden}x{self.layers}",
            "llama.block_count": self.layers,
            "llama.embedding_length": self.hidden,
            "llama.feed_forward_length": self.mlp,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.kv_heads,
            "llama.rope.dimension_count": self.hidden // self.heads,
        }
        vocab = source.fields["llama.vocab_size"].contents()
        write_like(source, self.path, gguf.LlamaFileType.MOSTLY_Q4_1, self.tensors(vocab), fields)


if __name__ == "__main__":
    try:
        tyro.cli(RandomGguf).run()
    except GelatoError as error:
        sys.exit(f"error: {error}")
