"""Replaces inline SE in a model by `SEBlock`s."""

import itertools
import warnings
from typing import Any, cast

import keras

from keras_se.errors import InputError, SiteWarning
from keras_se.graph.composites import is_same_in_training
from keras_se.graph.models import free_name
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Call, Graph, trace
from keras_se.graph.visits import Place, Visit, site_names
from keras_se.layers import SEBlock
from keras_se.layers.gates import GateName
from keras_se.layers.squeezes import SqueezeName
from keras_se.sites.finding import InlineSE
from keras_se.sites.gated import GatedSite, gated_sites
from keras_se.sites.matrices import Matrices, matrices_of


def adopt(model: keras.Model) -> keras.Model:
    """Returns a new model whose inline SE sites are `SEBlock`s with the same weights.

    Takes every site with two matrices, however it is written: the excitation must compute
    gate(W2·activation(W1·g + b1) + b2) for a squeeze, an activation and a gate that `SEBlock`
    knows. A BatchNormalization in it is folded into the matrices as it is at inference.

    Args:
        model: A built functional or Sequential model, also with nested models. It is not changed.

    Returns:
        A new, uncompiled model with the same outputs, also for `remove`, `cost` and `verify`.

    Raises:
        InputError: If the model cannot be rebuilt, or there is no site to adopt.

    Warns:
        SiteWarning: For each site that stays as it is, with the reason.

    Example:
        >>> x = inputs = keras.Input((8, 8, 4))
        >>> g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        >>> g = keras.layers.Dense(2, activation="relu")(g)
        >>> x = x * keras.layers.Dense(4, activation="sigmoid")(g)
        >>> [layer.__class__.__name__ for layer in adopt(keras.Model(inputs, x)).layers]
        ['InputLayer', 'SEBlock']
    """
    graph = trace(model, "adopt")
    taken, left = proposed(graph)
    if not taken:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items()) or "none"
        raise InputError(
            "adopt needs a model with inline SE that an SEBlock can compute. "
            f"Received: model {model.name!r} with these inline sites: {reasons}"
        )
    for name, reason in left.items():
        warnings.warn(
            f"adopt leaves the site {name!r} as it is: {reason}.", SiteWarning, stacklevel=2
        )
    return adopted(graph, taken)


Adoption = tuple[GatedSite, Matrices]


def proposed(graph: Graph) -> tuple[list[Adoption], dict[str, str]]:
    """The inline sites that can become blocks, and by name the reason for each other one."""
    taken: dict[tuple[int, Place], Adoption] = {}
    left: dict[str, str] = {}
    for part in gated_sites(graph):
        if isinstance(part.source, InlineSE):
            found = _kept_inside(part.source) or matrices_of(part.source)
            if isinstance(found, str):
                left[part.site.name] = found
            else:
                # A nested model that is called twice has the same product in both calls.
                taken.setdefault(_key(part.source), (part, found))
    return list(taken.values()), left


def adopted(graph: Graph, taken: list[Adoption]) -> keras.Model:
    """Rebuilds a model with a block in place of the product of each site."""
    edits: dict[int, _Adoptions] = {}
    for part, matrices in taken:
        source = cast(InlineSE, part.source)
        edit = edits.setdefault(id(source.product.home.model), _Adoptions())
        edit.sites[source.product.local] = source, matrices
    around = {key for part, _ in taken for key in _layers_around(cast(InlineSE, part.source))}
    new_model = Rebuilding(
        graph, edits, opens=lambda visit: (id(visit.home.model), visit.local) in around
    ).model()
    # `Rebuilding` copies the weights of old layers only; the blocks are new.
    for edit in edits.values():
        for block, source, matrices in edit.blocks:
            block.set_excitation(*matrices.weights, layout="dense")
            block.trainable = getattr(source.matrices[0].layer, "trainable", True)
    return new_model


def _layers_around(source: InlineSE) -> list[tuple[int, Place]]:
    """The composite layers around a site in its model, which must be opened to change it."""
    model, place = _key(source)
    return [(model, place[:n]) for n in range(1, len(place))]


def _kept_inside(source: InlineSE) -> str | None:
    """Why a site must stay inside a composite layer; `None` if it need not."""
    graph = source.product.home
    ours = {step.local for step in (source.product, *source.excitation)}
    for n, index in enumerate(source.product.local[:-1], 1):
        call = graph.calls[index]
        if not is_same_in_training(call):
            return f"it is inside the layer {call.layer.name!r}, which differs in training"
        graph = graph.look_into(index)
        for at, part in enumerate(graph.calls):
            if (*source.product.local[:n], at) not in ours and _has_variables(part):
                return f"it is inside the layer {call.layer.name!r}, which has weights of its own"
    return None


def _has_variables(call: Call) -> bool:
    return any(isinstance(a, keras.Variable) for a in keras.tree.flatten((call.args, call.kwargs)))


def _key(source: InlineSE) -> tuple[int, Place]:
    return id(source.product.home.model), source.product.local


class _Adoptions:
    """Replays the calls of a model, with a block in place of each product."""

    def __init__(self) -> None:
        self.sites: dict[Place, tuple[InlineSE, Matrices]] = {}
        self.blocks: list[tuple[SEBlock, InlineSE, Matrices]] = []
        self._names = site_names(itertools.repeat(""))

    def __call__(self, visit: Visit) -> Any:
        if visit.local not in self.sites:
            # Also pooling and matrices: unused, they drop out of the new model.
            return visit.outputs()
        site, matrices = self.sites[visit.local]
        taken = {layer.name for layer in visit.home.model.layers}
        block = SEBlock(
            width=site.width,
            squeeze=cast(SqueezeName, site.squeeze),  # known, or the site is left alone
            activation=matrices.activation,
            gate=cast(GateName, matrices.gate),
            use_bias=matrices.weights[1] is not None,
            data_format=site.data_format,
            dtype=getattr(site.matrices[0].layer, "dtype_policy", None),
            name=free_name(next(self._names), taken),
        )
        self.blocks.append((block, site, matrices))
        return block(visit.arguments[site.position])
