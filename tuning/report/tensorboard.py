"""The records of a search for TensorBoard: a run for each trial, with its hyperparameters."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_se.errors import import_extra
from keras_se.files import output_folder
from tuning.report.curves import read_curve

if TYPE_CHECKING:
    from tuning.deployed.record import DeployedRecord
    from tuning.result import SearchResult
    from tuning.trials.records import TrialRecord

_BEST = "best epoch"  # not the last one, whose metrics the curves end with
_PLUGIN = "tensorboard.plugins.hparams"


def write_tensorboard(
    result: "SearchResult", path: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Writes a folder with one run for each trial, all of them or none."""
    files = {(record.candidate, record.seed): record for record in result.deployed}
    with output_folder(path, overwrite) as folder:
        with _events(folder) as write:
            write(_experiment(result))
        for record in result.records:
            with _events(folder / record.key) as write:
                _write_trial(write, result, record, files.get((record.candidate, record.seed)))


@contextmanager
def _events(folder: Path) -> Iterator[Any]:
    """Yields a function that writes a summary, of a step, into the run of a folder."""
    events: Any = import_extra("tensorboard.compat.proto.event_pb2", "tuning")
    writers: Any = import_extra("tensorboard.summary.writer.event_file_writer", "tuning")
    writer = writers.EventFileWriter(str(folder))

    def write(summary: Any, step: int = 0) -> None:
        event = events.Event(step=step, wall_time=time.time())
        # Some of them are TensorFlow's own messages, which are equal in bytes alone.
        event.summary.ParseFromString(summary.SerializeToString())
        writer.add_event(event)

    try:
        yield write
    finally:
        writer.close()


def _experiment(result: "SearchResult") -> Any:
    """Returns the hyperparameters and the metrics that the columns of TensorBoard are."""
    hp: Any = import_extra(f"{_PLUGIN}.api", "tuning")
    names = sorted({name for record in result.records for name in record.values})
    metrics = {_BEST: result.metric, "parameters": "parameters", "FLOPs": "FLOPs"}
    if result.deployed:
        kind = result.deployed[0].format
        units = {"metric": result.metric, "latency": "ms", "bytes": "bytes"}
        metrics |= {f"file/{name}": f"{kind} file, {unit}" for name, unit in units.items()}
    return hp.hparams_config_pb(
        hparams=[hp.HParam(name) for name in names],
        metrics=[hp.Metric(tag, display_name=shown) for tag, shown in metrics.items()],
    )


def _write_trial(
    write: Any, result: "SearchResult", record: "TrialRecord", file: "DeployedRecord | None"
) -> None:
    hp: Any = import_extra(f"{_PLUGIN}.api", "tuning")
    ends: Any = import_extra(f"{_PLUGIN}.summary", "tuning")
    statuses: Any = import_extra(f"{_PLUGIN}.api_pb2", "tuning")
    # Seeds of a candidate are a group, of which TensorBoard shows the mean. Those that confirm it
    # had no part in the choice, and are a group of their own.
    group = f"{record.label}, confirmed" if record.is_fresh else record.label
    now = time.time()
    write(hp.hparams_pb(record.values, trial_id=group, start_time_secs=now - record.seconds))
    for line in read_curve(Path(result.folder, record.curve)) if result.folder else []:
        named = {name: value for name, value in line.items() if name not in ("epoch", "score")}
        _write_scalars(write, named, int(line["epoch"]))
    found = {_BEST: record.score, "parameters": record.parameters, "FLOPs": record.flops}
    if file is not None:
        kept = {"metric": file.metric, "latency": file.latency, "bytes": file.bytes}
        found |= {f"file/{name}": value for name, value in kept.items()}
    _write_scalars(write, found, record.epoch)
    ended = statuses.STATUS_SUCCESS if record.completed else statuses.STATUS_FAILURE
    write(ends.session_end_pb(ended, end_time_secs=now))


def _write_scalars(write: Any, values: Mapping[str, float | None], step: int) -> None:
    scalars: Any = import_extra("tensorboard.plugins.scalar.summary_v2", "tuning")
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            write(scalars.scalar_pb(name, value), step)
