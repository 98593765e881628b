"""TFLite files: made from Keras models, their gates found and read. Needs `keras-se[litert]`."""

from keras_se.litert.probing import probe

__all__ = ["probe"]
