"""What was measured, as data: every table, sentence and plot is made of it, and of nothing else."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from benchmarks.harness.environment import Environment
from benchmarks.harness.timing import Summary, plain_number
from keras_se.display.shown import Shown
from keras_se.display.text import Part


@dataclass(frozen=True)
class Variant:
    """One of the ways that are compared.

    Attributes:
        name: Its name.
        seconds: Wall time of a call, one number for each round.
        facts: What else is known of it, such as its number of operators.
    """

    name: str
    seconds: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Variants that were measured in turn in one process.

    Attributes:
        name: What they do.
        case: On what they do it; empty if there is one case only.
        baseline: Name of the variant that ratios are to; empty if times grow instead.
        variants: The variants.
    """

    name: str
    case: str
    baseline: str
    variants: tuple[Variant, ...]

    @classmethod
    def of(
        cls,
        name: str,
        seconds: Mapping[str, Sequence[float]],
        baseline: str = "",
        case: str = "",
        facts: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "Comparison":
        """Makes a comparison of what `timing.measure` returns."""
        known = facts or {}
        variants = (
            Variant(n, tuple(map(plain_number, values)), dict(known.get(n, {})))
            for n, values in seconds.items()
        )
        return cls(name, case, baseline, tuple(variants))

    def __getitem__(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variants."""
        return tuple(variant.name for variant in self.variants)

    def ratio(self, name: str) -> Summary:
        """Sums up the time of a variant over that of the baseline, round by round."""
        pairs = zip(self[name].seconds, self[self.baseline].seconds, strict=True)
        return Summary.of([a / b for a, b in pairs])


@dataclass(frozen=True)
class Topic(Shown):
    """What was measured of a topic.

    Attributes:
        name: Its name on the command line, which is that of its module in `benchmarks.topics`.
        seconds: How long it took to measure.
        comparisons: What was compared.
        missing: A sentence for each peer that is not here.
        failure: Why nothing was measured, or empty.
    """

    name: str
    seconds: float
    comparisons: tuple[Comparison, ...]
    missing: tuple[str, ...] = ()
    failure: str = ""

    @property
    def module(self) -> Any:
        """The module that measures the topic, with its title, text, tables and plots."""
        return importlib.import_module(f"benchmarks.topics.{self.name}")

    @property
    def title(self) -> str:
        """Its heading; of a topic that failed its name, for its module may not even load."""
        return self.name if self.failure else str(self.module.TITLE)

    def parts(self) -> Iterator[Part]:
        """Yields what was found, then tables."""
        if self.failure:
            yield f"{self.title}: not measured. {self.failure}"
            return
        yield f"{self.title}: {self.module.finding(self)}"
        yield from self.module.tables(self)
        yield from self.missing

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Topic":
        """Makes a topic of plain values."""
        comparisons = tuple(
            Comparison(
                **{
                    **comparison,
                    "variants": tuple(
                        Variant(v["name"], tuple(v["seconds"]), v["facts"])
                        for v in comparison["variants"]
                    ),
                }
            )
            for comparison in content["comparisons"]
        )
        return cls(**{**content, "comparisons": comparisons, "missing": tuple(content["missing"])})


@dataclass(frozen=True)
class Results(Shown):
    """What a run has measured.

    Attributes:
        quick: Whether it was a quick run, whose numbers mean little.
        environment: Where it ran.
        topics: The topics.
    """

    quick: bool
    environment: Environment
    topics: tuple[Topic, ...]
    schema: ClassVar[int] = 1

    def parts(self) -> Iterator[Part]:
        """Yields the parts of each topic."""
        for topic in self.topics:
            yield from topic.parts()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Results":
        """Reads what `to_json` has written, as `json` reads it."""
        if content.get("schema") != cls.schema:
            raise ValueError(
                f"Results must have schema {cls.schema}. Received: {content.get('schema')!r}"
            )
        topics = tuple(map(Topic.from_dict, content["topics"]))
        return cls(content["quick"], Environment(**content["environment"]), topics)
