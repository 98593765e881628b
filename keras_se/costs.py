"""Counts the parameters and floating-point operations of SE, per site and for the model.

Counts are for one example at inference. A multiply-accumulate is two operations; biases are left
out, as is common. Layers that only move data count 0; unknown layers are listed by name.

Source: Hu et al., arXiv 1709.01507v4, section 4, whose "GFLOPs" are multiply-accumulates.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from keras_se.display.shown import Shown
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part, listed
from keras_se.errors import InputError
from keras_se.graph.inputs import checked_shape, computable
from keras_se.graph.models import check_graph
from keras_se.graph.replay import outlined
from keras_se.graph.trace import trace
from keras_se.graph.visits import Place, Visit, walk
from keras_se.sites.finding import InlineSE
from keras_se.sites.gated import GatedSite, search
from keras_se.sites.site import Site

_Shape = tuple[int, ...]


@dataclass(frozen=True)
class SiteCost:
    """The cost of SE at one site.

    Attributes:
        name: Ordinal name of the site, as in `find_sites`.
        channels: C.
        width: Number of units of the bottleneck.
        parameters: Number of weights of the excitation; 0 at the second call of shared layers.
        flops: Floating-point operations: 2·C·H·W for squeeze and product, 4·C·width for two
            matrices (`shift` adds 2·C·width and C·H·W).
        macs: Multiply-accumulates of the matrices.
        parameter_share: `parameters` divided by those of the model.
        flop_share: `flops` divided by those of the model.
    """

    name: str
    channels: int
    width: int
    parameters: int
    flops: int
    macs: int
    parameter_share: float = 0.0
    flop_share: float = 0.0


@dataclass(frozen=True)
class CostReport(Shown):
    """The cost of a model and of its SE, for one example.

    Attributes:
        sites: One `SiteCost` per SE site.
        parameters: Number of parameters of the model.
        flops: Floating-point operations of all counted layers.
        macs: Multiply-accumulates of convolutions and fully connected layers.
        uncounted: Names of layers whose operations are unknown and not in `flops`.
    """

    sites: tuple[SiteCost, ...]
    parameters: int
    flops: int
    macs: int
    uncounted: tuple[str, ...]

    derived: ClassVar[tuple[str, ...]] = (
        "se_parameters",
        "se_flops",
        "se_macs",
        "se_parameter_share",
        "se_flop_share",
    )

    @property
    def se_parameters(self) -> int:
        """Number of parameters of all SE sites."""
        return sum(site.parameters for site in self.sites)

    @property
    def se_flops(self) -> int:
        """Floating-point operations of all SE sites."""
        return sum(site.flops for site in self.sites)

    @property
    def se_macs(self) -> int:
        """Multiply-accumulates of the matrices of all SE sites."""
        return sum(site.macs for site in self.sites)

    @property
    def se_parameter_share(self) -> float:
        """Parameters of all SE sites divided by those of the model."""
        return _share(self.se_parameters, self.parameters)

    @property
    def se_flop_share(self) -> float:
        """Operations of all SE sites divided by those of the model."""
        return _share(self.se_flops, self.flops)

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, then a sentence or table each."""
        yield from _parts(self)


def _parts(report: CostReport) -> Iterator[Part]:
    parameters = f"{report.se_parameters:,} of {report.parameters:,} parameters"
    flops = f"{report.se_flops:,} of {report.flops:,} FLOPs"
    yield (
        f"SE has {parameters}, {report.se_parameter_share:.2%}, and {flops}, "
        f"{report.se_flop_share:.2%}."
    )
    if report.sites:
        yield _table(report)
        yield "of all: share of the model's. FLOPs: for one example; a multiply-accumulate is two."
    yield from narrow(report.sites)
    if report.uncounted:
        yield f"Not counted: {', '.join(report.uncounted)}."


def narrow(sites: Iterable[SiteCost | Site]) -> Iterator[str]:
    """Yields a sentence on sites with a bottleneck of one unit, such as 16 channels at ratio 16."""
    # No warning of `insert`: a search tries such widths, and a plan may have them on purpose.
    found = [site.name for site in sites if site.width == 1 < site.channels]
    if found:
        yield (
            f"At {listed(found)} the bottleneck has one unit: all gates there follow one number, "
            "and none varies once its activation is off. Take a smaller ratio, or divisor= or "
            "width=."
        )


def _table(report: CostReport) -> Table:
    sites = report.sites
    return Table(
        "Cost of the sites",
        (
            names("site", [site.name for site in sites]),
            Column("channels", [f"{site.channels:,}" for site in sites], short="C"),
            Column("width", [f"{site.width:,}" for site in sites]),
            Column("parameters", [f"{site.parameters:,}" for site in sites]),
            Column("of all", [f"{site.parameter_share:.2%}" for site in sites]),
            Column("FLOPs", [f"{site.flops:,}" for site in sites]),
            Column("of all", [f"{site.flop_share:.2%}" for site in sites]),
            Column("MACs", [f"{site.macs:,}" for site in sites]),
        ),
    )


def cost(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> CostReport:
    """Counts the parameters and floating-point operations of a model and of its SE.

    Args:
        model: A built functional or Sequential model with `SEBlock`s, `GraphSEBlock`s (per node) or
            inline SE, also inside layers of your own.
        input_shape: Shape of an example, needed for unknown sizes. Only for models with one input.

    Returns:
        A `CostReport`.

    Raises:
        InputError: If the model is not a built graph of layers, or a size is unknown.

    Warns:
        SiteWarning: If a part of the model may be SE, and is not seen as such.

    Source: Hu et al., arXiv 1709.01507v4, section 4.

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 64)), SEBlock(16, use_bias=False)])
        >>> report = cost(model)
        >>> report.se_parameters, report.se_flops
        (512, 9216)
    """
    check_graph("cost", model)
    shape = None if input_shape is None else checked_shape(model, input_shape)
    with computable(model, shape):
        graph = trace(model, "cost", None if shape is None else [shape])
    count = _Count({part.place: part for part in search(graph).warned()})
    # Shapes flow along the walk, so that nested models of open sizes get those of their calls.
    walk(graph, graph.inputs, count.visit, stand_in=outlined, opens=lambda visit: True)
    parameters = model.count_params()
    sites = tuple(
        dataclasses.replace(
            site,
            parameter_share=_share(site.parameters, parameters),
            flop_share=_share(site.flops, count.flops),
        )
        for site in count.sites
    )
    return CostReport(sites, parameters, count.flops, count.macs, tuple(count.uncounted))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


class _Count:
    def __init__(self, sites: dict[Place, GatedSite]) -> None:
        self.sites: list[SiteCost] = []
        self.flops = 0
        self.macs = 0
        self.uncounted: list[str] = []
        self._sites = sites  # by place of their visit
        self._priced: set[int] = set()  # shared weights count only once, by id

    def visit(self, visit: Visit) -> Any:
        outputs, model = visit.outputs(), visit.graph.model
        given = [part for part in visit.arguments if isinstance(part, keras.KerasTensor)]
        if visit.graph.is_composite and not all(map(_is_sized, (*given, *_tensors(outputs)))):
            # A layer of the user's may move the batch to another axis.
            self.uncounted.append(f"{visit.path}{visit.layer.name}")
            return outputs
        inputs = [_size(model, tensor) for tensor in given]
        sizes = [_size(model, tensor) for tensor in _tensors(outputs)]
        site = self._sites.get(visit.place)
        if site is not None and not isinstance(site.source, InlineSE):
            products = 3 if site.source.shift else 2
            cost = self._add(site, site.source.weights, inputs[0], products, products)
            self.flops += cost.flops
            self.macs += cost.macs
            return outputs
        macs = _macs(visit.layer, inputs, sizes)
        flops = _element_flops(visit.layer, inputs, sizes) if macs is None else 2 * macs
        if flops is None:
            # Named rather than counted as 0, so that the total does not look complete.
            self.uncounted.append(f"{visit.path}{visit.layer.name}")
        else:
            self.flops += flops
            self.macs += macs or 0
        source: Any = None if site is None else site.source
        if site is not None and isinstance(source, InlineSE):
            # The layers of an inline site are in the totals already, as what they are.
            weights = [weight for step in source.excitation for weight in step.constants]
            passes = 1 + len(source.squeezes)
            self._add(site, weights, sizes[0], len(source.matrices), passes)
        return outputs

    def _add(
        self, found: GatedSite, weights: list[Any], shape: _Shape, matrices: int, passes: int
    ) -> SiteCost:
        """Adds a site with some products of a vector and a matrix, and passes over its map."""
        site = found.site
        macs = matrices * site.channels * site.width
        flops = passes * math.prod(shape) + 2 * macs
        new = {id(weight): math.prod(weight.shape) for weight in weights}
        parameters = sum(size for weight, size in new.items() if weight not in self._priced)
        self._priced |= set(new)
        self.sites.append(SiteCost(site.name, site.channels, site.width, parameters, flops, macs))
        return self.sites[-1]


def _tensors(outputs: Any) -> list[Any]:
    return [part for part in keras.tree.flatten(outputs) if isinstance(part, keras.KerasTensor)]


def _is_sized(tensor: Any) -> bool:
    return None not in tensor.shape[1:]


def _size(model: keras.Model, tensor: Any) -> _Shape:
    shape = tuple(tensor.shape[1:])
    if not _is_sized(tensor):
        raise InputError(
            "cost needs every size: give input_shape=(height, width, channels), or fix the Input. "
            f"Received: a tensor of shape {tuple(tensor.shape)} in model {model.name!r}"
        )
    return shape


def _channels(layer: Any, shape: _Shape) -> int:
    return shape[0] if getattr(layer, "data_format", None) == "channels_first" else shape[-1]


def _macs(layer: Any, inputs: list[_Shape], outputs: list[_Shape]) -> int | None:
    """Counts the multiply-accumulates of matrix layers; `None` for other layers."""
    kinds = keras.layers
    # Transposed convolutions spread each input position; the others gather each output position.
    if isinstance(layer, kinds.Conv1DTranspose | kinds.Conv2DTranspose | kinds.Conv3DTranspose):
        return math.prod(inputs[0]) * layer.filters * math.prod(layer.kernel_size)
    if isinstance(layer, kinds.DepthwiseConv1D | kinds.DepthwiseConv2D):
        return math.prod(outputs[0]) * math.prod(layer.kernel_size)
    if isinstance(layer, kinds.SeparableConv1D | kinds.SeparableConv2D):
        positions = math.prod(outputs[0]) // layer.filters
        middle = _channels(layer, inputs[0]) * layer.depth_multiplier
        return positions * middle * (math.prod(layer.kernel_size) + layer.filters)
    if isinstance(layer, kinds.Conv1D | kinds.Conv2D | kinds.Conv3D):
        taps = math.prod(layer.kernel_size) * _channels(layer, inputs[0]) // layer.groups
        return math.prod(outputs[0]) * taps
    if isinstance(layer, kinds.Dense):
        return math.prod(outputs[0]) * inputs[0][-1]
    return None


# Class names, since Keras exports no classes for raw operations such as `x + y`.
_AFFINE = {"BatchNormalization", "Normalization", "Rescaling"}
_POINTWISE = {"Activation", "ELU", "LayerScale", "LeakyReLU", "PReLU", "ReLU", "Softmax"}
_RAW_POINTWISE = {"HardSigmoid", "Relu", "Relu6", "Sigmoid", "Silu", "Tanh"}
_RAW_REDUCTIONS = {"Max", "Mean", "Min", "Sum"}
_MERGES = {"Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract", "TrueDivide"}
_POOLS = {f"{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)}
_GLOBAL_POOLS = {f"Global{pool}" for pool in _POOLS}
_MOVES = {
    "Concatenate",
    "Dropout",
    "ExpandDims",
    "Flatten",
    "GaussianNoise",
    "Identity",
    "Masking",
    "Permute",
    "RepeatVector",
    "Reshape",
    "Squeeze",
    "StochasticDepth",
    "Transpose",
    *(f"{kind}{n}D" for kind in ("Cropping", "UpSampling", "ZeroPadding") for n in (1, 2, 3)),
    *(f"SpatialDropout{n}D" for n in (1, 2, 3)),
}


def _element_flops(layer: Any, inputs: list[_Shape], outputs: list[_Shape]) -> int | None:
    """Counts the operations of element-wise and data-moving layers; `None` for others."""
    kind, elements = type(layer).__name__, math.prod(outputs[0])
    if kind in _AFFINE:  # one scale and one shift
        return 2 * elements
    if kind in _POINTWISE | _RAW_POINTWISE:
        return elements
    if kind in _MERGES:
        # A map and a constant have one symbolic input, but still one operation per element.
        return max(1, len(inputs) - 1) * elements
    if kind in _POOLS:
        return elements * math.prod(layer.pool_size)
    if kind in _GLOBAL_POOLS | _RAW_REDUCTIONS:
        return math.prod(inputs[0])
    # Random augmentation is idle at inference.
    is_idle = kind.startswith("Random") and type(layer).__module__.startswith("keras.")
    return 0 if kind in _MOVES or is_idle else None
