"""Layers of `keras_se`; importing them registers them, so that Keras can load saved models."""

from keras_se.layers.divisive_normalization import DivisiveNormalization
from keras_se.layers.graph_se_block import GraphSEBlock
from keras_se.layers.quantization.activation import QuantizeAwareActivation
from keras_se.layers.quantization.affine import QuantizeAwareAffine
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.kernels import QuantizeAware
from keras_se.layers.quantization.merging import QuantizeAwareMerge
from keras_se.layers.quantization.pooling import QuantizeAwarePooling
from keras_se.layers.quantization.se_block import QuantizeAwareSEBlock
from keras_se.layers.se_block import SEBlock

__all__ = [
    "DivisiveNormalization",
    "FakeQuantize",
    "GraphSEBlock",
    "QuantizeAware",
    "QuantizeAwareActivation",
    "QuantizeAwareAffine",
    "QuantizeAwareMerge",
    "QuantizeAwarePooling",
    "QuantizeAwareSEBlock",
    "SEBlock",
]
