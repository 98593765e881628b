"""The two matrices of an inline excitation, however it is written: W1, b1, W2, b2 by its values."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.layers.gates import GATES
from keras_se.layers.squeezes import SQUEEZES
from keras_se.sites.excitation import Excitation, as_rows, as_tensor, is_matrix
from keras_se.sites.finding import InlineSE
from keras_se.sites.flow import Step, compute, is_array
from keras_se.sites.shapes import length

_ACTIVATIONS = (
    *("linear", "relu", "silu", "gelu", "elu", "leaky_relu", "hard_silu", "relu6", "tanh"),
    *("sigmoid", "hard_sigmoid", "softplus", "mish", "selu"),
)
_GRID = np.linspace(-8.0, 8.0, 161, dtype="float32")
_TOLERANCE = 1e-5  # of an activation or a gate
_TOLERANCES = {"float16": 0.01, "bfloat16": 0.05}  # for rounding near the end of the grid, 8
_MAX_DIFFERENCE = 1e-6  # of the gates, over the largest


@dataclass(frozen=True)
class Matrices:
    """An excitation gate(W2·activation(W1·g + b1) + b2).

    Attributes:
        weights: W1, b1, W2, b2 as (inputs, outputs) matrices, with `None` for a missing bias.
        activation: Name of the activation.
        gate: Name of the gate.
    """

    weights: tuple[Any, ...]
    activation: str
    gate: str


def matrices_of(site: InlineSE) -> Matrices | str:
    """The matrices of a site, or the reason why an `SEBlock` cannot have them."""
    if site.kind != "self":
        return "it squeezes another map than it gates"
    if site.form != "two_matrices":
        return "it has one matrix, and an SEBlock has two"
    if site.gate not in GATES:
        return "its gate is none that SEBlock knows"
    if len(site.squeezes) > 1:
        return "it has several squeezes"
    if site.squeezes[0].name not in SQUEEZES:
        return "its squeeze is none that SEBlock knows"
    if site.product.kind == "Multiply" and len(site.product.inputs) > 2:
        return "its product has more than two factors"
    return _Reading(site.opened(), site.gate).found()


class _Reading:
    """Splits an excitation at the tensors that all its paths go through."""

    def __init__(self, excitation: Excitation, gate: str) -> None:
        self._steps = excitation.flow.steps
        self._exact = [_in_float64(step) for step in self._steps]
        self._gate = gate
        self._cuts = list(_cuts(excitation))  # number of steps before, and tensor
        dtype = excitation.inputs[0].dtype
        self._tolerance = _TOLERANCES.get(dtype, _TOLERANCE)

    def found(self) -> Matrices | str:
        """The matrices, or the reason why there are none."""
        numbers = [n for n, step in enumerate(self._steps) if is_matrix(step)]
        if len(numbers) != 2:
            return "its matrices cannot be told apart"
        after_first, after_second = (self._after(number) for number in numbers)
        # The activation is between the two matrices, the gate after the second.
        inner = range(after_first, self._after(numbers[1] - 1, is_last=True) + 1)
        starts = (start for start in inner if self._is_affine(0, start))
        for start in starts:
            for end in inner[start - after_first :]:
                activation = self._activation(start, end)
                if activation is not None:
                    found = self._with_gate(start, activation, end, after_second)
                    if found is not None:
                        return found
        return "it is not two affine maps with a known activation and gate"

    def _after(self, number: int, is_last: bool = False) -> int:
        """The first cut after a step, or the last cut before the next one."""
        cuts = [at for at, (done, _) in enumerate(self._cuts) if done > number]
        if is_last:
            return max(at for at, (done, _) in enumerate(self._cuts) if done <= number + 1)
        return cuts[0]

    def _with_gate(self, start: int, activation: str, end: int, first: int) -> Matrices | None:
        for at in range(first, len(self._cuts)):
            line = self._gate_line(at) if self._is_affine(end, at) else None
            if line is not None:
                scale, offset = line
                w1, b1 = self._affine(0, start)
                w2, b2 = self._affine(end, at)
                weights = (w1, b1, scale * w2, scale * b2 + offset)
                return self._checked(Matrices(weights, activation, self._gate))
        return None

    def _checked(self, found: Matrices) -> Matrices | None:
        """The matrices if they compute the gates; a bias is dropped if the excitation has none."""
        w1, b1, w2, b2 = (part.astype("float32") for part in found.weights)
        size = w1.shape[0]
        rows = np.random.default_rng(0).normal(size=(16, size))
        expected = self._exact_run(0, len(self._cuts) - 1, rows)
        hidden = keras.activations.get(found.activation)(
            keras.ops.convert_to_tensor((rows @ w1 + b1).astype("float32"))
        )
        given = GATES[found.gate].function(
            keras.ops.convert_to_tensor(
                (keras.ops.convert_to_numpy(hidden).astype("float64") @ w2 + b2).astype("float32")
            )
        )
        difference = np.abs(as_rows(given) - expected).max()
        limit = max(_MAX_DIFFERENCE, self._tolerance if self._tolerance > _TOLERANCE else 0.0)
        if not difference <= limit * max(1.0, float(np.abs(expected).max())):
            return None
        has_bias = any(map(_adds_vector, self._steps))
        biases = (b1, b2) if has_bias else (None, None)
        return Matrices((w1, biases[0], w2, biases[1]), found.activation, found.gate)

    def _run(self, start: int, end: int, rows: np.ndarray, dtype: str | None = None) -> np.ndarray:
        """The values at one cut for rows of values at another."""
        (before, source), (after, target) = self._cuts[start], self._cuts[end]
        given = {id(source): as_tensor(rows, source, dtype)}
        steps = self._steps if dtype is None else self._exact
        return as_rows(compute(steps[before:after], given, target))

    def _size(self, at: int) -> int:
        return int(length(self._cuts[at][1]) or 0)

    def _is_affine(self, start: int, end: int) -> bool:
        u, v = np.random.default_rng(0).normal(size=(2, self._size(start)))
        zero, one, other, both, minus = self._run(
            start, end, np.stack([np.zeros_like(u), u, v, u + v, -u])
        )
        limit = max(1e-4, self._tolerance) * max(1.0, float(np.abs([one, other, both]).max()))
        errors = (one + other - zero - both, one + minus - 2.0 * zero)
        return bool(np.abs(errors).max() <= limit)

    def _affine(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The matrix and the bias between two cuts, to the precision of float64 where it can be."""
        rows = np.concatenate([np.zeros((1, self._size(start))), np.eye(self._size(start))])
        values = self._exact_run(start, end, rows)
        return values[1:] - values[0], values[0]

    def _exact_run(self, start: int, end: int, rows: np.ndarray) -> np.ndarray:
        try:
            return self._run(start, end, rows, "float64")
        except Exception:  # not each operation of each backend takes float64
            return self._run(start, end, rows)

    def _activation(self, start: int, end: int) -> str | None:
        """The name of the activation between two cuts, `"linear"` for none."""
        if start == end:
            return "linear"
        rows, values = self._on_grid(start, end)
        if rows.shape != values.shape:
            return None
        for name in _ACTIVATIONS:
            expected = as_rows(keras.activations.get(name)(keras.ops.convert_to_tensor(rows)))
            if np.abs(expected - values).max() <= self._tolerance:
                return name
        return None

    def _gate_line(self, at: int) -> tuple[float, float] | None:
        """Scale and offset of the input of the gate from a cut on; `None` if it is another one."""
        gate, last = GATES[self._gate], len(self._cuts) - 1
        rows, values = self._on_grid(at, last)
        if rows.shape != values.shape:
            return None

        def is_gate(inputs: np.ndarray) -> bool:
            expected = as_rows(gate.function(keras.ops.convert_to_tensor(inputs)))
            return bool(np.abs(expected - values).max() <= self._tolerance)

        if is_gate(rows):
            return 1.0, 0.0
        low, high = gate.low + 0.02, min(gate.high, gate.low + 4.0) - 0.02
        inside = (values > low) & (values < high)
        if gate.inverse is None or gate.name == "softmax" or inside.sum() < 3:
            return None
        scale, offset = np.polyfit(rows[inside], gate.inverse(values[inside]), 1)
        is_same = is_gate((scale * rows + offset).astype(rows.dtype))
        return (float(scale), float(offset)) if is_same else None

    def _on_grid(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Values at one cut, in another order for each channel, and what they give at another."""
        rng, size = np.random.default_rng(0), self._size(start)
        grid = np.repeat(_GRID[:, None], size, axis=1)
        rows = rng.permuted(grid, axis=0)
        return rows, self._run(start, end, rows)


def _cuts(excitation: Excitation) -> Iterator[tuple[int, Any]]:
    """Yields the tensors that all paths to the gates go through, and the number of steps before."""
    steps, gates = excitation.flow.steps, excitation.gates
    last_use = {id(t): n for n, step in enumerate(steps) for t in step.inputs}
    last_use[id(gates)] = len(steps)
    alive = {id(t): t for t in excitation.inputs}
    for n in range(len(steps) + 1):
        alive = {key: t for key, t in alive.items() if last_use.get(key, -1) >= n}
        if len(alive) == 1:
            yield n, next(iter(alive.values()))
        if n < len(steps):
            alive |= {id(t): t for t in steps[n].outputs}


def _in_float64(step: Step) -> Step:
    """A step whose constants are in float64: some operations do not take another precision."""

    def exact(part: Any) -> Any:
        if not is_array(part) or "float" not in keras.backend.standardize_dtype(part.dtype):
            return part
        return keras.ops.cast(part, "float64")

    args, kwargs = keras.tree.map_structure(exact, (step.args, step.kwargs))
    return dataclasses.replace(step, args=args, kwargs=kwargs)


def _adds_vector(step: Step) -> bool:
    """Whether a step may add a bias, not just a number as in hard_sigmoid."""
    is_sum = step.kind in ("Add", "BatchNorm", "LayerNorm", "Subtract")
    return is_sum and any(len(constant.shape) > 0 for constant in step.constants)
