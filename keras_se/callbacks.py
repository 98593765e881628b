"""Callbacks of `Model.fit` that look at gates."""

from functools import partial
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.reading import find_sites, read_gates
from keras_se.sites.reading import gate_reader
from keras_se.sites.statistics import GateStatistics, gate_statistics


class GateHistory(keras.callbacks.Callback):
    """Logs how the gates of each SE site behave on fixed samples, epoch by epoch.

    For each site the logs of an epoch get `"SITE/mean"`, `"SITE/spread"` and `"SITE/suppressed"`:
    they are in the `History` of `fit`, other callbacks can monitor them, and `TensorBoard` and
    `CSVLogger` write them if they come after this one. A spread that falls to 0 shows gates that
    stop adapting while the loss still falls.

    Args:
        x: Inputs as for `read_gates`, of shape (samples, *input shape); some hundred samples that
            are not trained on. They are read again after each epoch.
        every: Number of epochs from one reading to the next.
        tau: A channel counts as suppressed if its mean gate is below it.

    Attributes:
        statistics: For each reading, the `GateStatistics` by site.

    Raises:
        InputError: If the model has no SE site, or an argument is invalid.

    Source: Hu et al., arXiv 1709.01507v4, section 7.2, for the statistics.

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2), keras.layers.Flatten()])
        >>> model.compile("sgd", "mse")
        >>> x = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype("float32")
        >>> history = model.fit(x, x.reshape(16, -1), callbacks=[GateHistory(x)], verbose=0)
        >>> sorted(history.history)
        ['loss', 'se_1/mean', 'se_1/spread', 'se_1/suppressed']
    """

    def __init__(self, x: Any, *, every: int = 1, tau: float = 0.2) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every must be an integer of at least 1. Received: every={every!r}")
        super().__init__()
        self._x, self._every, self._tau = x, every, tau
        self.statistics: list[dict[str, GateStatistics]] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Finds the sites of the model."""
        self._sites = find_sites(self.model)
        if not self._sites:
            raise InputError(
                "GateHistory needs a model with SE sites. "
                f"Received: model {self.model.name!r} without"
            )
        self.statistics = []
        # Built once, for a Keras model: TensorFlow would trace another one each time.
        plain = isinstance(self.model, keras.Model)
        self._read = gate_reader(self.model) if plain else partial(read_gates, self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reads the gates and adds their statistics to the logs of the epoch."""
        if (epoch + 1) % self._every:
            return
        gates = self._read(self._x, 32)
        found = {
            site.name: gate_statistics(site, np.asarray(gates[site.name]), tau=self._tau)
            for site in self._sites
        }
        self.statistics.append(found)
        for name, figures in found.items():
            for key in ("mean", "spread", "suppressed"):
                if logs is not None:
                    logs[f"{name}/{key}"] = float(getattr(figures, key))
