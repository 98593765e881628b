"""Weights that inline sites share with each other, or with other layers of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import keras
import numpy as np

from keras_se.sites.finding import InlineSE
from keras_se.sites.flow import Flow, Step
from keras_se.sites.gated import GatedSite
from keras_se.sites.matrices import Matrices
from keras_se.surgery.opening import Key, key_of


@dataclass(frozen=True, eq=False)
class Adoption:
    """An inline site that can become a block.

    Attributes:
        part: The site.
        matrices: Its matrices.
    """

    part: GatedSite
    matrices: Matrices

    @property
    def source(self) -> InlineSE:
        """What the site is made of."""
        return cast(InlineSE, self.part.source)

    @property
    def key(self) -> Key:
        """The model and the place of the product in it, the same in each call of the model."""
        return key_of(self.source.product)

    @cached_property
    def variables(self) -> set[int]:
        """The ids of the variables of the excitation."""
        return _variables(self.source.excitation)

    @property
    def facts(self) -> tuple[Any, ...]:
        """What blocks must have in common to be one, but for the weights."""
        source, matrices = self.source, self.matrices
        functions = (source.squeeze, matrices.activation, matrices.gate)
        return self.key[0], self.variables, source.data_format, *functions

    def can_share(self, other: "Adoption") -> bool:
        """Whether one block can be called in place of this site and of another."""
        pairs = zip(self.matrices.weights, other.matrices.weights, strict=True)
        is_same = self.facts == other.facts and all(_is_close(*pair) for pair in pairs)
        return bool(self.variables) and is_same


def in_groups(sites: Iterable[Adoption]) -> list[list[Adoption]]:
    """Puts sites together that one block can compute: those of the same layers."""
    groups: list[list[Adoption]] = []
    for site in sites:
        group = next((group for group in groups if group[0].can_share(site)), None)
        if group is None:
            groups.append([site])
        else:
            group.append(site)
    return groups


def tied_elsewhere(flow: Flow, sites: Iterable[Adoption]) -> list[Adoption]:
    """The sites with weights that a model goes on to use when the others have become blocks."""
    kept, tied = list(sites), list[Adoption]()
    while True:
        groups = in_groups(kept)
        rest = _remaining(flow, {site.key: site.source.position for site in kept})
        more = [
            site
            for group in groups
            for site in group
            if site.variables & rest.union(*(g[0].variables for g in groups if g is not group))
        ]
        if not more:
            return tied
        kept, tied = [site for site in kept if site not in more], tied + more


def _remaining(flow: Flow, positions: Mapping[Key, int]) -> set[int]:
    """The ids of the variables that a model uses when some products are blocks.

    `positions` are those of the feature maps among the arguments of the products.
    """
    seen, found, to_visit = set[int](), set[int](), list(flow.ends)
    while to_visit:
        index = flow.producers.get(id(to_visit.pop()))
        if index is None or index in seen:
            continue
        seen.add(index)
        step = flow.steps[index]
        position = positions.get(key_of(step))
        if position is None:
            found |= _variables([step])
            to_visit += step.inputs
        else:
            to_visit.append(step.arguments[position])
    return found


def _variables(steps: Iterable[Step]) -> set[int]:
    constants = [constant for step in steps for constant in step.constants]
    return {id(constant) for constant in constants if isinstance(constant, keras.Variable)}


def _is_close(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-7)
