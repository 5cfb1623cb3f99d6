"""Sweeps: the passes over whole rows of the vocabulary, the only part of an op that a backend writes for itself.

What an op makes of a sweep (a draw, an acceptance, a residual) is a few numbers a row and is written
once, in plain JAX, in the op's `two_level.py`.
"""
