"""Ours beside the engines that people know: the same weights, prompts and token ids, by turns.

`comparison` runs and compares; `ours`, `llama` and `huggingface` are the engines. Those of others take part where they
are installed, in processes of their own (`worker`).
"""
