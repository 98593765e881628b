"""The layers of `keras_se`, imported eagerly so that Keras can load files that hold them."""

from keras_se.layers.divisive_normalization import DivisiveNormalization
from keras_se.layers.graph_se_block import GraphSEBlock
from keras_se.layers.se_block import SEBlock

__all__ = ["DivisiveNormalization", "GraphSEBlock", "SEBlock"]
