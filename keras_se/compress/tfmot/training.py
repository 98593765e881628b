"""Losses, metrics, optimizers and callbacks of Keras 3 as those of tf_keras."""

import inspect
from functools import cache
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.errors import InputError

_HIGHER_IS_BETTER = ("acc", "accuracy", "auc", "precision", "recall")
_REDUCTIONS = {None: "none", "mean": "sum_over_batch_size"}
_HOOKS = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]


def convert_object(value: Any) -> Any:
    """Convert a Keras 3 optimizer, schedule, loss or metric; return other values unchanged."""
    tf_keras = load_tf_keras()
    homes = {
        keras.optimizers.Optimizer: tf_keras.optimizers,
        keras.optimizers.schedules.LearningRateSchedule: tf_keras.optimizers.schedules,
        keras.losses.Loss: tf_keras.losses,
        keras.metrics.Metric: tf_keras.metrics,
    }
    home = next((home for kind, home in homes.items() if isinstance(value, kind)), None)
    if home is None:
        return value
    name = type(value).__name__
    counterpart = getattr(home, name, None)
    is_built_in = type(value).__module__.startswith("keras.")
    if isinstance(value, keras.losses.Loss) and not (is_built_in and counterpart):
        # A Keras 3 loss works on TensorFlow tensors, but tf_keras does not know its class.
        from keras_se.compress.tfmot.keras_loss import KerasLoss  # loads tf_keras

        return KerasLoss(value)
    if counterpart is None or not is_built_in:
        raise InputError(
            "A compressed model supports the optimizers and metrics that tf_keras has. "
            f"Received: {name}"
        )
    return counterpart(**_settings(value, counterpart))


def _settings(value: Any, counterpart: Any) -> dict[str, Any]:
    """Return the configuration of an object in the terms of tf_keras."""
    # Keras classes pass **kwargs to their bases, so collect the parameters of all of them.
    known = {
        name for kind in counterpart.__mro__ for name in inspect.signature(kind.__init__).parameters
    }
    settings = {key: setting for key, setting in value.get_config().items() if setting is not None}
    if isinstance(settings.get("learning_rate"), dict | str):
        settings["learning_rate"] = convert_object(_schedule(settings["learning_rate"]))
    settings.pop("dtype", None)
    # None is a reduction, but the filter above removed it; tf_keras uses other names.
    if "reduction" in value.get_config():
        reduction = settings.get("reduction")
        settings["reduction"] = _REDUCTIONS.get(reduction, reduction)
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            "A compressed model supports the settings that tf_keras has. "
            f"Received: {type(value).__name__} with {', '.join(unknown)}"
        )
    return settings


def _schedule(config: Any) -> Any:
    name = config if isinstance(config, str) else config.get("class_name")
    if not hasattr(keras.optimizers.schedules, str(name)):
        raise InputError(
            f"A compressed model supports the learning-rate schedules of Keras. Received: {name}"
        )
    return keras.optimizers.schedules.deserialize(config)


def convert_callbacks(given: Any) -> Any:
    """Convert the callbacks of Keras 3 among those given, to a list."""
    if isinstance(given, load_tf_keras().callbacks.CallbackList):  # fit passes it to evaluate
        return given
    listed = given if isinstance(given, list | tuple) else [given] if given else []
    return [
        _converted(each) if isinstance(each, keras.callbacks.Callback) else each for each in listed
    ]


def _converted(callback: Any) -> Any:
    if not isinstance(callback, keras.callbacks.BackupAndRestore):
        return _adapter_class()(callback)
    # It tells `fit` of Keras 3 the epoch at which to go on, which tf_keras would not see.
    if type(callback) is not keras.callbacks.BackupAndRestore:
        raise InputError(
            "fit of a compressed model supports BackupAndRestore of Keras or of tf_keras. "
            f"Received: {type(callback).__name__}, a subclass"
        )
    return load_tf_keras().callbacks.BackupAndRestore(
        callback.backup_dir, callback.save_freq, callback.delete_checkpoint
    )


@cache
def _adapter_class() -> Any:
    """Define a tf_keras callback that forwards every call to a Keras 3 callback."""
    base: Any = load_tf_keras().callbacks.Callback

    class Adapter(base):
        def __init__(self, callback: Any) -> None:
            super().__init__()
            self._callback = callback
            for name in ("set_params", *_HOOKS):
                setattr(self, name, getattr(callback, name))

        def set_model(self, model: Any) -> None:
            # In mode "auto", a Keras 3 callback looks for the metric in `model.metrics` as a Keras
            # 3 metric. tf_keras has its own metrics, so derive the direction from the name.
            is_auto = getattr(self._callback, "mode", None) == "auto"
            if is_auto and self._callback.monitor.endswith(_HIGHER_IS_BETTER):
                self._callback.mode = "max"
            self._callback.set_model(model)

    return Adapter
