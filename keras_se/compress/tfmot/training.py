"""tf_keras models that accept the losses, metrics, optimizers and callbacks of Keras 3."""

import inspect
from functools import cache
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tf_keras, load_tfmot
from keras_se.errors import InputError
from keras_se.litert.compressed import PRUNED, Origin, origin_of, remember

_HIGHER_IS_BETTER = ("acc", "accuracy", "auc", "precision", "recall")
_REDUCTIONS = {None: "none", "mean": "sum_over_batch_size"}
_HOOKS = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]


def trainable_model(model: Any, origin: Origin) -> Any:
    """Return a tf_keras model for training with Keras 3 objects, and store its origin."""
    new_model = _model_class()(model.input, model.output, name=model.name)
    # Losses in a dictionary are assigned by these names.
    if not isinstance(origin.model, keras.Sequential):
        new_model.output_names = list(origin.model.output_names)
    remember(new_model, origin)
    return new_model


@cache
def _model_class() -> Any:
    """Define a subclass of `tf_keras.Model`; tf_keras is loaded on first use."""
    base: Any = load_tf_keras().Model

    class CompressedModel(base):
        """A `tf_keras.Model` that accepts objects of Keras 3 and of tf_keras."""

        def compile(self, *args: Any, **kwargs: Any) -> None:
            args, kwargs = keras.tree.map_structure(ported_object, (args, kwargs))
            super().compile(*args, **kwargs)

        def fit(self, *args: Any, **kwargs: Any) -> Any:
            # Callbacks may be positional, so bind the arguments to find them.
            arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
            if any(isinstance(a, keras.utils.PyDataset) for a in arguments.values()):
                raise InputError(
                    "A compressed model is fitted on arrays, a tf.data.Dataset or a generator. "
                    "Received: a keras.utils.PyDataset"
                )
            arguments["callbacks"] = self._callbacks(arguments.get("callbacks"))
            return super().fit(**arguments)

        def evaluate(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
            return super().evaluate(*args, callbacks=_ported_callbacks(callbacks), **kwargs)

        def predict(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
            return super().predict(*args, callbacks=_ported_callbacks(callbacks), **kwargs)

        def _callbacks(self, given: Any) -> list[Any]:
            origin = origin_of(self)
            is_pruned = origin is not None and origin.technique == PRUNED
            # Without this callback, tfmot refuses to train a pruned model.
            own = [load_tfmot().sparsity.keras.UpdatePruningStep()] if is_pruned else []
            return [*own, *_ported_callbacks(given)]

    return CompressedModel


def ported_object(value: Any) -> Any:
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
            "A compressed model is trained with optimizers and metrics that tf_keras has. "
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
        settings["learning_rate"] = ported_object(_schedule(settings["learning_rate"]))
    settings.pop("dtype", None)
    # None is a reduction, but the filter above removed it; tf_keras uses other names.
    if "reduction" in value.get_config():
        settings["reduction"] = _REDUCTIONS.get(
            settings.get("reduction"), settings.get("reduction")
        )
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            "A compressed model is trained with settings that tf_keras has. "
            f"Received: {type(value).__name__} with {', '.join(unknown)}"
        )
    return settings


def _schedule(config: Any) -> Any:
    name = config if isinstance(config, str) else config.get("class_name")
    if not hasattr(keras.optimizers.schedules, str(name)):
        raise InputError(
            "A compressed model is trained with schedules of the learning rate that Keras has. "
            f"Received: {name}"
        )
    return keras.optimizers.schedules.deserialize(config)


def _ported_callbacks(given: Any) -> Any:
    if isinstance(given, load_tf_keras().callbacks.CallbackList):  # fit passes it to evaluate
        return given
    listed = given if isinstance(given, list | tuple) else [given] if given else []
    return [_ported_callback(callback) for callback in listed]


def _ported_callback(callback: Any) -> Any:
    is_of_keras = isinstance(callback, keras.callbacks.Callback)
    return _adapter_class()(callback) if is_of_keras else callback


def _settle_mode(callback: Any) -> None:
    """Set the direction of a monitored accuracy-like metric."""
    # In mode "auto", a Keras 3 callback looks for the metric in `model.metrics` as a Keras 3
    # metric. tf_keras has its own metrics, so derive the direction from the name.
    is_open = getattr(callback, "mode", None) == "auto"
    if is_open and callback.monitor.endswith(_HIGHER_IS_BETTER):
        callback.mode = "max"


@cache
def _adapter_class() -> Any:
    """Define a tf_keras callback that forwards every call to a Keras 3 callback."""
    base: Any = load_tf_keras().callbacks.Callback

    class Adapter(base):
        def __init__(self, callback: Any) -> None:
            super().__init__()
            self.callback = callback

        def set_params(self, params: Any) -> None:
            self.callback.set_params(params)

        def set_model(self, model: Any) -> None:
            _settle_mode(self.callback)
            self.callback.set_model(model)

    def handed_on(hook: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(self.callback, hook)(*args, **kwargs)

        return method

    for hook in _HOOKS:
        setattr(Adapter, hook, handed_on(hook))
    return Adapter
