"""Exit codes, as shells know them: usage, 128 + SIGINT, 128 + SIGPIPE."""

MISTAKE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
