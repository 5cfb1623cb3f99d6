"""What a draft token costs at each exit, counted from the shapes."""

from gelato_jax.config import ModelConfig


def exit_work(config: ModelConfig) -> tuple[float, ...]:
    """Weights read by one token that leaves at each exit, as shares of leaving at the deepest.

    A token at batch one is bound by the weights it reads. Counted whole: the layers run, the checks
    at the exits passed (a probe, or the head where there is none), the key and value projections of
    the layers skipped, and one head.

    Returns:
        X numbers, ascending, the last 1.
    """
    attention = config.hidden_size * config.head_dim * (2 * config.num_heads + 2 * config.num_kv_heads)
    layer = attention + 3 * config.hidden_size * config.mlp_size
    skipped = config.hidden_size * config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    head = config.hidden_size * config.output_size
    check = config.hidden_size if config.exit_probes else head
    deepest = len(config.exits) - 1
    totals = [
        depth * layer + min(index + 1, deepest) * check + head + (config.num_layers - depth) * skipped
        for index, depth in enumerate(config.exits)
    ]
    return tuple(total / totals[-1] for total in totals)
