"""Top-p and top-k truncation of logits by bisection."""
