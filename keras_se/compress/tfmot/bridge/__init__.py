"""Keras 3 models as models of tf_keras, and back."""
