"""Benchmarks and studies of gelato_jax."""
