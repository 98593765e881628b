"""The tf_keras class of the models that `quantize_aware`, `prune` and `cluster` return.

Importing this module loads tf_keras, and registers with it what a saved model names.
"""

import inspect
import json
import os
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

import keras_se.compress.tfmot.batch_normalization  # noqa: F401  registers a layer
from keras_se.compress.tfmot.bridge.environment import load_tf_keras, load_tfmot
from keras_se.compress.tfmot.bridge.factory import LayerWeights
from keras_se.compress.tfmot.quantizers import saved
from keras_se.compress.tfmot.training import convert_callbacks, convert_object
from keras_se.errors import InputError, keras_errors
from keras_se.graph.compressed import (
    PRUNED,
    RECORD,
    Compression,
    compression_of,
    record_compression,
)
from keras_se.graph.models import sublayers

_tf_keras = load_tf_keras()
_tfmot = load_tfmot()
_base: Any = _tf_keras.Model
_CHECKPOINTS = (keras.callbacks.ModelCheckpoint, _tf_keras.callbacks.ModelCheckpoint)


def trainable_model(
    model: Any, technique: str, original: keras.Model, held: Iterable[LayerWeights]
) -> Any:
    """Return a tf_keras model that trains with Keras 3 objects, and record its compression.

    `held` are the weights of the original that the model holds.
    """
    ids = {id(variable) for weights in held for variable in weights.variables}
    constants = tuple(n for n, weight in enumerate(original.weights) if id(weight) not in ids)
    new_model = CompressedModel(model.input, model.output, name=model.name)
    return _recorded(new_model, Compression(original, technique, constants))


def _recorded(model: Any, compression: Compression) -> Any:
    # Losses in a dictionary are assigned by these names.
    if not isinstance(compression.model, keras.Sequential):
        model.output_names = list(compression.model.output_names)
    for layer in model.layers:
        _keep_masks(layer)
    record_compression(model, compression)
    return model


def _keep_masks(layer: Any) -> None:
    """Make weights of what tfmot clusters a sparse kernel by, which a file would lack."""
    for name in ("sparsity_masks", "zero_idx"):
        for kernel, value in getattr(layer, name, {}).items():
            getattr(layer, name)[kernel] = saved(layer, f"{name}_{kernel}", value)


@_tf_keras.saving.register_keras_serializable(package="keras_se")
class CompressedModel(_base):
    """A `tf_keras.Model` that accepts objects of Keras 3 and of tf_keras.

    Its `.keras` file holds what it was made from: `keras_se.compress.load` restores all of it.
    """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile with optimizers, losses and metrics of both libraries."""
        args, kwargs = keras.tree.map_structure(convert_object, (args, kwargs))
        super().compile(*args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train with callbacks of both libraries; refuse checkpoints that could not be written."""
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
        own = [_tfmot.sparsity.keras.UpdatePruningStep()] if is_pruned else []
        given = keras.tree.flatten(arguments.get("callbacks"))
        for callback in given:
            if isinstance(callback, _CHECKPOINTS) and not callback.save_weights_only:
                self._check_saving(callback.filepath)
        arguments["callbacks"] = [*own, *convert_callbacks(arguments.get("callbacks"))]
        return super().fit(**arguments)

    def evaluate(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        """Evaluate with callbacks of both libraries."""
        return super().evaluate(*args, callbacks=convert_callbacks(callbacks), **kwargs)

    def predict(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        """Predict with callbacks of both libraries."""
        return super().predict(*args, callbacks=convert_callbacks(callbacks), **kwargs)

    def save(
        self, filepath: Any, overwrite: bool = True, save_format: Any = None, **kwargs: Any
    ) -> None:
        """Save the whole model in a `.keras` file of tf_keras."""
        self._check_saving(filepath, save_format)
        super().save(filepath, overwrite, **kwargs)

    def _check_saving(self, filepath: Any, save_format: Any = None) -> None:
        """Raise `InputError` if the model cannot be saved there, or could not be loaded again."""
        if save_format not in (None, "keras") or not os.fspath(filepath).endswith(".keras"):
            raise InputError(
                "A compressed model is saved whole in a file NAME.keras, which "
                "keras_se.compress.load opens, or by save_weights in NAME.weights.h5; export "
                f"writes a SavedModel for inference. Received: {filepath!r}"
            )
        rule = (
            "A compressed model is saved with all that it was made and compiled from: register "
            "what is your own, or save its weights only"
        )
        with keras_errors(rule, f"model {self.name!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a lambda, which is refused below
            content = _tf_keras.saving.serialize_keras_object(self)
            text = json.dumps(content)
        if '"__lambda__"' in text:
            is_layer = '"__lambda__"' in json.dumps(content["config"])
            received = "with a lambda among its layers" if is_layer else "compiled with a lambda"
            raise InputError(
                "A compressed model that is saved needs layers, losses and metrics with a name: "
                "replace a lambda by a registered function or layer, or save its weights only. "
                f"Received: model {self.name!r}, {received}"
            )

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the record of the compression."""
        config = super().get_config()
        compression = compression_of(self)
        if compression is not None:
            config[RECORD] = _record(compression)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Make a model without its weights, and record its compression."""
        config = dict(config)
        record = config.pop(RECORD, None)
        # tf_keras finds the layers of tfmot in these scopes only.
        with _tfmot.sparsity.keras.prune_scope(), _tfmot.clustering.keras.cluster_scope():
            model = super().from_config(config, custom_objects)
        return model if record is None else _recorded(model, _compression(record))

    # tf_keras does not compile a loaded model whose class has its own `compile`.
    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as the saved model was."""
        super().compile(**_tf_keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)


def _record(compression: Compression) -> dict[str, Any]:
    original = keras.saving.serialize_keras_object(compression.model)
    weights = compression.model.weights
    return {
        "technique": compression.technique,
        # How the original was compiled has no use here.
        "model": {key: value for key, value in original.items() if key != "compile_config"},
        "constants": {str(n): weights[n].numpy().tolist() for n in compression.constants},
    }


def _compression(record: dict[str, Any]) -> Compression:
    # Safe mode is the default.
    original = keras.saving.deserialize_keras_object(record["model"])
    constants = {int(n): values for n, values in record["constants"].items()}
    for n, values in constants.items():
        original.weights[n].assign(np.asarray(values, original.weights[n].dtype))
    for layer in sublayers(original):
        # Normalization derives its mean and variance from the assigned weights only here.
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return Compression(original, record["technique"], tuple(constants))
