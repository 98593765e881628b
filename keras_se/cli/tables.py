"""Rich tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from keras_se.costs import CostReport
from keras_se.litert.delegation import SiteDelegation
from keras_se.sites.site import Site
from keras_se.sites.statistics import GateStatistics
from keras_se.verification.report import GateReport
from keras_se.verification.rule import FLOAT32_STEP
from keras_se.verification.verdict import REMEDIES


def cost_table(report: CostReport) -> Table:
    """Build a table of the cost of each SE site."""
    columns = ("site", "C", "width", "parameters", "of all", "FLOPs", "of all", "MACs")
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for site in report.sites:
        table.add_row(
            site.name,
            f"{site.channels:,}",
            f"{site.width:,}",
            f"{site.parameters:,}",
            f"{site.parameter_share:.2%}",
            f"{site.flops:,}",
            f"{site.flop_share:.2%}",
            f"{site.macs:,}",
        )
    return table


def gates_table(statistics: Sequence[GateStatistics], tau: float) -> Table:
    """Build a table of the gate statistics of each SE site."""
    columns = ("site", "gate", "C", "mean", "spread", "classes", f"< {tau:g}", "saturated")
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for figures in statistics:
        table.add_row(
            figures.name,
            figures.gate,
            str(figures.channels),
            _figure(figures.mean, ".4f"),
            _figure(figures.spread, ".4f"),
            _figure(figures.between_classes, ".4f"),
            str(figures.suppressed),
            _figure(figures.saturated, ".1%"),
        )
    return table


def sites_table(sites: Sequence[Site], delegated: dict[str, SiteDelegation]) -> Table:
    """Build a table of SE sites, for a TFLite file with what its delegate takes."""
    columns = ("site", "gate", "C", "width", "after", *(("operations",) if delegated else ()))
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for site in sites:
        row = [site.name, site.gate, str(site.channels), str(site.width), site.after]
        found = delegated.get(site.name)
        if found is not None:
            missing = ", ".join(found.undelegated) or "none"
            row.append(f"{len(found.operators)}, partitions: {found.partitions}, left: {missing}")
        table.add_row(*row)
    return table


def report_table(title: str, report: GateReport) -> Group:
    """Build a table of the verdict on each SE site, with remarks below it."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("site", "gate", "C", "spread/step", "R²", "slope", "verdict"):
        # In a narrow terminal rich would break a number over two lines.
        table.add_column(column, no_wrap=True)
    for site in report.sites.values():
        # A float32 file has no quantization step: the ratio says nothing there.
        spread = None if site.step == FLOAT32_STEP else site.spread
        table.add_row(
            site.name,
            site.gate,
            str(site.channels),
            _figure(spread, ".1f"),
            _figure(site.r2, ".4f"),
            _figure(site.slope, ".3f"),
            site.verdict,
        )
    # Text, not str: rich would read the brackets in a remark as markup.
    return Group(table, *(Text(line) for line in _remarks(report)))


def _remarks(report: GateReport) -> Iterator[str]:
    for site in report.sites.values():
        if site.verdict == "fails":
            yield f"{site.name} fails: {site.reason}"
            if site.blame in REMEDIES:
                yield f"  {REMEDIES[site.blame]}"
    for name, stress in report.stress.items():
        if stress.verdict != report.verdict:
            sites = ", ".join(f"{n} {verdict}" for n, (verdict, _) in stress.sites.items())
            yield f"On samples {name}: {stress.verdict} ({sites})."
    if report.effect is not None:
        yield report.effect.sentence
    yield f"On {report.samples} samples, {report.held_out}; {report.runtime}."


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
