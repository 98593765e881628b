"""What `HyperModel.fit` may return, as for keras-tuner: a score, metrics, or how they went."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from tuning.choice.scores import as_loss
from tuning.trials.best_epoch import BestEpoch
from tuning.trials.metric_names import plain_logs


def score_of(returned: Any, watch: BestEpoch) -> float:
    """Returns the score of a trial, and leaves the logs that go with it in `watch`.

    That is the best epoch's where the callbacks were used; else that of what `fit` returned: a
    number, metrics by name, a `History`, or a list of these, of which the mean counts.
    """
    if watch.names and (returned is None or isinstance(returned, keras.callbacks.History)):
        return watch.outcome()
    results = returned if isinstance(returned, list | tuple) and len(returned) else [returned]
    found = [_logs(result, watch) for result in results]
    names = [name for name in found[0] if all(name in logs for logs in found)]
    watch.logs = {name: float(np.mean([logs[name] for logs in found])) for name in names}
    watch.names, watch.score = set(watch.logs), watch.logs.get(watch.metric)
    losses = (watch.logs.get(name, 0.0) for name in (watch.metric, "loss", "val_loss"))
    if not all(map(math.isfinite, losses)):
        watch.score = None
    return watch.outcome()


def _logs(result: Any, watch: BestEpoch) -> dict[str, float]:
    if isinstance(result, Mapping):
        return plain_logs(result, watch.metric)
    if isinstance(result, keras.callbacks.History):
        names = result.history
        epochs = [
            plain_logs(dict(zip(names, values, strict=True)), watch.metric)
            for values in zip(*names.values(), strict=False)
        ]
        return min(epochs, key=lambda logs: _loss(logs, watch), default={})
    if isinstance(result, numbers.Real) and not isinstance(result, bool):
        return {watch.metric: float(result)}
    raise InputError(
        "HyperModel.fit must return a History, a number, a dictionary with the metric, or a list "
        f"of these. Received: {type(result).__qualname__}"
    )


def _loss(logs: Mapping[str, float], watch: BestEpoch) -> float:
    loss = as_loss(logs.get(watch.metric, math.inf), watch.direction)
    return loss if math.isfinite(loss) else math.inf
