"""The command `search`: starts or resumes a search from a job file or from flags."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from keras_se.cli.files import check_output, write_outputs
from keras_se.cli.options import POSITIVE, import_modules, overwrite_option
from keras_se.errors import InputError
from keras_se.files import model_bytes, replace_file
from keras_se.litert.formats import FORMATS
from tuning.commands.compile_flags import OF_COMPILE, flag_name, with_compile
from tuning.commands.dask import connected
from tuning.commands.job_file import job_arguments, read_job, read_space
from tuning.folder.search_folder import folder_errors, stored_threads
from tuning.oracles.table import NAMES
from tuning.result import SearchResult
from tuning.running.stages import NoCandidateError
from tuning.running.threads import threads_here
from tuning.searching import search

# These flags only say how to run a job and may change on resuming. A job file sets the others.
_OF_A_RUN = (
    *("objective", "seeds", "fresh_seeds", "max_seeds", "max_trials"),
    *("workers", "threads", "timeout", "deployed"),
)


@click.command("search")
@click.argument("job", required=False)
@click.option(
    "--model",
    help="MODEL.keras, or package.module:builder, a function of no argument, or of hp, which "
    "returns a model. SE blocks are inserted unless the function takes hp.",
)
@click.option(
    "--data",
    help="FILE.npz with x_train and y_train, optionally x_val, y_val, x_test and y_test; or x and "
    "y. Or package.module:function, which returns such arrays.",
)
@click.option("--space", help="JSON file with arguments of SESpace: ratios, gates, ...")
@click.option(
    "--objective",
    help="cheapest:TOLERANCE[:METRIC] or risk:WEIGHT[:METRIC]. Default: cheapest:0.002:val_loss.",
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs per trial.")
@click.option("--seeds", type=click.IntRange(1), help="Seeds per candidate. Default: 3.")
@click.option("--workers", type=click.IntRange(1), help="Number of processes. Default: 1.")
@click.option(
    "--dask",
    help="Run trials on the workers of this Dask scheduler: tcp://HOST:PORT, or its file.json.",
)
@click.option("--directory", help="Folder of the search.")
@click.option(
    "--oracle",
    type=click.Choice(NAMES),
    help="What proposes candidates. Default: exhaustive, which tries all, up to 200.",
)
@click.option(
    "--max-trials",
    type=click.IntRange(1),
    help="Candidates to propose at most. Default: 20 for random and bayesian, else no limit.",
)
@click.option(
    "--max-seeds",
    type=click.IntRange(1),
    help="Seeds per candidate at most, further ones that the rule asks for included. Default: 10.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Samples per training step.")
@click.option("--optimizer", help="Compile the model with this optimizer. Default: adam.")
@click.option(
    "--learning-rate",
    type=POSITIVE,
    help="Compile the model with this learning rate. Default: 0.001.",
)
@click.option(
    "--loss",
    help="Compile the model with this loss. Default: the cross entropy that fits the outputs.",
)
@click.option(
    "--metric",
    multiple=True,
    help="Compile the model with this metric; may be repeated. Default: accuracy.",
)
@click.option(
    "--max-parameters",
    type=click.IntRange(1),
    help="Candidates with more parameters fail without training.",
)
@click.option(
    "--fresh-seeds",
    type=click.IntRange(0),
    help="Number of new seeds to train the winner on at the end. Default: 3.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads per process. Default: the number of cores divided by --workers.",
)
@click.option("--timeout", type=POSITIVE, help="Seconds after which a trial fails.")
@click.option(
    "--deployed",
    type=click.Choice(list(FORMATS)),
    help="Judge the candidates in question as files of this format too: one whose gates do not "
    "survive is not chosen.",
)
@click.option("--out", help="Also write the trained winner to this .keras file.")
@click.option("--retry-failed", is_flag=True, help="Run trials again that have failed.")
@click.option("--accept-change", is_flag=True, help="Resume although the job has changed.")
@overwrite_option
def search_command(
    job: str | None, out: str | None, dask: str | None, overwrite: bool, **flags: Any
) -> bool:
    """Search over SE blocks, as JOB.toml or the options say. Finished trials are not run again.

    A compiled model keeps its settings unless an option to compile it is given. Exit code 1 if no
    candidate finished, or if with --deployed no file passes.
    """
    check_output(out, overwrite, ".keras")
    how: dict[str, Any] = {name: flags.pop(name) for name in ("accept_change", "retry_failed")}
    # Click passes None, or () for a repeatable option, where a flag is missing.
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    arguments = _from_file(job, given) if job is not None else _from_flags(given)
    arguments["modules"] = _imported(arguments.get("modules", []))
    directory = Path(arguments["directory"])
    with folder_errors(directory):
        began_with = None if overwrite else stored_threads(directory)
    if dask is not None and "workers" in given:
        raise InputError("Give --workers or --dask, not both. Received: both")
    workers = arguments.pop("workers", 1)
    # First of all: TensorFlow fixes its number of threads at the first operation, and
    # `with_compile` may build a model, which computes.
    threads = arguments.get("threads")
    threads_here(workers if dask is None else None, threads, began_with)
    arguments = with_compile(arguments, given)
    # No markup: candidate names and paths may contain brackets.
    console = Console(highlight=False, markup=False, emoji=False)
    with connected(dask, workers) as how["workers"]:
        try:
            result = search(**arguments, **how, overwrite=overwrite, progress=console)
        except NoCandidateError as error:
            click.echo(f"Error: {error}", err=True)
            return False
        except KeyboardInterrupt:
            number = len(list((directory / "records").glob("*.json")))
            click.echo(f"The same command resumes from {number} records.", err=True)
            raise
    click.echo(str(result), nl=False)
    _print_next(console, result, directory, arguments)
    if out is not None:
        write_outputs({out: model_bytes(result.model())}, overwrite)
        console.print(f"{out}: the trained winner", soft_wrap=True)
    return result.passed


def _imported(modules: list[str]) -> list[str]:
    import_modules(modules, "modules of a job")
    # The main command has already imported the modules of `--import`.
    named = click.get_current_context().find_root().params.get("modules", ())
    return list(dict.fromkeys([*modules, *named]))


def _from_file(job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    clash = [name for name in given if name not in _OF_A_RUN]
    if clash:
        raise InputError(
            f"These options belong in the job file: {', '.join(map(flag_name, clash))}. "
            f"Received: {job} with them"
        )
    return {**read_job(Path(job)), **given}


def _from_flags(given: dict[str, Any]) -> dict[str, Any]:
    needed = [name for name in ("model", "data", "epochs", "directory") if name not in given]
    if needed:
        raise InputError(
            "search needs a JOB.toml, or --model, --data, --epochs and --directory. "
            f"Received: no {', '.join(map(flag_name, needed))}"
        )
    content = {name: value for name, value in given.items() if name not in (*OF_COMPILE, "space")}
    arguments = job_arguments(content, "the command line")
    if "space" in given:
        arguments["space"] = read_space(given["space"])
    return arguments


def _print_next(
    console: Console, result: SearchResult, directory: Path, arguments: Mapping[str, Any]
) -> None:
    # Soft wrap: Rich would otherwise break long paths and commands, which users copy.
    console.print(f"{directory / 'result.json'}: the whole result", soft_wrap=True)
    if result.plan is None:
        return
    plan = directory / "plan.json"
    replace_file(plan, json.dumps(result.plan, indent=2).encode())
    if not result.plan:
        console.print("There is nothing to insert.")
        return
    model, where = arguments["model_or_builder"], arguments.get("where")
    if isinstance(where, list):  # the command has no flag for a list of names
        console.print(f"{plan}: for keras_se.insert with where={where}", soft_wrap=True)
        return
    source = model if model.endswith(".keras") else "MODEL.keras"
    words = ["keras-se", "insert", source, "OUT.keras", "--plan", str(plan)]
    if result.placement not in (None, "standard"):
        words += ["--placement", str(result.placement)]
    if where is not None:
        words += ["--where", where]
    console.print(shlex.join(words), soft_wrap=True)
