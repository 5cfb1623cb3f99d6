"""A pair behind OpenAI's interface: any chat program can talk to it, whether the target is here or on an edge."""
