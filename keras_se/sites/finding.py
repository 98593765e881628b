"""Finds Squeeze-and-Excitation that is not an `SEBlock`, by what it computes.

A site is a product of a feature map with one value per channel and example, which comes from a
squeeze through one or two learned matrices over the channels. The squeeze is a statistic of each
channel over all positions, of the same map or, in a cross site, of another one. All between it and
the product is the excitation, whatever layers or raw operations it is made of.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_se.errors import reason
from keras_se.layers.se_block import DataFormat
from keras_se.sites.excitation import Excitation, GateFunction, as_tensor, depth, is_matrix, opened
from keras_se.sites.flow import Flow, Step, between, compute, starts_of
from keras_se.sites.shapes import (
    Shape,
    channel_axis,
    einsum_shape,
    has_positions,
    is_vector,
    length,
)
from keras_se.sites.site import FORMS, Form
from keras_se.sites.squeezing import (
    LAYOUTS,
    RESHAPES,
    Squeeze,
    origins,
    squeeze_of,
    squeeze_of_any,
    weights_of,
)

_MAX_STEPS = 64  # from the squeeze to the product
# They may repeat gates over the positions of a map; arithmetic does with ones or zeros.
_REPEATS = {
    *("Add", "BroadcastTo", "Multiply", "Repeat", "RepeatVector"),
    *("Resize", "Resizing", "Tile"),
    *(f"UpSampling{n}D" for n in (1, 2, 3)),
}
_TOLERANCE = 1e-5  # of values that are only repeated
_SORTS = {"Median", "Nanmedian", "Nanpercentile", "Nanquantile", "Percentile", "Quantile"}


@dataclass(frozen=True)
class InlineSE:
    """An SE site that is built from other layers and operations.

    Attributes:
        product: The step of the product.
        position: Position of the feature map among its flattened arguments.
        gate_position: Position of the gates there, as they are multiplied.
        feature: The feature map.
        axis: The axis of its channels.
        gates: The gates as a vector.
        squeezes: The squeezes, several for SE with shared matrices.
        excitation: The steps from the squeezes to the gates.
        path: The steps from the feature map to the gates; `None` if they need anything else.
        form: `"two_matrices"` or `"one_matrix"`.
        kind: `"self"`, or `"cross"` if another map is squeezed.
        gate: Name of the gate.
    """

    product: Step
    position: int
    gate_position: int
    feature: Any
    axis: int
    gates: Any
    squeezes: tuple[Squeeze, ...]
    excitation: tuple[Step, ...]
    path: tuple[Step, ...] | None
    form: Form
    kind: str
    gate: str

    @property
    def channels(self) -> int:
        """Number of gated channels."""
        return int(length(self.gates) or 0)

    @cached_property
    def matrices(self) -> list[Step]:
        """The steps with a matrix."""
        return [step for step in self.excitation if is_matrix(step)]

    @property
    def width(self) -> int:
        """Number of units after the first matrix."""
        return int(length(self.matrices[0].outputs[0]) or 0)

    @property
    def data_format(self) -> DataFormat:
        """Data format of the feature map."""
        return "channels_first" if self.axis == 1 else "channels_last"

    @property
    def squeeze(self) -> str:
        """Name of the squeeze, `"avg_max"` for both, or `"unknown"`."""
        names = {squeeze.name for squeeze in self.squeezes}
        if names == {"avg", "max"}:
            return "avg_max"
        return next(iter(names)) or "unknown" if len(names) == 1 else "unknown"

    def opened(self) -> Excitation:
        """The excitation down to raw operations."""
        return opened(self.excitation, [squeeze.vector for squeeze in self.squeezes], self.gates)


@dataclass(frozen=True)
class NearMiss:
    """A product that is almost an SE site.

    Attributes:
        product: The step of the product.
        reason: What it lacks.
    """

    product: Step
    reason: str


def find_inline(flow: Flow) -> list[InlineSE | NearMiss]:
    """Returns the inline SE sites of a model in topological order, and what is almost one."""
    found = []
    for step in flow.steps:
        if step.kind in ("Einsum", "Multiply") and flow.is_first(step):
            # Either factor may be the gate.
            pairs = itertools.permutations(step.slots, 2)
            sites = [site for pair in pairs if (site := _checked(flow, step, *pair)) is not None]
            found += sorted(sites, key=lambda site: isinstance(site, NearMiss))[:1]
    return found


def _checked(flow: Flow, product: Step, position: int, at: int) -> InlineSE | NearMiss | None:
    try:
        return _site(flow, product, position, at)
    except Exception as error:  # the layers of the model compute, and may raise anything
        return NearMiss(product, f"computing it raises: {reason(error)}")


def _site(flow: Flow, product: Step, position: int, at: int) -> InlineSE | NearMiss | None:
    feature = product.arguments[position]
    gates, axis = _factor(flow, product, position, at)
    if axis is None or _is_mixture(flow, product, axis):
        return None
    maps = origins(flow, feature)
    # On a map of one position a pooling does nothing.
    is_folded = not has_positions(tuple(feature.shape), axis)
    steps, squeezed = _traced(flow, gates, maps, is_folded)
    hidden = next((step for step in steps if _is_hidden(flow, step)), None)
    matrices = depth(steps, gates)
    # There, one matrix is only a gated linear unit.
    if hidden is None and matrices < (2 if is_folded else 1):
        return None
    squeezes = _squeezes(flow, steps, squeezed, maps, is_folded)
    if not squeezes:
        return None
    reason = _shortcoming(product, steps, matrices, squeezes, hidden)
    if reason is not None:
        return NearMiss(product, reason)
    excitation = between(flow, [squeeze.vector for squeeze in squeezes], gates) or steps
    gate = GateFunction(flow, [step for step in excitation if is_matrix(step)], gates).name()
    is_self = all(any(s.root is m for m in maps) for s in squeezes)
    # Another map may scale this one without a gate; only a known gate makes a cross site.
    if gate is None or (not is_self and gate == "unknown"):
        return None
    path = between(flow, [feature], gates)
    return InlineSE(
        product=product,
        position=position,
        gate_position=at,
        feature=feature,
        axis=axis,
        gates=gates,
        squeezes=tuple(squeezes),
        excitation=tuple(excitation),
        path=None if path is None else tuple(path),
        form=FORMS[matrices],
        kind="self" if is_self else "cross",
        gate=gate,
    )


def _factor(flow: Flow, product: Step, position: int, at: int) -> tuple[Any, int | None]:
    """A factor as a vector, and the axis of its channels in the other; `None` for no axis."""
    gates, shape = _unrepeated(flow, product.arguments[at])
    if product.kind == "Einsum":
        shape = einsum_shape(product.layer.subscripts, position, gates)
    feature = tuple(product.arguments[position].shape)
    axis = channel_axis(shape, feature, isinstance(product.layer, layers.Multiply))
    return gates, axis if is_vector(gates) and length(gates) is not None else None


def _shortcoming(
    product: Step,
    steps: Sequence[Step],
    matrices: int,
    squeezes: Sequence[Squeeze],
    hidden: Step | None,
) -> str | None:
    """Why a product is no site although a squeeze leads to its gates; `None` if it is one."""
    if hidden is not None:
        return f"keras_se cannot look into {hidden.layer.name!r}"
    if matrices > 2:
        return f"it has {matrices} matrices, where SE has one or two"
    if product.kind == "Einsum":
        return "its product is an einsum; keras_se reads x * gates"
    if any(step.kind in _REPEATS and _lengthens(step) for step in steps):
        return "groups of channels share their gates"
    if any(step.kind in _SORTS for squeeze in squeezes for step in squeeze.steps):
        return "its squeeze sorts the positions"
    return None


def _unrepeated(flow: Flow, gates: Any) -> tuple[Any, Shape]:
    """The gates before they are repeated over a map, and their shape beside it."""
    steps: list[Step] = []
    tensor, known = gates, dict[int, Any]()
    while (step := flow.producer(tensor)) is not None and step.kind in _REPEATS | RESHAPES:
        known |= {id(t): fill for t in step.inputs if (fill := flow.fill(t)) is not None}
        others = [t for t in step.inputs if id(t) not in known]
        if len(others) != 1:
            break
        (tensor,) = others
        steps.insert(0, step)
        if is_vector(tensor) and any(step.kind in _REPEATS for step in steps):
            shape = _repeated(steps, known, tensor, gates)
            return (gates, tuple(gates.shape)) if shape is None else (tensor, shape)
    return gates, tuple(gates.shape)


def _repeated(
    steps: Sequence[Step], known: Mapping[int, Any], vector: Any, gates: Any
) -> Shape | None:
    """The shape of a repeated vector beside a map; `None` if steps do more than to repeat it."""
    if length(vector) is None:
        return None
    rows = np.random.default_rng(0).normal(size=(gates.shape[0] or 2, int(length(vector) or 0)))
    given = {**known, id(vector): as_tensor(rows, vector)}
    values = keras.ops.convert_to_numpy(compute(steps, given, gates))
    axes = [n for n in range(1, values.ndim) if np.ptp(values, axis=n).max() > _TOLERANCE]
    kept = tuple(slice(None) if n in (0, *axes) else 0 for n in range(values.ndim))
    one = values[kept].reshape(len(rows), -1)
    if one.shape != rows.shape or np.abs(one - rows).max() > _TOLERANCE:
        return None
    return tuple(size if n in (0, *axes) else 1 for n, size in enumerate(gates.shape))


def _lengthens(step: Step) -> bool:
    return all(length(tensor) != length(step.outputs[0]) for tensor in step.inputs)


def _is_mixture(flow: Flow, product: Step, axis: int) -> bool:
    """Whether a product is only summed over its gates: they weigh branches, and no channels."""
    (output,) = product.outputs
    if any(output is end for end in flow.ends):
        return False
    readers = [step for step in flow.steps if any(t is output for t in step.inputs)]
    summed = [step.layer.axis or () for step in readers if step.kind == "Sum"]
    axes = [[n % len(output.shape) for n in numbers] for numbers in summed]
    return bool(readers) and axes == [[axis]] * len(readers)


def _traced(
    flow: Flow, gates: Any, maps: Sequence[Any], is_folded: bool
) -> tuple[list[Step], list[Any]]:
    """The steps between vectors that lead to the gates, and the vectors where they begin.

    These are the results of steps that take a map or a weight, such as the number of positions
    under a mask, or they are `maps` of one position. Empty if anything else is needed, such as
    another input of the model.
    """
    stops, found = set(map(id, maps if is_folded else [])), set[int]()
    squeezed: dict[int, Any] = {}
    to_visit = [gates]
    while to_visit:
        tensor = to_visit.pop()
        index = flow.producers.get(id(tensor))
        if id(tensor) in stops:
            squeezed[id(tensor)] = tensor
        elif index is None or len(found) > _MAX_STEPS or not flow.steps[index].inputs:
            return [], []
        elif _is_excitation(flow, flow.steps[index], maps):
            if index not in found:
                found.add(index)
                to_visit += flow.steps[index].inputs
        elif stops:
            return [], []
        else:
            squeezed[id(tensor)] = tensor
    return [flow.steps[index] for index in sorted(found)], list(squeezed.values())


def _is_excitation(flow: Flow, step: Step, maps: Sequence[Any]) -> bool:
    """Whether a step takes vectors alone, without weights."""
    return all(map(is_vector, step.inputs)) and not any(
        length(tensor) == 1 and id(tensor) in weights_of(flow, step, maps) for tensor in step.inputs
    )


def _is_hidden(flow: Flow, step: Step) -> bool:
    """Whether a step may have a matrix inside, which cannot be seen."""
    is_closed = any(flow.steps[index] is step for index in flow.closed)
    return is_closed and any(len(weight.shape) > 1 for weight in step.constants)


def _squeezes(
    flow: Flow, steps: Sequence[Step], squeezed: Sequence[Any], maps: Sequence[Any], is_folded: bool
) -> list[Squeeze]:
    """The squeezes that give some vectors; empty if one of them is no squeeze."""
    if is_folded:
        return [Squeeze("avg", root, (), root) for root in squeezed]
    pooled = _pooled(flow, steps, maps)
    if pooled is not None:
        return [pooled]
    found = [squeeze_of(flow, v, maps) or squeeze_of_any(flow, v, maps) for v in squeezed]
    known = [squeeze for squeeze in found if squeeze is not None]
    # If they share no input of the model, one modulates the other, as in FiLM.
    starts = starts_of(flow, maps[0])
    are_related = all(starts & starts_of(flow, squeeze.root) for squeeze in known)
    return known if len(known) == len(found) and are_related else []


def _pooled(flow: Flow, steps: Sequence[Step], maps: Sequence[Any]) -> Squeeze | None:
    """The squeeze as the first matrix reads it, such as half of the sum of two; `None` if unknown.

    What is no squeeze of its own, such as a normalization, is left to the excitation.
    """
    read = [step.inputs[0] for step in steps if is_matrix(step)]
    read = [tensor for tensor in read if not depth(steps, tensor)]
    if len(set(map(id, read))) != 1 or _is_layout(flow, read[0], steps):
        return None
    squeeze = squeeze_of(flow, read[0], maps)
    return squeeze if squeeze is not None and squeeze.name else None


def _is_layout(flow: Flow, tensor: Any, steps: Sequence[Step]) -> bool:
    """Whether a vector is the result of a squeeze, at most in another layout."""
    last = origins(flow, tensor, RESHAPES | LAYOUTS)[-1]
    return not any(flow.producer(last) is step for step in steps)
