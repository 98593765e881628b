"""Compression by tensorflow-model-optimization, which takes models of tf_keras alone."""
