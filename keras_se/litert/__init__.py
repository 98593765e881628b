"""TFLite files: made from Keras models, their gates found and read. Needs `keras-se[litert]`."""

from keras_se.litert.devices.npu import npu
from keras_se.litert.devices.probing import probe

__all__ = ["npu", "probe"]
