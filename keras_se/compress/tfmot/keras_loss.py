"""A loss of Keras 3 as a loss of tf_keras; importing this module loads tf_keras."""

from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tf_keras

_tf_keras = load_tf_keras()
_base: Any = _tf_keras.losses.Loss


@_tf_keras.saving.register_keras_serializable(package="keras_se")
class KerasLoss(_base):
    """Computes a loss of Keras 3 on TensorFlow tensors."""

    def __init__(self, loss: keras.losses.Loss) -> None:
        super().__init__(name=loss.name)
        self._loss = loss

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss, reduced as in Keras 3."""
        return self._loss(y_true, y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Return the loss as JSON."""
        return {"loss": keras.saving.serialize_keras_object(self._loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KerasLoss":
        """Make the loss of a configuration."""
        return cls(keras.saving.deserialize_keras_object(config["loss"]))
