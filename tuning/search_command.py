"""`keras-se search`: a search from a file or from flags, run or gone on with."""

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import keras
from rich import box
from rich.console import Console
from rich.table import Table

from keras_se.cli import FAILED, PASSED
from keras_se.errors import InputError, import_extra
from keras_se.losses import cross_entropy_of
from keras_se.model_files import load_model, model_bytes
from keras_se.outputs import check_file_name, refuse_existing, write_file
from tuning.durable import write_durably
from tuning.job_file import job_arguments, read_job, read_space
from tuning.objectives import get_objective, metric_direction
from tuning.progress import SearchProgress
from tuning.records import SearchWarning
from tuning.references import is_reference, resolve
from tuning.result import SearchResult
from tuning.rounds import NoCandidateError
from tuning.searching import ORACLES, search
from tuning.trial_data import TrialData, fit_arguments

keras_tuner: Any = import_extra("keras_tuner", "tuning")

_OF_A_JOB = ("model", "data", "space", "epochs", "directory", "batch_size", "oracle", "optimizer",
             "learning_rate", "loss", "metric", "max_parameters")  # fmt: skip
_PROBED = 32


@click.command("search", short_help="Search over SE blocks; go on with a search.")
@click.argument("job", required=False)
@click.option("--model", help="module:builder or MODEL.keras. A builder takes no argument, and SE "
              "is inserted, or hp.")  # fmt: skip
@click.option("--data", help="FILE.npz with x_train, y_train and, where there are any, x_val, "
              "y_val, x_test, y_test, or x, y; or module:function.")  # fmt: skip
@click.option("--space", help="JSON file with arguments of SESpace: ratios, gates, ...")
@click.option("--objective", help="cheapest:TOLERANCE[:METRIC], risk:WEIGHT[:METRIC]; by default "
              "cheapest:0.002:val_loss.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), help="Epochs per trial.")
@click.option("--seeds", type=click.IntRange(1), help="Seeds per candidate, 3 by default.")
@click.option("--workers", type=click.IntRange(1), help="Processes at a time, 1 by default.")
@click.option("--directory", help="Folder of the search.")
@click.option("--oracle", type=click.Choice(ORACLES), help="exhaustive by default.")
@click.option("--batch-size", type=click.IntRange(1))
@click.option("--optimizer", help="Where the model is not compiled: adam by default.")
@click.option("--learning-rate", type=click.FloatRange(0.0, min_open=True), help="0.001.")
@click.option("--loss", help="The cross entropy that fits the outputs by default.")
@click.option("--metric", multiple=True, help="accuracy by default; may be repeated.")
@click.option("--max-parameters", type=click.IntRange(1), help="Larger candidates fail, untrained.")
@click.option("--fresh-seeds", type=click.IntRange(0), help="Of the winner at the end, 3.")
@click.option("--threads", type=click.IntRange(1), help="Of each process: cores over workers.")
@click.option("--timeout", type=click.FloatRange(0.0, min_open=True), help="Seconds per trial.")
@click.option("--out", help="Also write the winner, trained, to OUT.keras.")
@click.option("--accept-change", is_flag=True, help="Go on though the job has changed.")
@click.option("--overwrite", is_flag=True, help="Rename the old search, and an old OUT, aside.")
def search_command(
    job: str | None, out: str | None, accept_change: bool, overwrite: bool, **flags: Any
) -> int:
    """Search over SE blocks as JOB.toml or the flags say; what is done already is not done again.

    Exit code 1 if no candidate finished.
    """
    if out is not None:
        _check_out(out, overwrite)
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    arguments = _from_file(job, given) if job is not None else _from_flags(given)
    modules = click.get_current_context().parent
    if modules is not None and modules.params.get("modules"):
        arguments["modules"] = list(modules.params["modules"])
    console = Console(highlight=False)
    rule = get_objective(arguments.get("objective", "val_loss"))
    directory = Path(arguments["directory"])
    with SearchProgress(console, rule.metric, metric_direction(rule)) as progress, _said():
        try:
            result = search(
                **arguments, accept_change=accept_change, overwrite=overwrite,
                on_start=progress.start, on_trial=progress.add,
            )  # fmt: skip
        except NoCandidateError as error:
            click.echo(f"Error: {error}", err=True)
            return FAILED
        except KeyboardInterrupt:
            number = len(list((directory / "records").glob("*.json")))
            click.echo(f"The same command goes on from {number} records.", err=True)
            raise
    _show(console, result)
    _next(console, result, directory, str(arguments["model_or_builder"]))
    if out is not None:
        aside = write_file(out, model_bytes(result.model()), overwrite)
        console.print(f"{out}: the winner" + (f"; the old one is now {aside}" if aside else ""))
    return PASSED


def _from_file(job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    clash = [name for name in _OF_A_JOB if name in given]
    if clash:
        raise InputError(
            "A job's file says what is searched; only how it is run can be given beside it. "
            f"Received: {job} and {', '.join('--' + name.replace('_', '-') for name in clash)}"
        )
    return {**read_job(Path(job)), **given}


def _from_flags(given: dict[str, Any]) -> dict[str, Any]:
    needed = [name for name in ("model", "data", "epochs", "directory") if name not in given]
    if needed:
        raise InputError(
            "search takes a JOB.toml, or --model, --data, --epochs and --directory. "
            f"Received: no {', '.join('--' + name for name in needed)}"
        )
    names = ("optimizer", "learning_rate", "loss", "metric", "space")
    content = {name: value for name, value in given.items() if name not in names}
    arguments = job_arguments(content, "the command line")
    builder = _found(given["model"])
    if "space" in given:
        arguments["space"] = read_space(given["space"])
    elif isinstance(builder, keras.Model) or not _takes_arguments(builder):
        raise InputError(
            "A search needs --space, a JSON file with arguments of SESpace, unless the builder "
            f"takes hp. Received: --model {given['model']} without --space"
        )
    compile = _compile_arguments(builder, arguments, given)
    if compile is not None:
        arguments["compile"] = compile
        Console(highlight=False).print(f"Compiled with {json.dumps(compile)}", markup=False)
    return arguments


def _found(model: str) -> Any:
    return resolve("model", model) if is_reference(model) else load_model(model)


def _takes_arguments(builder: Any) -> bool:
    return inspect.isclass(builder) or isinstance(builder, keras_tuner.HyperModel) or any(
        p.default is p.empty for p in inspect.signature(builder).parameters.values()
    )  # fmt: skip


def _compile_arguments(
    builder: Any, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Settings where the model has none, or where flags give some."""
    flags = {name: given[name] for name in ("optimizer", "learning_rate", "loss") if name in given}
    model = builder
    if not isinstance(builder, keras.Model):
        if inspect.isclass(builder) or isinstance(builder, keras_tuner.HyperModel):
            return None
        hp = [keras_tuner.HyperParameters()] if _takes_arguments(builder) else []
        model = builder(*hp)
    if not isinstance(model, keras.Model) or (model.compiled and not flags):
        return None
    return {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "loss": _loss(model, arguments) if "loss" not in flags else None,
        **flags,
        "metrics": list(given.get("metric", ("accuracy",))),
        "jit_compile": False,
    }


def _loss(model: keras.Model, arguments: Mapping[str, Any]) -> dict[str, Any]:
    data = TrialData(arguments["train"], arguments.get("validation"), arguments.get("test"))
    train = data.load(0)[0]
    if hasattr(train, "element_spec"):
        x = next(iter(train.take(1)))[0]
    else:
        x = keras.tree.map_structure(lambda part: part[:_PROBED], fit_arguments(train)["x"])
    shapes = [output.shape for output in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InputError(
            "A model that is no classifier with one output needs --loss, or is compiled. "
            f"Received: model {model.name!r} with outputs of shape {shapes}"
        )
    loss = cross_entropy_of(model, x)
    return {
        "class_name": type(loss).__name__,
        "config": {"from_logits": bool(loss.get_config()["from_logits"])},
    }


def _check_out(out: str, overwrite: bool) -> None:
    if not out.endswith(".keras"):
        raise InputError(f"The name of a model file must end in .keras. Received: {out!r}")
    check_file_name(out)
    refuse_existing(out, overwrite)


@contextmanager
def _said() -> Iterator[None]:
    """Warnings of the search as lines."""

    def say(message: Any, category: Any, *arguments: Any, **further: Any) -> None:
        if issubclass(category, SearchWarning):
            click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", SearchWarning)
        warnings.showwarning = say
        yield


def _show(console: Console, result: SearchResult) -> None:
    columns = ("candidate", "parameters", "ΣC²/r", result.metric, "loses at most")
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for standing in () if result.decision is None else result.decision.standings:
        table.add_row(
            *(standing.name, f"{standing.parameters:,}", f"{standing.complexity:g}"),
            *(f"{standing.mean:.4g}", f"{standing.upper:.3g}"),
        )
    if result.decision is not None:
        console.print(table)
    causes: dict[str, int] = {}
    for record in result.records:
        if record.cause:
            causes[record.cause] = causes.get(record.cause, 0) + 1
    for cause, number in causes.items():
        console.print(f"{number} failed: {cause}", markup=False)
    console.print(result.sentence, markup=False)
    if result.decision is not None and len(result.tied) > 1:
        console.print(f"Cannot be told from the best: {', '.join(result.tied)}", markup=False)
    if result.confirmation is not None:
        console.print(_confirmed(result), markup=False)


def _confirmed(result: SearchResult) -> str:
    found = result.confirmation
    if found is None:
        return ""
    spread = "" if found.deviation is None else f" ± {found.deviation:.2g}"
    test = ", ".join(f"{name} {value:.4g}" for name, value in found.test.items())
    return (
        f"On {len(found.seeds)} fresh seeds: {result.metric} {found.mean:.4g}{spread} (chosen by "
        f"{found.chosen_mean:.4g})" + (f"; on test data {test}" if test else "") + "."
    )


def _next(console: Console, result: SearchResult, directory: Path, model: str) -> None:
    console.print(f"{directory / 'result.json'}: all of it")
    if result.plan is None:
        return
    plan = directory / "plan.json"
    write_durably(plan, json.dumps(result.plan, indent=2).encode(), "result")
    if not result.plan:
        console.print("There is nothing to insert.")
        return
    source = model if model.endswith(".keras") else "MODEL.keras"
    placed = "" if result.placement in (None, "standard") else f" --placement {result.placement}"
    console.print(f"keras-se insert {source} OUT.keras --plan {plan}{placed}", soft_wrap=True)
