"""Any model as a model to search: SE blocks are inserted as the hyperparameters say."""

from collections.abc import Callable
from typing import Any

import keras

from keras_se.errors import InputError, import_extra
from keras_se.placements import candidates
from keras_se.surgery import insert
from tuning.space import SESpace

keras_tuner: Any = import_extra("keras_tuner", "tuning")


class SEHyperModel(keras_tuner.HyperModel):
    """A `HyperModel` that inserts SE blocks into a base model, one setting for all sites.

    Args:
        model_or_builder: A built model without SE blocks, or a function without arguments that
            returns one.
        space: What may be chosen.
        compile: Function that compiles the model given to it.

    Example:
        >>> base = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3)])
        >>> compile = lambda model: model.compile(loss="mse")
        >>> hypermodel = SEHyperModel(base, SESpace(ratios=(2, 4)), compile)
        >>> hypermodel.build(keras_tuner.HyperParameters()).layers[1].ratio
        2
    """

    def __init__(
        self,
        model_or_builder: keras.Model | Callable[[], keras.Model],
        space: SESpace,
        compile: Callable[[keras.Model], Any],
    ) -> None:
        super().__init__()
        self.model_or_builder = model_or_builder
        self.space = space
        self.compile = compile

    def build(self, hp: Any) -> keras.Model:
        """The base model with SE blocks, compiled.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A compiled model.
        """
        model, _ = self._inserted(hp)
        self.compile(model)
        return model

    def base(self) -> keras.Model:
        """The model without SE blocks: the one that was given, or a new one from its builder."""
        if isinstance(self.model_or_builder, keras.Model):
            return self.model_or_builder
        return self.model_or_builder()

    def plan(self, hp: Any) -> dict[str, dict[str, Any]]:
        """The settings per site, in the form that `insert` takes as `plan`.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            `{"se_1": {"ratio": ..., "gate": ...}, ...}`.
        """
        _, settings = self._inserted(hp)
        return {place.name: settings for place in candidates(self.base())}

    def _inserted(self, hp: Any) -> tuple[keras.Model, dict[str, Any]]:
        """The model with its blocks, and their settings.

        Every candidate starts from the function of the base model; where the gate does not let
        that be, from random gates, and the settings say so.
        """
        base, settings = self.base(), self.space.settings(hp)
        try:
            return insert(base, **settings), settings
        except InputError:
            settings = {**settings, "identity_init": False}
            return insert(base, **settings), settings
