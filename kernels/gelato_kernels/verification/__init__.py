"""Speculative verification: accept a prefix of the draft, then draw one more token."""
