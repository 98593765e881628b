"""BatchNormalization of tf_keras that trains as that of Keras 3; importing this loads tf_keras."""

from typing import Any

from keras_se.compress.tfmot.bridge.environment import load_tf_keras

_tf_keras = load_tf_keras()
_base: Any = _tf_keras.layers.BatchNormalization


@_tf_keras.saving.register_keras_serializable(package="keras_se")
class BatchNormalization(_base):
    """A BatchNormalization whose moving variance follows that of the batch, as in Keras 3."""

    # The fused operation multiplies the variance by n / (n - 1).
    def __init__(self, **arguments: Any) -> None:
        super().__init__(fused=False, **arguments)
