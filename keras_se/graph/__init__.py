"""A Keras model's graph: recorded once, visited at every level, and built anew with edits."""
