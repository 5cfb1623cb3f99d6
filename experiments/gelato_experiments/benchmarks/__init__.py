"""Benchmarks: what the decode loop costs, and that it keeps its promises on real models."""
