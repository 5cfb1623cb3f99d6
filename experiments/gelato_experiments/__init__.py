"""Studies of gelato_jax."""
