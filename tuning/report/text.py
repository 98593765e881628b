"""The result of a search as text of 80 columns, and as rows."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from keras_se.display.text import figure, rendered
from tuning.report.candidates import Candidate, candidates

if TYPE_CHECKING:
    from tuning.deployed.record import DeployedRecord
    from tuning.result import SearchResult

_SHOWN = 12  # candidates of a table of text


def described(result: "SearchResult") -> str:
    """Returns the result as text of at most 80 columns."""
    found = candidates(result)
    parts: list[str | Table] = [*conclusion(result), _table(result, found), *remarks(result)]
    parts += [f"{number} failed: {cause}" for cause, number in causes(result).items()]
    if result.deployed:
        parts.append(_files(result))
    if result.decision is not None:
        parts.append(
            "loses ≤: at most that against the best of the others, all with 95 % probability."
        )
    trainings = f"{len(result.records)} trainings of {len(found)} candidates"
    parts.append(f"{trainings}, {sum(r.seconds for r in result.records):,.0f} s in all.")
    return rendered(parts)


def conclusion(result: "SearchResult") -> Iterator[str]:
    """Yields what was chosen, and how it did on fresh seeds."""
    yield f"Chosen: {result.chosen}. {result.sentence}"
    found = result.confirmation
    if found is None:
        return
    seeds = "1 fresh seed" if len(found.seeds) == 1 else f"{len(found.seeds)} fresh seeds"
    spread = "" if found.deviation is None else f" ± {found.deviation:.2g}"
    test = ", ".join(f"{name} {value:.4g}" for name, value in found.test.items())
    tested = f"; on test data {test}" if test else ""
    chosen = f"(chosen by {found.chosen_mean:.4g})"
    yield f"On {seeds}: {result.metric} {found.mean:.4g}{spread} {chosen}{tested}."


def remarks(result: "SearchResult") -> Iterator[str]:
    """Yields what cannot be told apart."""
    if result.decision is not None and len(result.tied) > 1:
        yield f"Not distinguishable from the best: {', '.join(result.tied)}."
    if result.decision is not None and result.decision.undecided:
        yield f"Cheaper, but undecided: {', '.join(result.decision.undecided)}."
    for record in result.deployed:
        is_said = record.label in result.sentence and record.reason in result.sentence
        if not record.passed and not is_said:
            yield f"{record.label} is out as an {record.format} file: {record.reason}."


def causes(result: "SearchResult") -> Counter[str]:
    """Returns how many trials failed, by cause."""
    return Counter(record.cause for record in result.records if record.cause)


def _table(result: "SearchResult", found: list[Candidate]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold")
    for column in ("parameters", "ΣC²/r", "seeds", result.metric, "sd", "loses ≤"):
        table.add_column(column, justify="right")
    for each in ordered(result, found)[:_SHOWN]:
        table.add_row(
            each.label,
            f"{each.parameters:,}",
            f"{each.complexity:g}",
            str(len(each.scores)),
            figure(each.mean if each.scores else None, ".4g"),
            figure(each.deviation, ".2g"),
            figure(each.upper, ".3g"),
        )
    if len(found) > _SHOWN:
        table.add_row(f"and {len(found) - _SHOWN} more")
    return table


def _files(result: "SearchResult") -> Table:
    """Returns the table of the files, with median latencies."""
    first = result.deployed[0]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f"{first.format} file, seed {first.seed}", overflow="fold")
    for column in (result.metric, "as file", "ms", "kB"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for record in result.deployed[:_SHOWN]:
        table.add_row(record.label, *file_figures(record), record.verdict or "not judged")
    if len(result.deployed) > _SHOWN:
        table.add_row(f"and {len(result.deployed) - _SHOWN} more")
    return table


def file_figures(record: "DeployedRecord") -> tuple[str, ...]:
    """Returns metric of model and file, median latency in ms, and kB, as text."""
    return (
        figure(record.reference, ".4g"),
        figure(record.metric, ".4g"),
        figure(record.latency, ".3g"),
        f"{record.bytes / 1000:,.1f}" if record.bytes else "-",
    )


def ordered(result: "SearchResult", found: list[Candidate]) -> list[Candidate]:
    """Returns candidates with the chosen one first, then the best, and the failed ones last."""
    sign = -1.0 if result.direction == "max" else 1.0
    return sorted(
        found,
        key=lambda c: (c.label != result.chosen, not c.scores, sign * c.mean if c.scores else 0.0),
    )


def csv_text(result: "SearchResult") -> str:
    """Returns the rows as CSV, with a line of names."""
    stream, found = io.StringIO(), rows(result)
    writer = csv.DictWriter(stream, list(found[0]) if found else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return stream.getvalue()


def rows(result: "SearchResult") -> list[dict[str, Any]]:
    """Returns one row for each training, with the same keys in each."""
    fixed = ("label", "candidate", "seed", "status", "score", "epoch", "parameters", "complexity")
    groups = ("values", "metrics", "test")
    names = {
        group: sorted({name for record in result.records for name in getattr(record, group)})
        for group in groups
    }
    return [
        {
            **{name: getattr(record, name) for name in (*fixed, "seconds", "cause")},
            **{
                f"{group.removesuffix('s')}:{name}": getattr(record, group).get(name)
                for group in groups
                for name in names[group]
            },
        }
        for record in result.records
    ]
