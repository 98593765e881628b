"""Tries files of one network and judges each, until the smallest that passes is known."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_se.deployment.attempt import Attempt, attempt_of
from keras_se.deployment.drift import drifts
from keras_se.deployment.kept_files import KeptFiles
from keras_se.display.progress import step
from keras_se.errors import InputError
from keras_se.litert.convert import ConversionWarning
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.graph.selective import keep_float
from keras_se.litert.inputs import Samples
from keras_se.litert.recipe import recipe_text
from keras_se.litert.runtime import Runner
from keras_se.verification.file_reference import FileReference
from keras_se.verification.outcome import outcome
from keras_se.verification.reference import Remembered
from keras_se.verification.reports.gate_report import GateReport, SiteVerdict
from keras_se.verification.verdict import verify


@dataclass(frozen=True)
class Made:
    """A file that was tried.

    Attributes:
        attempt: What was measured of it.
        content: Its bytes.
        recipe: Its recipe as JSON text; empty if it has none.
        report: The report on its gates against the float file.
        trained: The float file of the trained network, if it was made of that.
    """

    attempt: Attempt
    content: bytes
    recipe: str
    report: GateReport
    trained: bytes | None = None


class Tries:
    """Makes and judges files against one float file.

    Attributes:
        float32: The float file.
        made: What was tried, in order.
        refused: By name, why a file could not be made.
        notes: What was warned of while files were made.
    """

    def __init__(
        self,
        float32: bytes,
        x: Any,
        labels: np.ndarray | None,
        tolerance: float,
        strict: bool,
        kept: KeptFiles,
        original: bytes | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """`names` are those of the sites in a Keras model, by those in its float file."""
        self.float32, self._labels = float32, labels
        self._in_file = {name: at for at, name in (names or {}).items()}
        self._reference = Remembered(FileReference(float32, names))
        self._samples: Samples = self._reference.samples(x, "x")
        self._tolerance, self._strict, self._kept = tolerance, strict, kept
        # What accuracy is compared with, if the gates are those of a changed network.
        self._original = None if original is None else Runner(original).run(self._samples)
        self.made: list[Made] = []
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []

    def add(
        self,
        name: str,
        make: Callable[[], tuple[bytes, str]],
        changed: tuple[str, ...] = (),
        trained: Callable[[], tuple[bytes, str]] | None = None,
    ) -> Made | None:
        """Makes and judges a file; `None` if it cannot be made.

        Args:
            name: What it is.
            make: Returns the file and its recipe.
            changed: The names of what has more bits in it.
            trained: Makes the float file of the network that it was made of, if that was trained.
        """
        with step(name), self.noted(name):
            try:
                content, recipe = self._kept.made(name, changed, make)
                own = None
                if trained is not None:
                    own = self._kept.made(f"float32 of {name}", changed, trained)[0]
            except InputError as error:
                self.refused[name] = str(error)
                return None
            report = self._judged(content, recipe, own)
            undelegated = delegation(content).delegated.count(False)
        attempt = attempt_of(name, content, report, self._tolerance, undelegated, changed)
        self.made.append(Made(attempt, content, recipe, report, own))
        return self.made[-1]

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Makes notes of warnings, for they are of files most of which are not taken."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConversionWarning)
            yield
        self.notes += [f"{name}: {warning.message}" for warning in caught]

    def _judged(self, content: bytes, recipe: str, trained: bytes | None) -> GateReport:
        report = verify(
            self._reference,
            content,
            self._samples,
            self._labels,
            strict=self._strict,
            trained=trained,
            recipe=recipe or None,
        )
        if trained is None and self._original is None:
            return report
        outputs = self._original or self._reference.read(self._samples)[1]
        found = Runner(content).run(self._samples)
        return replace(report, outcome=outcome(outputs, found, None, self._labels))

    def mend(self, base: Made, float32: bytes, wider: bytes | None = None) -> None:
        """Tries a file with parts in float: failing sites, then what the layers before them lose.

        Of each kind the fewest that pass are found, by doubling and halving their number.

        Args:
            base: The integer file.
            float32: The float file that it was made of.
            wider: Its file in int16x8, if the parts come from that.
        """
        integer = [site for site in base.report.sites.values() if site.quantized]
        sites = [site.name for site in sorted(integer, key=_harm) if site.failed]
        donor = _Donor(float32, "float") if wider is None else _Donor(wider, "16 bit")
        if sites and self._fewest(base, donor, sites, lambda some: (some, [])):
            return
        failed = self._names_in_file(s.name for s in base.report.sites.values() if s.failed)
        tensors = [name for name, _ in drifts(float32, base.content, self._samples, failed)]
        if not tensors:
            self.notes.append(
                f"{base.attempt.name}: no tensor of it has the name of one in the float file, so "
                "that only sites can be in float."
            )
        self._fewest(base, donor, tensors, lambda some: (sites, some))

    def _fewest(
        self,
        base: Made,
        donor: "_Donor",
        parts: Sequence[str],
        split: Callable[[Sequence[str]], tuple[Sequence[str], Sequence[str]]],
    ) -> bool:
        """Tries the first parts in float, and finds the fewest that pass; false if none do."""

        def passes(count: int) -> bool:
            sites, tensors = split(parts[:count])
            name = f"{base.attempt.name}, {_counted(len(sites), len(tensors))} in {donor.what}"
            made = self.add(
                name, lambda: self._grafted(base, donor, sites, tensors), (*sites, *tensors)
            )
            return made is not None and made.attempt.passed

        failing, count = 0, len(parts)
        if not count or not passes(count):
            return False
        known = 1
        while known < count and not passes(known):
            failing, known = known, 2 * known
        count = min(known, count)
        while count - failing > 1:
            middle = (failing + count) // 2
            failing, count = (failing, middle) if passes(middle) else (middle, count)
        return True

    def _names_in_file(self, sites: Iterable[str]) -> list[str]:
        return [self._in_file.get(name, name) for name in sites]

    def _grafted(
        self, base: Made, donor: "_Donor", sites: Sequence[str], tensors: Sequence[str]
    ) -> tuple[bytes, str]:
        content = keep_float(base.content, donor.content, self._names_in_file(sites), tensors)
        if not base.recipe:
            return content, ""
        recipe = json.loads(base.recipe)
        recipe["options"] |= {f"sites in {donor.what}": list(sites)}
        recipe["options"] |= {f"tensors in {donor.what}": list(tensors)}
        # The file itself still holds the digests of its calibration samples.
        return content, recipe_text(recipe, content)


@dataclass(frozen=True)
class _Donor:
    """The file whose operators replace those of an integer file, and what they compute in."""

    content: bytes
    what: str


def _harm(site: SiteVerdict) -> float:
    """What a site costs the outputs, the most first: what is lost of it, by its worth."""
    lost = 1.0 if site.r2 is None else min(1.0 - site.r2, 1.0)
    return -lost * (1.0 if site.worth is None else site.worth)


def _counted(sites: int, tensors: int) -> str:
    parts = [
        f"{count} {what}{'s' * (count > 1)}"
        for count, what in ((sites, "site"), (tensors, "tensor"))
        if count
    ]
    return " and ".join(parts)
