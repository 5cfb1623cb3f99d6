"""A decode: rounds of drafting and verification, compiled end to end."""

from gelato_jax.decoding.generation import Generation, Stream, autoregressive, generate, stream
from gelato_jax.decoding.job import LOCAL_STREAM, LONGEST_STREAM, DecodeSettings, encode_prompts, make_job
from gelato_jax.decoding.lookup import lookup
from gelato_jax.decoding.pair import Pair, Tokenizer, first_layers, make_draft
from gelato_jax.decoding.records import DraftModel, Job, Lookup, Policy, Sampling, Session, Setup, Shapes, with_weights
from gelato_jax.decoding.report import report
from gelato_jax.decoding.totals import Totals

__all__ = [
    "LOCAL_STREAM",
    "LONGEST_STREAM",
    "DecodeSettings",
    "DraftModel",
    "Generation",
    "Job",
    "Lookup",
    "Pair",
    "Policy",
    "Sampling",
    "Session",
    "Setup",
    "Shapes",
    "Stream",
    "Tokenizer",
    "Totals",
    "autoregressive",
    "encode_prompts",
    "first_layers",
    "generate",
    "lookup",
    "make_draft",
    "make_job",
    "report",
    "stream",
    "with_weights",
]
