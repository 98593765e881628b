"""A user's own `build(hp)` function as a hypermodel."""

from collections.abc import Callable
from typing import Any

import keras

from keras_se.errors import InputError, import_extra

keras_tuner: Any = import_extra("keras_tuner", "tuning")


class UserHyperModel(keras_tuner.HyperModel):
    """Wraps a function of hyperparameters as a `HyperModel` and compiles its model."""

    def __init__(
        self,
        builder: Callable[[Any], keras.Model],
        compile: Callable[[keras.Model], Any] | None = None,
    ) -> None:
        super().__init__()
        self.builder = builder
        self.compile = compile

    def build(self, hp: Any) -> keras.Model:
        """Builds the compiled model for the given hyperparameters."""
        model = self.builder(hp)
        if not isinstance(model, keras.Model):
            raise InputError(
                f"A builder must return a keras.Model. Received: {type(model).__qualname__}"
            )
        if self.compile is not None:
            self.compile(model)
        # Checked after `compile`, which may be a function that forgets to compile.
        if not model.compiled:
            raise InputError(
                "A model of a search must be compiled: by its builder, or by compile. "
                f"Received: model {model.name!r}, which is not"
            )
        return model
