"""Benchmarks of the ops on the device at hand, and block sizes for its kernels.

`python -m gelato_kernels.bench` and `python -m gelato_kernels.bench.autotune`; jax and NumPy are all
they need, but for a picture matplotlib.
"""
