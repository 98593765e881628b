"""The tables of the command `gates`."""

from collections.abc import Mapping, Sequence

from keras_se.display.table import Column, Table, names
from keras_se.display.text import figure
from keras_se.litert.devices.delegation import SiteDelegation
from keras_se.sites.site import Site
from keras_se.sites.statistics import GateStatistics


def sites_table(sites: Sequence[Site], with_places: bool = True) -> Table:
    """Returns the table of what SE sites are, and after which layers."""
    after = Column("after", [site.after for site in sites], is_words=True, folds=True)
    return Table(
        "SE sites",
        (
            names("site", [site.name for site in sites]),
            Column("kind", [site.kind for site in sites], is_words=True),
            Column("squeeze", [site.squeeze for site in sites], is_words=True),
            Column("form", [site.form for site in sites], is_words=True),
            Column("gate", [site.gate for site in sites], is_words=True),
            Column("C", [str(site.channels) for site in sites]),
            Column("width", [str(site.width) for site in sites]),
            *([after] if with_places else []),
        ),
    )


def delegation_table(sites: Sequence[Site], delegated: Mapping[str, SiteDelegation]) -> Table:
    """Returns the table of what the CPU delegate takes of the sites of a file, and where they lie.

    Names of tensors are long, so that they need a table of their own.
    """
    found = [delegated.get(site.name) for site in sites]
    return Table(
        "SE sites and the CPU delegate",
        (
            names("site", [site.name for site in sites]),
            Column("operators", ["-" if f is None else str(len(f.operators)) for f in found]),
            Column("partitions", ["-" if f is None else str(f.partitions) for f in found]),
            Column(
                "outside of it",
                ["-" if f is None else ", ".join(f.undelegated) or "none" for f in found],
                is_words=True,
            ),
            Column("after the tensor", [s.after for s in sites], is_words=True, folds=True),
        ),
    )


def gates_table(
    statistics: Sequence[GateStatistics], tau: float, worth: Mapping[str, float] | None = None
) -> Table:
    """Returns the table of the gate statistics of SE sites, optionally with their worth."""
    columns = [
        names("site", [each.name for each in statistics]),
        Column("mean", [figure(each.mean, ".4f") for each in statistics]),
        Column("spread", [figure(each.spread, ".4f") for each in statistics]),
        Column("classes", [figure(each.between_classes, ".4f") for each in statistics]),
        Column(f"< {tau:g}", [str(each.suppressed) for each in statistics]),
        Column("saturated", [figure(each.saturated, ".1%") for each in statistics]),
    ]
    if worth is not None:
        cells = [figure(worth.get(each.name), ".4f") for each in statistics]
        columns.append(Column("worth", cells))
    return Table("Gates", columns)
