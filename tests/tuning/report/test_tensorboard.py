"""What TensorBoard itself reads of a search: its curves, and the rows of its HParams page."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)
from tensorboard.util.tensor_util import make_ndarray

from keras_se.errors import InputError
from tuning import DeployedRecord, SearchResult, TrialRecord
from tuning.trials.records import FRESH

SCORES = {2: (0.5, 0.7), 4: (0.25, 0.35)}


def trial(ratio, seed, score=None):
    values = {"se_ratio": ratio, "se_gate": "sigmoid"}
    found = {"score": score, "epoch": 2} if score else {"cause": "ValueError: no"}
    return TrialRecord(
        f"r{ratio}", f"ratio={ratio}", values, seed, "completed" if score else "failed",
        parameters=1000 // ratio, curve=f"curves/r{ratio}-s{seed}.jsonl", seconds=60.0,
        flops=3_000_000, **found,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "curves").mkdir()
    records = [trial(r, seed, s) for r, scores in SCORES.items() for seed, s in enumerate(scores)]
    for one in records:
        losses = [1.0, one.score, None]
        lines = [
            {"epoch": n, "val_loss": loss, "score": loss} for n, loss in enumerate(losses, start=1)
        ]
        (folder / one.curve).write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = DeployedRecord(
        candidate="r4", label="ratio=4", seed=0, format="int8", passed=True, verdict="a verdict",
        metric=0.375, latency=1.5, bytes=4096,
    )  # fmt: skip
    records += [trial(4, 2), trial(4, FRESH, 0.75)]
    return SearchResult(
        "cheapest", "val_loss", "min", 3, (0, 1), tuple(records), "ratio=4", {"se_ratio": 4},
        None, None, None, "a sentence", deployed=(file,), folder=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def board(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("board") / "logs"
    result.to_tensorboard(path)
    return path


def test_each_trial_is_a_run_with_its_curve(board):
    assert sorted(path.name for path in board.iterdir() if path.is_dir()) == [
        "r2-s0", "r2-s1", "r4-s0", "r4-s1", "r4-s2", f"r4-s{FRESH}",
    ]  # fmt: skip
    events = EventAccumulator(str(board / "r4-s1"))
    events.Reload()
    curve = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors("val_loss")]
    assert curve == [(1, 1.0), (2, pytest.approx(0.35))]  # the third was not finite
    (best,) = events.Tensors("best epoch")
    assert (best.step, float(make_ndarray(best.tensor_proto))) == (2, pytest.approx(0.35))


def test_the_hparams_page_has_a_row_for_each_candidate(board):
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(board)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(board))
    context = backend_context.Context(SimpleNamespace(data_provider=provider))
    experiment = get_experiment.Handler(
        RequestContext(), context, "", api_pb2.GetExperimentRequest(include_metrics=True)
    ).run()
    assert [each.name for each in experiment.hparam_infos] == ["se_gate", "se_ratio"]
    names = {each.name.tag: each.display_name for each in experiment.metric_infos}
    assert names == {
        "best epoch": "val_loss", "parameters": "parameters", "FLOPs": "FLOPs",
        "file/metric": "int8 file, val_loss", "file/latency": "int8 file, ms",
        "file/bytes": "int8 file, bytes",
    }  # fmt: skip
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10,
        include_metrics=True,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE],
        aggregation_type=api_pb2.AGGREGATION_AVG,
        col_params=[
            api_pb2.ColParams(include_in_result=True, **{kind: info.name})
            for kind, infos in {
                "metric": experiment.metric_infos,
                "hparam": experiment.hparam_infos,
            }.items()
            for info in infos
        ],
    )
    found = list_session_groups.Handler(RequestContext(), context, "", request).run()
    rows = {group.name: group for group in found.session_groups}
    assert rows.keys() == {"ratio=2", "ratio=4", "ratio=4, confirmed"}
    values = {
        name: {metric.name.tag: metric.value for metric in group.metric_values}
        for name, group in rows.items()
    }
    assert values["ratio=2"] == {"best epoch": pytest.approx(0.6), "parameters": 500, "FLOPs": 3e6}
    assert values["ratio=4"]["best epoch"] == pytest.approx(0.3)
    assert values["ratio=4"]["file/latency"] == 1.5
    assert values["ratio=4"]["file/bytes"] == 4096
    assert rows["ratio=4"].hparams["se_ratio"].number_value == 4
    assert rows["ratio=4"].hparams["se_gate"].string_value == "sigmoid"
    sessions = rows["ratio=4"].sessions
    statuses = sorted(session.status for session in sessions)
    assert statuses == [*[api_pb2.STATUS_SUCCESS] * 2, api_pb2.STATUS_FAILURE]
    assert sessions[0].end_time_secs - sessions[0].start_time_secs == pytest.approx(60.0)


def test_a_folder_is_written_whole_and_over_nothing(result, board, tmp_path):
    with pytest.raises(InputError, match="must not exist yet"):
        result.to_tensorboard(board)
    broken = dataclasses.replace(result, records=(trial(2, 0, 0.5), None))
    with pytest.raises(AttributeError):
        broken.to_tensorboard(tmp_path / "logs")
    assert list(tmp_path.iterdir()) == []
