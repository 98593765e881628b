"""tf_keras models that accept the losses, metrics, optimizers and callbacks of Keras 3."""

import inspect
from functools import cache
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tf_keras, load_tfmot
from keras_se.errors import InputError
from keras_se.graph.compressed import PRUNED, Compression, compression_of, record_compression

_HIGHER_IS_BETTER = ("acc", "accuracy", "auc", "precision", "recall")
_REDUCTIONS = {None: "none", "mean": "sum_over_batch_size"}
_HOOKS = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]


def trainable_model(model: Any, compression: Compression) -> Any:
    """Return a tf_keras model that trains with Keras 3 objects, and record its compression."""
    new_model = _model_class()(model.input, model.output, name=model.name)
    # Losses in a dictionary are assigned by these names.
    if not isinstance(compression.model, keras.Sequential):
        new_model.output_names = list(compression.model.output_names)
    record_compression(new_model, compression)
    return new_model


@cache
def _model_class() -> Any:
    """Define a subclass of `tf_keras.Model`; tf_keras is loaded on first use."""
    base: Any = load_tf_keras().Model

    class CompressedModel(base):
        """A `tf_keras.Model` that accepts objects of Keras 3 and of tf_keras."""

        def compile(self, *args: Any, **kwargs: Any) -> None:
            args, kwargs = keras.tree.map_structure(convert_object, (args, kwargs))
            super().compile(*args, **kwargs)

        def fit(self, *args: Any, **kwargs: Any) -> Any:
            # Callbacks may be positional, so bind the arguments to find them.
            arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
            if any(isinstance(a, keras.utils.PyDataset) for a in arguments.values()):
                raise InputError(
                    "fit of a compressed model supports arrays, a tf.data.Dataset or a generator. "
                    "Received: a keras.utils.PyDataset"
                )
            compression = compression_of(self)
            is_pruned = compression is not None and compression.technique == PRUNED
            # Without this callback, tfmot refuses to train a pruned model.
            own = [load_tfmot().sparsity.keras.UpdatePruningStep()] if is_pruned else []
            arguments["callbacks"] = [*own, *_converted_callbacks(arguments.get("callbacks"))]
            return super().fit(**arguments)

        def evaluate(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
            return super().evaluate(*args, callbacks=_converted_callbacks(callbacks), **kwargs)

        def predict(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
            return super().predict(*args, callbacks=_converted_callbacks(callbacks), **kwargs)

    return CompressedModel


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
        return lambda *args: value(*args)
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


def _converted_callbacks(given: Any) -> Any:
    if isinstance(given, load_tf_keras().callbacks.CallbackList):  # fit passes it to evaluate
        return given
    listed = given if isinstance(given, list | tuple) else [given] if given else []
    of_keras, adapter = keras.callbacks.Callback, _adapter_class()
    return [adapter(each) if isinstance(each, of_keras) else each for each in listed]


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
