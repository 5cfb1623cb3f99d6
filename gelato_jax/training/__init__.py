"""A draft for any target: the target writes a corpus, the draft is distilled from it and calibrated."""
