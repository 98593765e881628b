"""Magnitude pruning of SE models during training."""

from typing import Any, Literal, get_args

import keras

from keras_se.compress.tfmot.bridge.environment import load_tfmot
from keras_se.compress.tfmot.scopes import Scope, compress_in_scope
from keras_se.errors import InputError
from keras_se.graph.compressed import PRUNED

Schedule = Literal["constant", "polynomial"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


def prune(
    model: keras.Model,
    sparsity: float = 0.5,
    schedule: Schedule = "constant",
    *,
    begin_step: int = 0,
    end_step: int | None = None,
    frequency: int = 10,
    scope: Scope = "all",
) -> Any:
    """Wraps a model so that training sets the smallest weights of each kernel to zero.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, that
            `to_tf_keras` accepts. The function does not change it. Of one that computes in half
            precision, such as `mixed_float16`, the float32 twin is trained.
        sparsity: The share of each kernel that becomes zero, in [0, 1). Biases, statistics and
            depthwise kernels are not pruned.
        schedule: `"constant"`: full sparsity from `begin_step` on. `"polynomial"`: sparsity grows
            from zero, fast at first, until `end_step`.
        begin_step: Training step at which pruning begins.
        end_step: Training step at which pruning ends; with `"constant"` it never ends by default.
            Early stopping that restores an earlier epoch restores the zeros of that epoch, too.
        frequency: Number of steps between two updates of the pruned weights. A polynomial schedule
            uses fewer steps if it would have less than ten updates.
        scope: Which kernels to prune: `"all"`, those of the `"trunk"`, or those of `"se"`.

    Returns:
        A `tf_keras.Model` to `compile` and `fit`, with objects of Keras 3 or of tf_keras. `strip`
        converts it to a Keras 3 model.

    Raises:
        InputError: If an argument is invalid, or the model cannot be converted to tf_keras.
        MissingExtraError: If TensorFlow, tf_keras or tensorflow-model-optimization is missing.

    Warns:
        UserWarning: If kernels in the scope have `trainable=False`, which stay as they are.
        PrecisionWarning: If the model computes in half precision.

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
    _check_steps(schedule, begin_step, end_step, frequency)
    # bool is a subclass of int: False would pass as a sparsity of 0.
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise InputError(
            f"sparsity must be at least 0 and below 1. Received: sparsity={sparsity!r}"
        )
    steps = _tfmot_schedule(sparsity, begin_step, end_step, frequency, schedule == "polynomial")
    return compress_in_scope(
        PRUNED,
        model,
        scope,
        lambda layer: load_tfmot().sparsity.keras.prune_low_magnitude(layer, steps),
    )


def _tfmot_schedule(
    sparsity: float, begin_step: int, end_step: int | None, frequency: int, grows: bool
) -> Any:
    """Return a tfmot schedule that updates at its first step and every `frequency` steps."""
    schedules = load_tfmot().sparsity.keras
    # tfmot counts steps from 1. Starting at 0 would delay the first update to step `frequency`.
    first = begin_step + 1
    if not grows or end_step is None:
        return schedules.ConstantSparsity(sparsity, first, end_step or -1, frequency)
    # The last update must fall on end_step, or the sparsity stays below its target. Aim at ten
    # updates or more.
    between = min(frequency, max(1, (end_step - first) // 10))
    first += (end_step - first) % between
    return schedules.PolynomialDecay(0.0, sparsity, first, end_step, frequency=between)


def _check_steps(schedule: str, begin_step: int, end_step: int | None, frequency: int) -> None:
    if schedule not in SCHEDULES:
        raise InputError(
            f"schedule must be one of {list(SCHEDULES)}. Received: schedule={schedule!r}"
        )
    if schedule == "polynomial" and end_step is None:
        raise InputError("schedule='polynomial' needs end_step. Received: end_step=None")
    _check_step("begin_step", begin_step, 0)
    if end_step is not None:
        # PolynomialDecay divides by end_step - (begin_step + 1).
        _check_step("end_step", end_step, begin_step + 2)
    _check_step("frequency", frequency, 1)


def _check_step(name: str, step: Any, least: int) -> None:
    if isinstance(step, bool) or not isinstance(step, int) or step < least:
        raise InputError(
            f"{name} must be an integer of at least {least}. Received: {name}={step!r}"
        )
