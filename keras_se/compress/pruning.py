"""Pruning of SE models by magnitude, while they train on."""

from typing import Any

import keras

from keras_se.compress.bridge import translate
from keras_se.compress.loading import load_tfmot
from keras_se.compress.origins import PRUNED, Origin
from keras_se.compress.training import trainable_model
from keras_se.compress.wrapping import check_scope, rebuilt_in_scope
from keras_se.errors import InputError

SCHEDULES = ("constant", "polynomial")


def prune(
    model: keras.Model,
    sparsity: float = 0.5,
    schedule: str = "constant",
    *,
    begin_step: int = 0,
    end_step: int | None = None,
    frequency: int = 10,
    scope: str = "all",
) -> Any:
    """A model that loses the smallest weights of each kernel while it trains on.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, as
            `to_tf_keras` takes it. It is not changed.
        sparsity: The share of each kernel that becomes zero, in [0, 1). Biases, statistics and
            depthwise kernels are left whole.
        schedule: `"constant"`: from `begin_step` on; `"polynomial"`: growing from zero, fast at
            first, until `end_step`.
        begin_step: Training step at which pruning begins.
        end_step: Step at which it ends; by default never for `"constant"`. Early stopping that
            goes back to an earlier epoch goes back to its zeros, too.
        frequency: Steps between two choices of the weights; fewer where the sparsity grows over
            less than ten of them.
        scope: `"all"` kernels, those of the `"trunk"`, or those of `"se"`.

    Returns:
        A `tf_keras.Model` to `compile` and `fit`, with the objects of Keras 3 or of tf_keras;
        `strip` makes a Keras 3 model of it.

    Raises:
        InputError: If an argument breaks its rule, or the model cannot be carried to tf_keras.
        MissingExtraError: If TensorFlow, tf_keras or tensorflow-model-optimization is missing.

    Source: Zhu and Gupta, arXiv 1710.01878; TensorFlow Model Optimization, "Weight pruning".

    Example:
        >>> from keras_se.compress import strip
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> pruned = prune(model, 0.5)
        >>> pruned.compile("sgd", "mse")
        >>> history = pruned.fit([[1.0, 2.0, 3.0]], [[0.0, 1.0]], verbose=0)
        >>> int((strip(pruned).layers[0].kernel.numpy() == 0).sum())
        3
    """
    check_scope("prune", scope)
    _check_steps(schedule, begin_step, end_step, frequency)
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise InputError(
            f"sparsity is a share of the weights, at least 0 and below 1. Received: {sparsity!r}"
        )
    planned = _planned(sparsity, begin_step, end_step, frequency, schedule == "polynomial")
    wrapped = rebuilt_in_scope(
        "prune",
        translate(model),
        scope,
        lambda layer: load_tfmot().sparsity.keras.prune_low_magnitude(layer, planned),
    )
    return trainable_model(wrapped, Origin(model, PRUNED))


def _planned(
    sparsity: float, begin_step: int, end_step: int | None, frequency: int, grows: bool
) -> Any:
    """The schedule of tfmot, which chooses at its first step and each `frequency` after it."""
    schedules = load_tfmot().sparsity.keras
    first = begin_step + 1  # it counts steps from 1, and would choose first at `frequency`
    if not grows or end_step is None:
        return schedules.ConstantSparsity(sparsity, first, end_step or -1, frequency)
    # The last choice is at the end, or the sparsity would not be reached; there are ten at least.
    between = min(frequency, max(1, (end_step - first) // 10))
    first += (end_step - first) % between
    return schedules.PolynomialDecay(0.0, sparsity, first, end_step, frequency=between)


def _check_steps(schedule: str, begin_step: int, end_step: int | None, frequency: int) -> None:
    if schedule not in SCHEDULES:
        raise InputError(f"schedule is one of {list(SCHEDULES)}. Received: schedule={schedule!r}")
    if schedule == "polynomial" and end_step is None:
        raise InputError("schedule='polynomial' needs end_step. Received: end_step=None")
    _check_step("begin_step", begin_step, 0)
    if end_step is not None:
        _check_step("end_step", end_step, begin_step + 2)
    _check_step("frequency", frequency, 1)


def _check_step(name: str, step: Any, least: int) -> None:
    if isinstance(step, bool) or not isinstance(step, int) or step < least:
        raise InputError(f"{name} is a number of steps from {least} on. Received: {step!r}")
