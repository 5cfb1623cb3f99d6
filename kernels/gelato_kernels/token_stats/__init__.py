"""Statistics of a softmax in one sweep, with a draw from it."""
