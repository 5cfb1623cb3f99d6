"""Keys and values of a window of tokens, put into a cache."""
