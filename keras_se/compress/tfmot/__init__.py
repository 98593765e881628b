"""Compression by tensorflow-model-optimization, which supports models of tf_keras only."""
