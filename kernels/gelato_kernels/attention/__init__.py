"""Attention of a window of new tokens to a cache and to itself."""
