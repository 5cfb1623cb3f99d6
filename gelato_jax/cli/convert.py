"""`gelato convert`: a checkpoint of another project into one of this."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a Hugging Face folder or a GGUF file; the result appears whole or not at all."""

    source: Annotated[Positional[str], arg(metavar="SRC")]
    """Hugging Face folder (config.json, safetensors, tokenizer.json) or .gguf file."""
    destination: Annotated[Positional[str], arg(metavar="DST")]
    """Folder to make."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the stored weights; auto keeps bfloat16 where the source has it, else float32."""
    overwrite: bool = False
    """Replace a converted checkpoint that is there."""

    def run(self) -> int:
        """Convert, and say where the result lies."""
        from gelato_checkpoints import convert
        from gelato_jax.cli.progress import Progress

        with Progress() as progress:
            folder = convert(
                self.source, self.destination, dtype=self.dtype, overwrite=self.overwrite, progress=progress.stage
            )
        print(folder)
        return 0
