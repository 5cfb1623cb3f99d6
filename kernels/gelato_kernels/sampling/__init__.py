"""A draw from a softmax by inverse CDF."""
