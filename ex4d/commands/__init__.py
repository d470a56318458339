"""The commands of `ex4d`, one module each: `add_parser` declares, `run` does."""
