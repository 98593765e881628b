"""SE in a Keras model: where it is, what its gates say."""
