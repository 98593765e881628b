"""The result of a search as text of 80 columns, and as rows."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part, figure
from tuning.choice.scores import as_loss
from tuning.report.candidates import Candidate, candidates, front, pareto_front

if TYPE_CHECKING:
    from tuning.deployed.record import DeployedRecord
    from tuning.result import SearchResult

_OF_FILES = ("format", "passed", "metric", "latency", "bytes")  # of a file, in rows
_SHOWN = 12  # candidates of a table of text


def result_parts(result: "SearchResult") -> Iterator[Part]:
    """Yields the conclusion, then sentences, the candidates and the files."""
    found = candidates(result)
    yield from conclusion(result)
    yield candidates_table(result, found)
    yield from remarks(result)
    for cause, number in causes(result).items():
        yield f"{number} failed: {cause}"
    if result.deployed:
        yield files_table(result)
    if result.decision is not None:
        yield "loses ≤: at most that against the best of the others, all with 95 % probability."
    trainings = f"{len(result.records)} trainings of {len(found)} candidates"
    yield f"{trainings}, {sum(r.seconds for r in result.records):,.0f} s in all."


def conclusion(result: "SearchResult") -> Iterator[str]:
    """Yields what was chosen, and how it did on fresh seeds."""
    head = "Chosen" if result.finished else "Provisional"
    yield f"{head}: {result.chosen}. {result.sentence}"
    found = result.confirmation
    if found is None:
        return
    seeds = "1 fresh seed" if len(found.seeds) == 1 else f"{len(found.seeds)} fresh seeds"
    spread = "" if found.deviation is None else f" ± {found.deviation:.2g}"
    test = ", ".join(f"{name} {value:.4g}" for name, value in found.test.items())
    tested = f"; on test data {test}" if test else ""
    chosen = f"(chosen by {found.chosen_mean:.4g})"
    yield f"On {seeds}: {result.metric} {found.mean:.4g}{spread} {chosen}{tested}."


def role(result: "SearchResult") -> str:
    """Returns what the first candidate is: the choice, or what may still change."""
    return "chosen" if result.finished else "best so far"


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


def candidates_table(result: "SearchResult", found: list[Candidate]) -> Table:
    """Returns the table of the candidates, the chosen one first."""
    shown = ordered(result, found)
    remarks = {
        role(result): [result.chosen],
        "on the front": [each.label for each in pareto_front(found, result.direction)],
        "failed": [each.label for each in found if not each.scores],
    }
    return Table(
        "Candidates",
        (
            names("candidate", [each.label for each in shown]),
            Column("parameters", [f"{each.parameters:,}" for each in shown]),
            Column("MFLOPs", [figure(millions(each.flops), ".4g") for each in shown]),
            Column("ΣC²/r", [f"{each.complexity:g}" for each in shown]),
            Column("seeds", [str(len(each.scores)) for each in shown]),
            Column(result.metric, [figure(c.mean if c.scores else None, ".4g") for c in shown]),
            *_compared(result, shown),
            Column("seconds", [f"{each.seconds:.1f}" for each in shown], short=None),
            _remarks([each.label for each in shown], remarks),
        ),
        most=_SHOWN,
    )


def _compared(result: "SearchResult", shown: Sequence[Candidate]) -> Iterator[Column]:
    """Yields what takes several seeds; a search on one has no such columns."""
    if any(each.deviation is not None for each in shown):
        yield Column("sd", [figure(each.deviation, ".2g") for each in shown])
    if result.decision is not None:
        yield Column("loses ≤", [figure(each.upper, ".3g") for each in shown])


def _remarks(labels: Sequence[str], remarks: Mapping[str, Sequence[str]]) -> Column:
    """Returns a column with the remarks that have a label."""
    cells = [", ".join(r for r, own in remarks.items() if label in own) for label in labels]
    return Column("remarks", cells, short=None, is_words=True)


def files_table(result: "SearchResult") -> Table:
    """Returns the table of the files, with median latencies."""
    files, first = result.deployed, result.deployed[0]
    remarks = {
        role(result): [result.chosen],
        "on the front": [record.label for record in files_front(result)],
        "out": [record.label for record in files if not record.passed],
    }
    quartiles = [
        " to ".join(figure(value, ".3g") for value in (r.latency_low, r.latency_high))
        for r in files
    ]
    return Table(
        "Files",
        (
            names(f"{first.format} file, seed {first.seed}", [r.label for r in files]),
            Column(
                f"{result.metric}, float",
                [figure(r.reference, ".4g") for r in files],
                short=result.metric,
            ),
            Column("as file", [figure(r.metric, ".4g") for r in files]),
            Column("ms", [figure(r.latency, ".3g") for r in files]),
            Column("quartiles", quartiles, short=None),
            Column("kB", [f"{r.bytes / 1000:,.1f}" if r.bytes else "-" for r in files]),
            Column("work kept", [figure(r.work_kept, ".2f") for r in files], short=None),
            Column("verdict", [r.verdict or "not judged" for r in files], is_words=True),
            _remarks([r.label for r in files], remarks),
        ),
        most=_SHOWN,
    )


def files_front(result: "SearchResult") -> "list[DeployedRecord]":
    """Returns the files that pass and that no other beats in metric, latency and size."""
    passed = [(r, r.metric, r.latency) for r in result.deployed if r.passed]
    timed = [
        (record, (as_loss(metric, result.direction), latency, float(record.bytes)))
        for record, metric, latency in passed
        if metric is not None and latency is not None
    ]
    return [timed[number][0] for number in front([point for _, point in timed])]


def millions(number: int | None) -> float | None:
    """Returns a number of operations in millions."""
    return None if number is None else number / 1e6


def failures_table(result: "SearchResult") -> Table:
    """Returns the table of the causes of failures, the most frequent first."""
    found = causes(result).most_common()
    return Table(
        "Failures",
        (
            names("cause", [cause for cause, _ in found]),
            Column("trainings", [str(number) for _, number in found]),
        ),
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
    fixed = ("label", "candidate", "seed", "status", "score", "epoch")
    sizes = ("parameters", "complexity", "flops", "seconds", "cause")
    groups = ("values", "metrics", "test")
    named = {
        group: sorted({name for record in result.records for name in getattr(record, group)})
        for group in groups
    }
    files = {(record.candidate, record.seed): record for record in result.deployed}
    return [
        {
            **{name: getattr(record, name) for name in (*fixed, *sizes)},
            **{
                f"{group.removesuffix('s')}:{name}": getattr(record, group).get(name)
                for group in groups
                for name in named[group]
            },
            **{
                f"file:{name}": getattr(files.get((record.candidate, record.seed)), name, None)
                for name in (_OF_FILES if files else ())
            },
        }
        for record in result.records
    ]
