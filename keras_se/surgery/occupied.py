"""Which calls of a model belong to SE that it has already."""

from typing import Any

from keras_se.sites.finding import InlineSE
from keras_se.sites.flow import Flow, Step
from keras_se.sites.gated import GatedSite, Search
from keras_se.sites.squeezing import origins


def se_calls(found: Search) -> dict[tuple[int, int], str]:
    """The names of sites by the calls of SE and of what makes the maps that it gates.

    A call is given by the id of its model and its index. A composite layer counts as one call.
    """
    return {
        (id(step.home.model), step.local[0]): site.site.name
        for site in found.sites
        for step in _steps(found.flow, site)
    }


def _steps(flow: Flow, site: GatedSite) -> list[Step]:
    steps = [step for step in flow.steps if step.place == site.place]
    steps += [s for t in origins(flow, site.features) if (s := flow.producer(t)) is not None]
    source: Any = site.source
    if isinstance(source, InlineSE):
        steps += [*source.excitation, *(s for squeeze in source.squeezes for s in squeeze.steps)]
    return steps
