"""Attention of what a decoder's projection gives: head norms and rotation in the same call."""
