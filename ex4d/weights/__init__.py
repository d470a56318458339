"""Weights of published models: where they lie, how they are fetched and strictly read."""
