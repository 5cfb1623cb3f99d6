"""Ours beside the engines that people know: the same weights, prompts and token ids, by turns in one process.

`comparison` runs and compares; `ours`, `llama` and `huggingface` are the engines, those of others where installed.
"""
