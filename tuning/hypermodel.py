"""Any model as a model to search: SE blocks are inserted as the hyperparameters say."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.compensation import rest_value, scalable_layer
from keras_se.errors import InputError, import_extra
from keras_se.layers import gates
from keras_se.placements import Candidate, Where, find_places
from keras_se.replay import trace
from keras_se.surgery import insert
from tuning.compiling import Compile, check_compile, compile_like
from tuning.seeding import reseed, site_initializer
from tuning.space import SESpace

keras_tuner: Any = import_extra("keras_tuner", "tuning")


class SEHyperModel(keras_tuner.HyperModel):
    """A `HyperModel` that inserts SE blocks into a base model, or leaves it as it is.

    Within `trial_seed` all candidates share the initial weights of a base that is built anew, and
    the seeds of its Dropout layers; a block starts from the seed and the name of its site alone. A
    model that is given keeps its weights, whatever the seed.

    Args:
        model_or_builder: A built model without SE blocks, or a function without arguments that
            returns one.
        space: What may be chosen.
        compile: Function that compiles the model given to it, or a mapping of arguments of
            `Model.compile`: see `compile_like`. By default as the base model is compiled.
        where: As for `candidates`.

    Raises:
        InputError: If `compile` breaks its rule.

    Example:
        >>> base = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3)])
        >>> hypermodel = SEHyperModel(base, SESpace(ratios=(2, 4)), {"loss": "mse"})
        >>> hypermodel.build(keras_tuner.HyperParameters()).layers[1].ratio
        2
    """

    def __init__(
        self,
        model_or_builder: keras.Model | Callable[[], keras.Model],
        space: SESpace,
        compile: Compile = None,
        *,
        where: Where = None,
    ) -> None:
        check_compile(compile)
        super().__init__()
        self.model_or_builder = model_or_builder
        self.space = space
        self.compile = compile
        if not (where is None or isinstance(where, str) or callable(where)):
            where = list(where)  # an iterator would be at its end after the first build
        self.where = where
        self._found: dict[str, list[_Site]] = {}

    def build(self, hp: Any) -> keras.Model:
        """The base model with SE blocks, or without, compiled.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A compiled model.

        Raises:
            InputError: If the base has no place for a block or cannot be rebuilt, or is not
                compiled where `compile` is `None`.
        """
        reseed()
        base = self.base()
        self._sites(base)
        plan = {name: _seeded(name, settings) for name, settings in self.plan(hp).items()}
        placement = self.placement(hp) or self.space.placements[0]
        # The copies of layers draw their seeds as they are made, the baseline's like the others'.
        reseed()
        model = insert(base, placement=placement, where=self.where, plan=plan)
        compile_like(model, base, self.compile)
        reseed()
        return model

    def check(self) -> None:
        """Refuses a base that no candidate could be built from.

        Raises:
            InputError: If it has SE blocks or no place for one, cannot be rebuilt, or is not
                compiled where `compile` is `None`.
        """
        base = self.base()
        self._sites(base)
        model = insert(base, placement=self.space.placements[0], where=self.where, plan={})
        if self.compile is None:
            compile_like(model, base)

    def base(self) -> keras.Model:
        """The model without SE blocks: the one that was given, or a new one from its builder."""
        if isinstance(self.model_or_builder, keras.Model):
            return self.model_or_builder
        return self.model_or_builder()

    def placement(self, hp: Any) -> str | None:
        """The placement that these hyperparameters hold.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A placement, or `None` for the network without SE.
        """
        return self.space.placement(hp)

    def plan(self, hp: Any) -> dict[str, dict[str, Any]]:
        """The settings per site, in the form that `insert` takes as `plan`.

        A block starts as the identity; where gate and site do not let that be, at random, and its
        settings say so.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            `{"se_1": {"ratio": ..., "gate": ..., "squeeze": ...}, ...}`, with `"identity_init":
            False` where it is; for the network without SE `{}`.
        """
        self.declare_hyperparameters(hp)
        placement = self.placement(hp)
        if placement is None:
            return {}
        sites = self._sites()[placement]
        return {
            site.name: site.settings(self.space.settings(hp, scope))
            for site, scope in zip(sites, self._scopes(sites), strict=True)
        }

    def declare_hyperparameters(self, hp: Any) -> None:
        """Adds the whole space, in its order, without building a candidate.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        self.space.declare(hp, self.scopes)

    @property
    def scopes(self) -> tuple[str, ...]:
        """What has settings of its own: `("se",)`, `("stage_1", ...)` or the names of the sites.

        A stage is a run of sites with the same spatial sizes; where these are unknown, with the
        same number of channels.

        Raises:
            InputError: If the placements of the space differ in it.
        """
        if self.space.per == "model":
            return ("se",)
        by_placement = {
            placement: tuple(dict.fromkeys(self._scopes(sites)))
            for placement, sites in self._sites().items()
        }
        if len(set(by_placement.values())) > 1:
            numbers = {placement: len(scopes) for placement, scopes in by_placement.items()}
            raise InputError(
                f"With settings per {self.space.per} all placements must have the same ones. "
                f"Received: {numbers}; search each placement by itself"
            )
        return by_placement[self.space.placements[0]]

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self.space.size_for(len(self.scopes))

    def _scopes(self, sites: list["_Site"]) -> list[str]:
        """The scope of each site."""
        if self.space.per == "model":
            return ["se"] * len(sites)
        if self.space.per == "site":
            return [site.name for site in sites]
        stages = itertools.groupby(sites, key=lambda site: site.resolution)
        return [f"stage_{n}" for n, (_, group) in enumerate(stages, 1) for _ in group]

    def _sites(self, base: keras.Model | None = None) -> dict[str, list["_Site"]]:
        """The sites of each placement, looked for once."""
        if not self._found:
            graph = trace(self.base() if base is None else base)
            self._found = {
                placement: [
                    _Site(place.candidate, scalable_layer(graph, *_location(place)) is not None)
                    for place in find_places(graph, placement, self.where)
                ]
                for placement in self.space.placements
            }
        return self._found


@dataclass(frozen=True)
class _Site:
    """A candidate, and whether the layer before can make up for a gate of ½."""

    candidate: Candidate
    is_scalable: bool

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def resolution(self) -> tuple[int | None, ...]:
        shape, last = self.candidate.shape, self.candidate.data_format == "channels_last"
        spatial = shape[1:-1] if last else shape[2:]
        return spatial if None not in spatial else (*spatial, self.candidate.channels)

    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        gate = settings["gate"]
        is_half = rest_value(gate) is not None
        keeps = self.is_scalable if is_half else gates.get(gate).one_at is not None
        return settings if keeps else {**settings, "identity_init": False}


def _location(place: Any) -> tuple[Any, ...]:
    return place.graph, place.producer, place.edges


def _seeded(site: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "kernel_initializer": site_initializer(site)}
