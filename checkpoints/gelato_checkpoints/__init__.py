"""Checkpoints: known models by name, conversion from Hugging Face folders and GGUF files, loading.

`load_pair("smollm2-135m")` gives what `gelato_jax.generate` decodes with; `load_checkpoint` gives the bare parts.
"""

from gelato_checkpoints.base import CheckpointError, OnProgress, TokenizerSpec
from gelato_checkpoints.catalog import CATALOG, DEFAULT_MODEL, cache_directory, resolve
from gelato_checkpoints.convert import convert
from gelato_checkpoints.drafts import load_draft, save_draft, shipped_drafts
from gelato_checkpoints.load import Checkpoint, load_checkpoint
from gelato_checkpoints.pair import FALLBACK_LAYERS, load_model, load_pair
from gelato_checkpoints.store import save_checkpoint
from gelato_checkpoints.tokenizer import Message, Tokenizer

__all__ = [
    "CATALOG",
    "DEFAULT_MODEL",
    "FALLBACK_LAYERS",
    "Checkpoint",
    "CheckpointError",
    "Message",
    "OnProgress",
    "Tokenizer",
    "TokenizerSpec",
    "cache_directory",
    "convert",
    "load_checkpoint",
    "load_draft",
    "load_model",
    "load_pair",
    "resolve",
    "save_checkpoint",
    "save_draft",
    "shipped_drafts",
]
