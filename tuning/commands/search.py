"""The command `keras-se search`: starts or resumes a search from a job file or from flags."""

import json
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from keras_se.cli.commands import FAILED, PASSED, import_modules
from keras_se.errors import InputError, import_extra
from keras_se.files import check_file_name, model_bytes, refuse_existing, write_file
from tuning.choice.decision import Decision
from tuning.commands.compile_flags import OF_COMPILE, flag_name, with_compile
from tuning.commands.job_file import job_arguments, read_job, read_space
from tuning.commands.progress import SearchProgress
from tuning.environment import other_modules
from tuning.objectives import get_objective, metric_direction
from tuning.result import SearchResult
from tuning.running.folder import stored_threads
from tuning.running.stages import NoCandidateError
from tuning.running.threads import threads_here
from tuning.searching import ORACLES, search
from tuning.trials.durable import write_durably
from tuning.trials.records import SearchWarning
from tuning.trials.references import is_reference

keras_tuner: Any = import_extra("keras_tuner", "tuning")

# A job file sets these. The other flags only say how to run it and may change on resuming.
_OF_A_JOB = (
    "model",
    "data",
    "space",
    "epochs",
    "directory",
    "batch_size",
    "oracle",
    "max_parameters",
    *OF_COMPILE,
)


@click.command("search", short_help="Search over SE blocks; go on with a search.")
@click.argument("job", required=False)
@click.option(
    "--model",
    help="module:builder or MODEL.keras. A builder takes no argument, and SE is inserted, or hp.",
)
@click.option(
    "--data",
    help="FILE.npz with x_train, y_train and, where there are any, x_val, "
    "y_val, x_test, y_test, or x, y; or module:function.",
)
@click.option("--space", help="JSON file with arguments of SESpace: ratios, gates, ...")
@click.option(
    "--objective",
    help="cheapest:TOLERANCE[:METRIC], risk:WEIGHT[:METRIC]; by default cheapest:0.002:val_loss.",
)
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
    if out is not None:  # fail now rather than after hours of training
        _check_out(out, overwrite)
    # Click passes None, or () for a repeatable option, where a flag is missing.
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    arguments = _from_file(job, given) if job is not None else _from_flags(given)
    _check_references(arguments)
    arguments["modules"] = _import_modules(arguments)
    directory = Path(arguments["directory"])
    began_with = None if overwrite else stored_threads(directory)
    # First of all: TensorFlow fixes its number of threads at the first operation, and
    # `with_compile` may build a model, which computes.
    threads_here(arguments.get("workers", 1), arguments.get("threads"), began_with)
    arguments = with_compile(arguments, given)
    # No markup: candidate names and paths may contain brackets.
    console = Console(highlight=False, markup=False, emoji=False)
    rule = get_objective(arguments.get("objective", "val_loss"))
    with SearchProgress(console, rule.metric, metric_direction(rule)) as progress, _said():
        try:
            result = search(
                **arguments,
                accept_change=accept_change,
                overwrite=overwrite,
                on_start=progress.start,
                on_trial=progress.add,
            )
        except NoCandidateError as error:
            click.echo(f"Error: {error}", err=True)
            return FAILED
        except KeyboardInterrupt:
            number = len(list((directory / "records").glob("*.json")))
            click.echo(f"The same command goes on from {number} records.", err=True)
            raise
    _show(console, result)
    _next(console, result, directory, arguments)
    if out is not None:
        aside = write_file(out, model_bytes(result.model()), overwrite)
        note = f"; the old one is now {aside}" if aside else ""
        console.print(f"{out}: the winner{note}", soft_wrap=True)
    return PASSED


def _from_file(job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    clash = [name for name in _OF_A_JOB if name in given]
    if clash:
        raise InputError(
            "A job's file says what is searched; only how it is run can be given beside it. "
            f"Received: {job} and {', '.join(map(flag_name, clash))}"
        )
    return {**read_job(Path(job)), **given}


def _from_flags(given: dict[str, Any]) -> dict[str, Any]:
    needed = [name for name in ("model", "data", "epochs", "directory") if name not in given]
    if needed:
        raise InputError(
            "search takes a JOB.toml, or --model, --data, --epochs and --directory. "
            f"Received: no {', '.join(map(flag_name, needed))}"
        )
    content = {name: value for name, value in given.items() if name not in (*OF_COMPILE, "space")}
    arguments = job_arguments(content, "the command line")
    if "space" in given:
        arguments["space"] = read_space(given["space"])
    return arguments


def _import_modules(arguments: Mapping[str, Any]) -> list[str]:
    """Imports the modules of the job and returns them with those of `--import`."""
    # The main command has already imported the modules of `--import`.
    own, context = list(arguments.get("modules", ())), click.get_current_context().parent
    import_modules(own, "modules of a job")
    named = () if context is None else context.params.get("modules", ())
    return list(dict.fromkeys([*own, *named]))


def _check_references(arguments: Mapping[str, Any]) -> None:
    """Raises an error if a reference means a user's own module named `tuning`."""
    # This package hides a user's module of the same name, so Python never finds that one.
    for value in arguments.values():
        if is_reference(value) and value.split(":")[0].split(".")[0] == "tuning":
            for path in other_modules():
                raise InputError(
                    "A module of your own must not be named tuning, as this package is: rename it. "
                    f"Received: {value!r}, with {path}"
                )


def _check_out(out: str, overwrite: bool) -> None:
    if not out.endswith(".keras"):
        raise InputError(f"The name of a model file must end in .keras. Received: {out!r}")
    check_file_name(out)
    refuse_existing(out, overwrite)


@contextmanager
def _said() -> Iterator[None]:
    """Prints each `SearchWarning` as one line."""

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
    for row in _screened(result) if result.decision is None else _standings(result.decision):
        table.add_row(*row)
    console.print(table)
    causes: dict[str, int] = {}
    for record in result.records:
        if record.cause:
            causes[record.cause] = causes.get(record.cause, 0) + 1
    for cause, number in causes.items():
        console.print(f"{number} failed: {cause}")
    console.print(result.sentence)
    if result.decision is not None and len(result.tied) > 1:
        console.print(f"Cannot be told from the best: {', '.join(result.tied)}")
    if result.decision is not None and result.decision.undecided:
        console.print(f"Cheaper, and undecided: {', '.join(result.decision.undecided)}")
    if result.confirmation is not None:
        console.print(_confirmed(result))


def _standings(decision: Decision) -> Iterator[tuple[str, ...]]:
    for standing in decision.standings:
        sizes = f"{standing.parameters:,}", f"{standing.complexity:g}"
        yield standing.name, *sizes, f"{standing.mean:.4g}", f"{standing.upper:.3g}"


def _screened(result: SearchResult) -> Iterator[tuple[str, ...]]:
    """Yields table rows with mean scores, for a search with too few seeds for a rule."""
    scores: dict[str, list[float]] = {}
    sizes = {r.label: (f"{r.parameters:,}", f"{r.complexity:g}") for r in result.records}
    for record in result.records:
        if record.score is not None and record.seed in result.seeds:
            scores.setdefault(record.label, []).append(record.score)
    for label, found in scores.items():
        yield label, *sizes[label], f"{np.mean(found):.4g}", "-"


def _confirmed(result: SearchResult) -> str:
    found = result.confirmation
    if found is None:
        return ""
    spread = "" if found.deviation is None else f" ± {found.deviation:.2g}"
    test = ", ".join(f"{name} {value:.4g}" for name, value in found.test.items())
    number = len(found.seeds)
    sentence = (
        f"On {number} fresh seed{'s' * (number > 1)}: {result.metric} {found.mean:.4g}{spread} "
        f"(chosen by {found.chosen_mean:.4g})"
    )
    return sentence + (f"; on test data {test}." if test else ".")


def _next(
    console: Console, result: SearchResult, directory: Path, arguments: Mapping[str, Any]
) -> None:
    # Soft wrap: Rich would otherwise break long paths and commands, which users copy.
    console.print(f"{directory / 'result.json'}: all of it", soft_wrap=True)
    if result.plan is None:
        return
    plan = directory / "plan.json"
    write_durably(plan, json.dumps(result.plan, indent=2).encode(), "result")
    if not result.plan:
        console.print("There is nothing to insert.")
        return
    model, where = arguments["model_or_builder"], arguments.get("where")
    source = model if model.endswith(".keras") else "MODEL.keras"
    words = ["keras-se", "insert", source, "OUT.keras", "--plan", str(plan)]
    if result.placement not in (None, "standard"):
        words += ["--placement", str(result.placement)]
    if isinstance(where, str):
        words += ["--where", where]
    if isinstance(where, list):  # the command has no flag for a list of names
        console.print(f"{plan}: for keras_se.insert, with where={where}", soft_wrap=True)
    else:
        console.print(shlex.join(words), soft_wrap=True)
