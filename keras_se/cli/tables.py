"""Rich tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from keras_se.display.table import without_path
from keras_se.display.text import figure, printable
from keras_se.litert.devices.delegation import SiteDelegation
from keras_se.sites.site import Site
from keras_se.sites.statistics import GateStatistics


def gates_table(
    statistics: Sequence[GateStatistics], tau: float, worth: Mapping[str, float] | None = None
) -> Table:
    """Build a table of the gate statistics of each SE site, optionally with its worth."""
    columns = ["site", "gate", "C", "mean", "spread", "classes", f"< {tau:g}", "saturated"]
    if worth is not None:
        columns.append("worth")
    names, table = _table([each.name for each in statistics], columns)
    for name, figures in zip(names, statistics, strict=True):
        table.add_row(
            printable(name),
            printable(figures.gate),
            str(figures.channels),
            figure(figures.mean, ".4f"),
            figure(figures.spread, ".4f"),
            figure(figures.between_classes, ".4f"),
            str(figures.suppressed),
            figure(figures.saturated, ".1%"),
            *(() if worth is None else (figure(worth.get(figures.name), ".4f"),)),
        )
    return table


def sites_table(sites: Sequence[Site], delegated: dict[str, SiteDelegation]) -> Table:
    """Build a table of SE sites, for a TFLite file with what its delegate takes."""
    columns = ("site", "gate", "C", "width", "after", *(("operations",) if delegated else ()))
    names, table = _table([site.name for site in sites], columns)
    for name, site in zip(names, sites, strict=True):
        texts = (name, site.gate, site.channels, site.width, site.after)
        row = [printable(str(text)) for text in texts]
        found = delegated.get(site.name)
        if found is not None:
            missing = ", ".join(found.undelegated) or "none"
            row.append(f"{len(found.operators)}, partitions: {found.partitions}, left: {missing}")
        table.add_row(*row)
    return table


def _table(names: Sequence[str], columns: Sequence[str]) -> tuple[Sequence[str], Table]:
    """The names of sites in a table without the path that all share, which stands below it."""
    path, rest = without_path(names)
    below = f"All sites are in {printable(path)}." if path else None
    table = Table(box=box.SIMPLE_HEAD, caption=below, caption_justify="left")
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column)
    return rest, table


def print_table(table: Table) -> None:
    """Prints a table whose names are no markup, whatever brackets they hold."""
    Console(markup=False, emoji=False).print(table)
