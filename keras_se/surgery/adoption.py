"""Replaces inline SE in a model by `SEBlock`s."""

import itertools
import warnings
from typing import Any, cast

import keras

from keras_se.errors import InputError
from keras_se.graph.models import free_name
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph, trace
from keras_se.graph.visits import Visit, site_names
from keras_se.layers import SEBlock
from keras_se.layers.gates import GateName
from keras_se.sites.finding import InlineSE, find_inline


def adopt(model: keras.Model) -> keras.Model:
    """Returns a new model whose inline SE sites are `SEBlock`s with the same weights.

    Recognizes the forms of MobileNetV3 and EfficientNet in `keras.applications` and common
    handwritten ones: a global pooling, two dense layers or convolutions of size 1 with an
    activation and a gate, and the product with the pooled feature map.

    Args:
        model: A built functional or Sequential model, also with nested models. It is not changed.

    Returns:
        A new, uncompiled model with the same outputs, also for `remove`, `cost` and `verify`.

    Raises:
        InputError: If the model cannot be rebuilt, or there is no site to adopt. A site with an
            unknown activation or gate is skipped with a warning.

    Example:
        >>> x = inputs = keras.Input((8, 8, 4))
        >>> g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        >>> g = keras.layers.Dense(2, activation="relu")(g)
        >>> x = x * keras.layers.Dense(4, activation="sigmoid")(g)
        >>> [layer.__class__.__name__ for layer in adopt(keras.Model(inputs, x)).layers]
        ['InputLayer', 'SEBlock']
    """
    graph = trace(model, "adopt")
    adoptions = {id(part.model): _Adoption(part) for part in graph.family()}
    sites = [site for adoption in adoptions.values() for site in adoption.found]
    if not any(adoption.sites for adoption in adoptions.values()):
        raise InputError(
            "adopt needs a model with inline SE, with a known activation and gate. "
            f"Received: model {model.name!r} with {len(sites)} inline sites, none of them known"
        )
    for site in sites:
        if not _is_known(site):
            warnings.warn(
                f"adopt leaves the site at {site.second.name!r} as it is: its activation or gate "
                "is unknown.",
                stacklevel=2,
            )
    new_model = Rebuilding(graph, adoptions).model()
    # `Rebuilding` copies the weights of old layers only; the blocks are new.
    for adoption in adoptions.values():
        for site, block in adoption.blocks:
            block.set_excitation(*_matrices(site), layout="dense")
            block.trainable = site.first.trainable
    return new_model


def _is_known(site: InlineSE) -> bool:
    return site.activation is not None and site.gate is not None


class _Adoption:
    """Replays the calls of a model, with a block in place of each product."""

    def __init__(self, graph: Graph) -> None:
        self.found = find_inline(graph)
        self.sites = {site.call: site for site in self.found if _is_known(site)}
        self.blocks: list[tuple[InlineSE, SEBlock]] = []
        self._names = site_names(itertools.repeat(""))

    def __call__(self, visit: Visit) -> Any:
        site = self.sites.get(visit.index)
        if site is None:  # also pooling and matrices: unused, they drop out of the new model
            return visit.outputs()
        taken = {layer.name for layer in visit.graph.model.layers}
        block = SEBlock(
            width=site.width,
            squeeze=site.squeeze,
            activation=site.activation,
            gate=cast(GateName, site.gate),  # known, or the site is left alone
            use_bias=site.first.use_bias or site.second.use_bias,
            data_format=site.data_format,
            dtype=site.first.dtype_policy,
            name=free_name(next(self._names), taken),
        )
        self.blocks.append((site, block))
        return block(visit.arguments[site.position])


def _matrices(site: InlineSE) -> list[Any]:
    """Returns W1, b1, W2, b2 as (inputs, outputs) matrices, with `None` for a missing bias."""
    parts: list[Any] = []
    for layer in (site.first, site.second):
        kernel = layer.kernel.numpy()  # of a convolution of size 1: (1, ..., inputs, outputs)
        parts += [kernel.reshape(kernel.shape[-2:]), layer.bias.numpy() if layer.use_bias else None]
    return parts
