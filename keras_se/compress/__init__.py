"""Compression of SE models in training: quantization-aware training, pruning and clustering.

`quantize_aware` with `engine="keras"` needs Keras alone. tensorflow-model-optimization takes models
of tf_keras only, and no SE block: a Keras 3 model is converted to tf_keras, compressed there, and
its trained weights are copied back.
"""

from keras_se.compress.equalization import equalize
from keras_se.compress.loading import load
from keras_se.compress.quantization import quantize_aware
from keras_se.compress.stripping import strip
from keras_se.compress.tfmot.bridge.translation import to_tf_keras
from keras_se.compress.tfmot.bridge.weights import from_tf_keras
from keras_se.compress.tfmot.clustering import cluster
from keras_se.compress.tfmot.pruning import prune

__all__ = [
    "cluster",
    "equalize",
    "from_tf_keras",
    "load",
    "prune",
    "quantize_aware",
    "strip",
    "to_tf_keras",
]
