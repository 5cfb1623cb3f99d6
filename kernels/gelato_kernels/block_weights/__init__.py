"""Products with weights of 4 or 8 bits, of which groups of 32 share a scale, or of bfloat16."""
