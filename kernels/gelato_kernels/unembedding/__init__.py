"""Statistics of a softmax straight from hidden states, its logits never stored."""
