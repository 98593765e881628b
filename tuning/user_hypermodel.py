"""A user's own `build(hp)` as a hypermodel."""

from collections.abc import Callable
from typing import Any

import keras

from keras_se.errors import InputError, import_extra

keras_tuner: Any = import_extra("keras_tuner", "tuning")


class UserHyperModel(keras_tuner.HyperModel):
    """A `HyperModel` of a function of hyperparameters, compiled where it leaves that open.

    Args:
        builder: Called as `builder(hp)`; returns a model. `SESpace.block` gives it SE blocks.
        compile: Function that compiles the model given to it; `None` if the builder does.

    Example:
        >>> def build(hp):
        ...     units = hp.Choice("units", [2, 4])
        ...     return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
        >>> hypermodel = UserHyperModel(build, lambda model: model.compile(loss="mse"))
        >>> hypermodel.build(keras_tuner.HyperParameters()).output_shape
        (None, 2)
    """

    def __init__(
        self,
        builder: Callable[[Any], keras.Model],
        compile: Callable[[keras.Model], Any] | None = None,
    ) -> None:
        super().__init__()
        self.builder = builder
        self.compile = compile

    def build(self, hp: Any) -> keras.Model:
        """The model of some hyperparameters, compiled.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A compiled model.

        Raises:
            InputError: If the builder returns no model, or one that nothing compiles.
        """
        model = self.builder(hp)
        if not isinstance(model, keras.Model):
            raise InputError(
                f"A builder must return a keras.Model. Received: {type(model).__qualname__}"
            )
        if self.compile is not None:
            self.compile(model)
        if not model.compiled:
            raise InputError(
                "A model of a search must be compiled: by its builder, or by compile. "
                f"Received: model {model.name!r}, which is not"
            )
        return model
