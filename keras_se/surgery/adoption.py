"""Replaces inline SE in a model by `SEBlock`s."""

import itertools
from typing import Any, cast

import keras

from keras_se.errors import InputError, SiteWarning, warn
from keras_se.graph.models import free_name
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph, trace
from keras_se.graph.visits import Place, Visit, site_names
from keras_se.layers import SEBlock
from keras_se.layers.gates import GateName
from keras_se.layers.squeezes import SqueezeName
from keras_se.sites.finding import InlineSE
from keras_se.sites.gated import search
from keras_se.sites.matrices import matrices_of
from keras_se.surgery.opening import Key, kept_inside, opens
from keras_se.surgery.sharing import Adoption, in_groups, tied_elsewhere


def adopt(model: keras.Model) -> keras.Model:
    """Returns a new model whose inline SE sites are `SEBlock`s with the same weights.

    Takes every site with two matrices, however it is written: the excitation must compute
    gate(W2·activation(W1·g + b1) + b2) for a squeeze, an activation and a gate that `SEBlock`
    knows. A BatchNormalization in it is folded into the matrices as it is at inference. Sites
    of the same layers share one block.

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
        warn(f"adopt leaves the site {name!r} as it is: {reason}.", SiteWarning)
    return adopted(graph, taken)


_TIED = "the model uses its weights elsewhere, too, and an SEBlock has weights of its own"


def proposed(graph: Graph) -> tuple[list[Adoption], dict[str, str]]:
    """The inline sites that can become blocks, and by name the reason for each other one."""
    taken: dict[Key, Adoption] = {}
    left: dict[str, str] = {}
    se = search(graph)
    for part in se.sites:
        source: Any = part.source
        if isinstance(source, InlineSE):
            kept = kept_inside(source.product, source.excitation)
            found = matrices_of(source) if kept is None else kept
            if isinstance(found, str):
                left[part.site.name] = found
            else:
                site = Adoption(part, found)
                # A nested model that is called twice has the same product in both calls.
                taken.setdefault(site.key, site)
    tied = tied_elsewhere(se.flow, taken.values())
    left |= {site.part.site.name: _TIED for site in tied}
    return [site for site in taken.values() if site not in tied], left


def adopted(graph: Graph, taken: list[Adoption]) -> keras.Model:
    """Rebuilds a model with a block in place of the product of each site."""
    edits: dict[int, _Adoptions] = {}
    for group in in_groups(taken):
        for site in group:
            model, place = site.key
            edits.setdefault(model, _Adoptions()).sites[place] = site, group
    new_model = Rebuilding(graph, edits, opens=opens([site.key for site in taken])).model()
    # `Rebuilding` copies the weights of old layers only; the blocks are new.
    for edit in edits.values():
        for block, site in edit.blocks.values():
            block.set_excitation(*site.matrices.weights, layout="dense")
            block.trainable = getattr(site.source.matrices[0].layer, "trainable", True)
    return new_model


class _Adoptions:
    """Replays the calls of a model, with a block in place of each product, one for a group."""

    def __init__(self) -> None:
        self.sites: dict[Place, tuple[Adoption, list[Adoption]]] = {}
        self.blocks: dict[int, tuple[SEBlock, Adoption]] = {}  # by id of the group
        self._names = site_names(itertools.repeat(""))

    def __call__(self, visit: Visit) -> Any:
        if visit.local not in self.sites:
            # Also pooling and matrices: unused, they drop out of the new model.
            return visit.outputs()
        site, group = self.sites[visit.local]
        if id(group) not in self.blocks:
            self.blocks[id(group)] = self._block(site, visit.home.model), site
        block, _ = self.blocks[id(group)]
        return block(visit.arguments[site.source.position])

    def _block(self, site: Adoption, model: keras.Model) -> SEBlock:
        source, matrices = site.source, site.matrices
        return SEBlock(
            width=source.width,
            squeeze=cast(SqueezeName, source.squeeze),  # known, or the site is left alone
            activation=matrices.activation,
            gate=cast(GateName, matrices.gate),
            use_bias=matrices.weights[1] is not None,
            data_format=source.data_format,
            dtype=getattr(source.matrices[0].layer, "dtype_policy", None),
            name=free_name(next(self._names), {layer.name for layer in model.layers}),
        )
