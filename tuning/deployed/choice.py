"""The choice once files have been judged: that of the rule stays if its file passes."""

import math
from collections.abc import Mapping, Sequence

from tuning.choice.scores import Direction, as_loss
from tuning.deployed.record import DeployedRecord


def choose_by_file(
    records: Mapping[str, DeployedRecord],
    parameters: Mapping[str, int],
    tied: Sequence[str],
    metric: str,
    direction: Direction,
) -> tuple[str, str]:
    """Returns the label of the choice, and a sentence with the reason.

    The choice of the rule, whose record is the first, stays if its file passes; else it is the
    smallest tied candidate whose file does; else the one with the best metric as a file.
    """
    chosen, own = next(iter(records.items()))
    kind = own.format
    if own.passed:
        return chosen, f"Its {kind} file passes: {own.verdict}."
    out = f"The rule chose {chosen}, which is out as an {kind} file: {own.reason}."
    passed = [label for label, record in records.items() if record.passed]
    if not passed:
        all_out = (
            f"No {kind} file passes, of {len(records)} that were judged: {chosen} stays, whose"
        )
        return chosen, f"{all_out} file is out: {own.reason}."
    among = [label for label in tied if label in passed]
    if among:
        label = min(among, key=lambda name: parameters[name])
        return label, f"{out} Of the tied candidates whose files pass, {label} is the smallest."
    label = min(passed, key=lambda name: _loss(records[name], direction))
    value = records[label].metric
    told = "" if value is None else f", {value:.4g}"
    return label, f"{out} Of the files that pass, that of {label} has the best {metric}{told}."


def _loss(record: DeployedRecord, direction: Direction) -> float:
    return math.inf if record.metric is None else as_loss(record.metric, direction)
