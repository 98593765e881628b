"""What an NPU makes of a TFLite file, as data classes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from keras_se.display.shown import Shown
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part

_LEGEND = (
    "Cycles as the compiler estimates them, and their share of the file's. Operators that stay on "
    "the CPU have none: what they cost there is not known here."
)


@dataclass(frozen=True)
class SiteOnNpu:
    """An SE site on an NPU.

    Attributes:
        operators: Names of its operators, from the pooling to the product.
        on_cpu: Those that stay on the CPU.
        squeeze: Estimated NPU cycles up to the first matrix.
        excitation: Those of the matrices and the gate.
        product: Those of the product with the map.
    """

    operators: tuple[str, ...]
    on_cpu: tuple[str, ...]
    squeeze: int
    excitation: int
    product: int

    @property
    def cycles(self) -> int:
        """Estimated NPU cycles of the site."""
        return self.squeeze + self.excitation + self.product


@dataclass(frozen=True)
class NpuReport(Shown):
    """What an NPU makes of a file, by the estimate of its compiler. `print(report)` shows it.

    Attributes:
        accelerator: Name of the NPU.
        compiler: The compiler, with the system and the memory that it assumes.
        cycles: Estimated NPU cycles of one inference.
        operators: Number of operators of the file.
        on_cpu: The operators of the file that stay on the CPU.
        sites: What becomes of each SE site, by name.
        unplaced: Number of steps of the compiler that no operator of the file answers for; their
            cycles are among those of the file only.
    """

    derived: ClassVar[tuple[str, ...]] = ("conclusion",)

    accelerator: str
    compiler: str
    cycles: int
    operators: int
    on_cpu: tuple[str, ...]
    sites: Mapping[str, SiteOnNpu]
    unplaced: int

    @property
    def cost(self) -> tuple[int, int]:
        """What to compare files by: operators on the CPU, whose cycles are not known; cycles."""
        return len(self.on_cpu), self.cycles

    @property
    def conclusion(self) -> str:
        """One sentence: what stays on the CPU, and the share of SE."""
        if not self.cycles:
            return f"No operator runs on {self.accelerator}."
        left = sum(len(site.on_cpu) for site in self.sites.values())
        count = sum(len(site.operators) for site in self.sites.values())
        where = f"The CPU keeps {left} of SE's {count} operators" if left else "SE runs on the NPU"
        share = self._share(sum(site.cycles for site in self.sites.values()))
        rest = "on the NPU it" if left else "it"
        return f"{where}; {rest} takes {share:.1%} of the file's {self.cycles:,} cycles."

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, the table of the sites, and what the figures are."""
        yield self.conclusion
        yield self._table()
        yield from self._remarks()
        yield _LEGEND
        yield self._by

    @property
    def _by(self) -> str:
        return f"For {self.accelerator}, by {self.compiler}."

    def _table(self) -> Table:
        sites = self.sites.values()
        return Table(
            "sites",
            (
                names("site", [*self.sites]),
                Column("squeeze", [self._part(site.squeeze) for site in sites]),
                Column("excitation", [self._part(site.excitation) for site in sites]),
                Column("product", [self._part(site.product) for site in sites]),
                Column("site's share", [f"{self._share(site.cycles):.1%}" for site in sites]),
                Column("on the CPU", [", ".join(site.on_cpu) or "none" for site in sites]),
            ),
        )

    def _part(self, cycles: int) -> str:
        return f"{cycles:,} ({self._share(cycles):.1%})"

    def _share(self, cycles: int) -> float:
        return cycles / max(self.cycles, 1)

    def _remarks(self) -> Iterator[str]:
        if self.on_cpu:
            counts = {name: self.on_cpu.count(name) for name in dict.fromkeys(self.on_cpu)}
            named = ", ".join(f"{name} {count}" for name, count in counts.items())
            yield f"Of {self.operators} operators {len(self.on_cpu)} stay on the CPU: {named}."
        if self.unplaced:
            yield f"Steps of the compiler that are of no operator of the file: {self.unplaced}."
