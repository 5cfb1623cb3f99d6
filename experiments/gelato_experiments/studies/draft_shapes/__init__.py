"""Which shape of draft is worth most, by what it would give and cost rather than by its loss."""
