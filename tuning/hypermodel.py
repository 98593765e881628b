"""Hypermodels: one that inserts SE blocks into a base model, one for a user's `build(hp)`."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner

from keras_se.errors import InputError
from keras_se.graph.trace import trace
from keras_se.layers import gates
from keras_se.surgery.doubling import scalable_layer
from keras_se.surgery.insertion import insert
from keras_se.surgery.placements import Candidate, Placement, Where, find_places
from tuning.compiling import Compile, check_compile, compile_like
from tuning.seeding import reseed, site_initializer
from tuning.space import SESpace


class SEHyperModel(keras_tuner.HyperModel):
    """A `HyperModel` that inserts SE blocks into a base model, or leaves it unchanged.

    Within `trial_seed`, all candidates of a builder share the initial weights of the base and its
    Dropout seeds. Each block is seeded from the seed of the trial and the name of its site. A model
    that is passed as such keeps its weights.

    Args:
        model_or_builder: A built model without SE blocks, or a function that returns one.
        space: The `SESpace` to search.
        compile: Function that compiles the model passed to it, or arguments of `Model.compile`. By
            default, candidates are compiled like the base model.
        where: As for `candidates`.

    Raises:
        InputError: If `compile` is invalid.

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
            # `build` runs once per trial; the first one would exhaust an iterator.
            where = list(where)
        self.where = where
        self._found: dict[str, list[_Site]] = {}

    def build(self, hp: Any) -> keras.Model:
        """Builds and compiles the candidate of these hyperparameters.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A compiled model, with SE blocks or without.

        Raises:
            InputError: If the base has no site, cannot be rebuilt, or needs `compile`.
        """
        reseed()
        base = self.base()
        # Finds the sites on this base; otherwise `plan` calls the builder once more.
        self._sites(base)
        # Seeded by name: a block must not shift the random numbers of the layers after it.
        plan = {
            name: {**settings, "kernel_initializer": site_initializer(name)}
            for name, settings in self.plan(hp).items()
        }
        # The network without SE also goes through `insert`, so that its layers are copies, too.
        placement = self.placement(hp) or self.space.placements[0]
        # Copies of layers draw seeds when they are created; all candidates must draw the same.
        reseed()
        with _strategy(base):
            model = insert(base, placement=placement, where=self.where, plan=plan)
            compile_like(model, base, self.compile)
        # Training starts from the same state, however much `insert` and `compile` draw.
        reseed()
        return model

    def check(self) -> None:
        """Checks that candidates can be built from the base model.

        Raises:
            InputError: If the base has SE blocks or no site, cannot be rebuilt, or needs `compile`.
        """
        base = self.base()
        self._sites(base)
        # An empty plan still rebuilds the base, so a base that cannot be rebuilt fails here.
        model = insert(base, placement=self.space.placements[0], where=self.where, plan={})
        if self.compile is None:
            compile_like(model, base)

    def base(self) -> keras.Model:
        """Returns the base model without SE blocks; a builder is called each time."""
        if isinstance(self.model_or_builder, keras.Model):
            return self.model_or_builder
        return self.model_or_builder()

    def placement(self, hp: Any) -> Placement | None:
        """Returns the placement that these hyperparameters select.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A placement, or `None` for the network without SE.
        """
        return self.space.placement(hp)

    def plan(self, hp: Any) -> dict[str, dict[str, Any]]:
        """Returns the settings of each site, in the form that `insert` takes as `plan`.

        A block starts as the identity where its gate and site allow it, elsewhere from random
        weights, with `"identity_init": False`.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            `{"se_1": {"ratio": ..., "gate": ..., "squeeze": ...}, ...}`; `{}` without SE.
        """
        self.declare_hyperparameters(hp)
        placement = self.placement(hp)
        if placement is None:
            return {}
        sites = self._sites()[placement]
        return {
            site.candidate.name: site.settings(self.space.settings(hp, scope))
            for site, scope in zip(sites, self._scopes(sites), strict=True)
        }

    def declare_hyperparameters(self, hp: Any) -> None:
        """Declares the whole space, in its order, without building a candidate.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        self.space.declare(hp, self.scopes)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The parts with their own settings: `("se",)`, `("stage_1", ...)` or site names.

        A stage is a run of sites of one spatial size or, if unknown, of one number of channels.

        Raises:
            InputError: If the placements of the space have different scopes.
        """
        if self.space.per == "model":
            return ("se",)
        scopes = {name: tuple(dict.fromkeys(self._scopes(s))) for name, s in self._sites().items()}
        if len(set(scopes.values())) > 1:
            numbers = {placement: len(names) for placement, names in scopes.items()}
            raise InputError(
                f"With per={self.space.per!r} all placements need the same number of "
                f"{self.space.per}s; search each placement by itself. Received: {numbers}"
            )
        return scopes[self.space.placements[0]]

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self.space.size_for(len(self.scopes))

    def _scopes(self, sites: list["_Site"]) -> list[str]:
        if self.space.per == "model":
            return ["se"] * len(sites)
        if self.space.per == "site":
            return [site.candidate.name for site in sites]
        # Not a set of sizes: the same size later in the network is another stage.
        stages = itertools.groupby(sites, key=lambda site: site.resolution)
        return [f"stage_{n}" for n, (_, group) in enumerate(stages, 1) for _ in group]

    def _sites(self, base: keras.Model | None = None) -> dict[str, list["_Site"]]:
        if not self._found:
            graph = trace(self.base() if base is None else base, "insert")
            found: dict[str, list[_Site]] = {}
            for placement in self.space.placements:
                sites = found[placement] = []
                for place in find_places(graph, placement, self.where):
                    layer = scalable_layer(graph, place.graph, place.producer, place.edges)
                    sites.append(_Site(place.candidate, is_scalable=layer is not None))
            self._found = found
        return self._found


def _strategy(model: keras.Model) -> AbstractContextManager[Any]:
    """Returns the scope of `tf.distribute` that a model was built in: its candidates stay there."""
    strategy = getattr(model, "distribute_strategy", None)  # of Keras on TensorFlow alone
    return nullcontext() if strategy is None else strategy.scope()


class UserHyperModel(keras_tuner.HyperModel):
    """Wraps a user's function of hyperparameters and compiles its model."""

    def __init__(self, builder: Callable[[Any], keras.Model], compile: Compile = None) -> None:
        super().__init__()
        self.builder = builder
        self.compile = compile

    def build(self, hp: Any) -> keras.Model:
        """Builds the compiled model for the given hyperparameters."""
        model = self.builder(hp)
        if not isinstance(model, keras.Model):
            raise InputError(
                f"A builder must return a keras.Model. Received: {type(model).__qualname__}"
            )
        if self.compile is not None:
            compile_like(model, model, self.compile)
        # Checked after `compile`, which may be a function that forgets to compile.
        if not model.compiled:
            raise InputError(
                "The builder of a search must return a compiled model, or compile= must be given. "
                f"Received: model {model.name!r}, which is not compiled"
            )
        return model


@dataclass(frozen=True)
class _Site:
    candidate: Candidate
    is_scalable: bool  # whether the layer before it can compensate for a gate of ½

    @property
    def resolution(self) -> tuple[int | None, ...]:
        shape, last = self.candidate.shape, self.candidate.data_format == "channels_last"
        spatial = shape[1:-1] if last else shape[2:]
        # Unknown sizes are all alike; the channels tell the stages apart.
        return spatial if None not in spatial else (*spatial, self.candidate.channels)

    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        gate = gates.get(settings["gate"])
        # A gate that rests at ½ keeps the function only if the layer before is doubled;
        # any other gate must be able to start at 1.
        keeps = gate.one_at is not None if gate.at_rest is None else self.is_scalable
        return settings if keeps else {**settings, "identity_init": False}
