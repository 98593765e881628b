"""The commands of `keras-se`, thin wrappers of the functions of the same names.

Exit codes: 0 passed, 1 judged and failed, 2 wrong use or bad input, 3 a bug (it raises
here, and the console script catches it), 130 interrupted.
"""

import importlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import keras
from rich.console import Console

import keras_se
from keras_se.cli.compress import compress_command
from keras_se.cli.tables import cost_table, gates_table, report_table, sites_table
from keras_se.data import load_inputs
from keras_se.errors import InputError, MissingExtraError
from keras_se.files import load_model, model_bytes, refuse_existing, write_file
from keras_se.graph.inputs import input_shapes
from keras_se.layers import gates as gates_module
from keras_se.litert.convert import ConversionWarning, convert
from keras_se.litert.delegation import delegation
from keras_se.litert.formats import FORMATS
from keras_se.litert.recipe import recipe_path
from keras_se.litert.runtime import file_input_shapes
from keras_se.sites.curves import draw_gate_curves
from keras_se.sites.site import Site
from keras_se.sites.statistics import GateStatistics, gate_statistics, to_json
from keras_se.surgery.placements import PLACEMENTS, WHERE
from keras_se.verification.effect import takes_labels
from keras_se.verification.report import NOTHING_TO_SURVIVE

PASSED, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_DATA_HELP = (
    "FILE.npz with x_test and x_train, or x (labels: y_test, y_train, y), or with the names of the "
    "model's inputs for x; or package.module:function that returns them."
)


def run(commands: Mapping[str, click.Command], arguments: Sequence[str] | None = None) -> int:
    """Run one of `commands` on the words of a command line and return the exit code."""
    # `commands` is an argument so that the package `tuning` can add its own commands.
    group = click.Group(
        "keras-se",
        commands=dict(commands),
        callback=import_modules,
        params=[
            click.Option(
                ["--import", "modules"],
                multiple=True,
                metavar="MODULE",
                help="Import MODULE first: it registers custom layers and functions.",
            ),
        ],
        help="Squeeze-and-Excitation for Keras: insert, read, export and prove SE gates.",
    )
    group = click.version_option(keras_se.__version__, prog_name="keras-se")(group)
    try:
        # Without standalone mode Click returns what the command returns, such as the 1 of `verify`,
        # and leaves its errors to us.
        result = group.main(arguments, prog_name="keras-se", standalone_mode=False)
        return result if isinstance(result, int) else PASSED
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    # OSError: a path that cannot be read or written is bad input, not a bug.
    except (InputError, MissingExtraError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        return WRONG_USE


def import_modules(modules: Sequence[str], source: str = "--import") -> None:
    """Import modules by name, so that they register custom layers and functions."""
    for module in modules:
        try:
            importlib.import_module(module)
        # The module is user code: it may raise anything, or exit.
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{source} takes an importable module. "
                f"Received: {module!r}, which raises {type(error).__name__}: {error}"
            ) from error


@click.command("insert", short_help="Put SE blocks into a model.")
@click.argument("model")
@click.argument("out")
@click.option("--ratio", type=float, default=16, show_default=True, help="Reduction ratio.")
@click.option(
    "--gate",
    default="one_plus_tanh",
    show_default=True,
    type=click.Choice(sorted(gates_module.GATES)),
)
@click.option(
    "--placement",
    default="standard",
    show_default=True,
    type=click.Choice(PLACEMENTS),
    help="Where in a residual unit.",
)
@click.option(
    "--where",
    type=click.Choice(WHERE),
    help="Kind of place; by default the first of these that the model has.",
)
@click.option("--plan", help="JSON file with the settings per site, such as a search leaves.")
@click.option("--overwrite", is_flag=True, help="Rename an existing OUT aside.")
def insert_command(
    model: str,
    out: str,
    ratio: float,
    gate: str,
    placement: str,
    where: str | None,
    plan: str | None,
    overwrite: bool,
) -> None:
    """Put SE blocks into MODEL.keras, and write OUT.keras: the same function."""
    if not out.endswith(".keras"):
        raise InputError(f"The name of a model file must end in .keras. Received: {out!r}")
    # Check OUT first: loading and inserting take time.
    refuse_existing(out, overwrite)
    settings = None if plan is None else _read_json(plan)
    new = keras_se.insert(
        load_model(model), ratio, placement=placement, where=where, plan=settings, gate=gate
    )
    _write(out, model_bytes(new), overwrite)
    blocks = len(keras_se.find_sites(new))
    click.echo(f"{out}: SE blocks: {blocks}, parameters: {new.count_params():,}")
    click.echo("It is not compiled. Train it further: fresh gates do not vary yet.")


@click.command("cost")
@click.argument("model")
@click.option("--input-shape", help="Sizes that the model leaves open, such as 224,224,3.")
@click.option("--json", "json_path", help="Also write the report to this file.")
@click.option("--overwrite", is_flag=True, help="Rename an existing report aside.")
def cost_command(
    model: str, input_shape: str | None, json_path: str | None, overwrite: bool
) -> None:
    """Show what SE costs in MODEL.keras."""
    if json_path is not None:
        refuse_existing(json_path, overwrite)
    report = keras_se.cost(load_model(model), _sizes(input_shape))
    if not report.sites:
        raise InputError(f"cost needs a model with SE sites. Received: {model} with none")
    Console().print(cost_table(report))
    for name, part, whole, share in (
        ("parameters", report.se_parameters, report.parameters, report.se_parameter_share),
        ("FLOPs", report.se_flops, report.flops, report.se_flop_share),
    ):
        click.echo(f"SE: {part:,} of {whole:,} {name}, {share:.2%}")
    if report.uncounted:
        click.echo(f"Not counted: {', '.join(report.uncounted)}")
    if json_path is not None:
        _write(json_path, report.to_json().encode(), overwrite)


@click.command("gates", short_help="Show SE sites, and what their gates do on data.")
@click.argument("model_or_tflite")
@click.option("--data", help=_DATA_HELP)
@click.option("--tau", type=float, default=0.2, show_default=True, help="Suppressed below this.")
@click.option("--json", "json_path", help="Also write the figures, by class, to this file.")
@click.option("--plot", help="Also draw the mean gates by class: FILE.svg, .png or .pdf.")
@click.option("--overwrite", is_flag=True, help="Rename existing files aside.")
def gates_command(
    model_or_tflite: str,
    data: str | None,
    tau: float,
    json_path: str | None,
    plot: str | None,
    overwrite: bool,
) -> None:
    """Show the SE sites of MODEL.keras or FILE.tflite, and with --data what their gates do."""
    _check_gates_outputs(json_path, plot, overwrite)
    # `not >=` also refuses NaN.
    if not tau >= 0.0:
        raise InputError(f"--tau must be at least 0. Received: {tau}")
    source: Any = model_or_tflite
    if source.endswith(".keras"):
        source = load_model(source)
    sites = keras_se.find_sites(source)
    if not sites:
        raise InputError(
            f"gates needs a model with SE sites. Received: {model_or_tflite} with none"
        )
    if data is None:
        if json_path is not None or plot is not None:
            raise InputError("--json and --plot need --data. Received: no --data")
        is_model = isinstance(source, keras.Model)
        Console().print(sites_table(sites, {} if is_model else delegation(source).sites))
        return
    statistics, samples = _gate_statistics(source, sites, data, tau)
    # Draw before any output: matplotlib may be missing, or the suffix unknown.
    drawn = None if plot is None else draw_gate_curves(statistics, plot.rpartition(".")[-1])
    Console().print(gates_table(statistics, tau))
    click.echo(f"On {samples} samples. spread: standard deviation over samples,")
    click.echo("classes: of the class means; root mean squares over channels.")
    if json_path is not None:
        _write(json_path, to_json(statistics).encode(), overwrite)
    if plot is not None and drawn is not None:
        _write(plot, drawn, overwrite)


def _check_gates_outputs(json_path: str | None, plot: str | None, overwrite: bool) -> None:
    outputs = [path for path in (json_path, plot) if path is not None]
    for path in outputs:
        refuse_existing(path, overwrite)
    # Compare resolved paths: `a.svg` and `./a.svg` are the same file.
    if len(outputs) == 2 and Path(outputs[0]).resolve() == Path(outputs[1]).resolve():
        raise InputError(f"--json and --plot need files of their own. Received: {plot!r} for both")


def _gate_statistics(
    source: Any, sites: list[Site], data: str, tau: float
) -> tuple[list[GateStatistics], int]:
    is_model = isinstance(source, keras.Model)
    loaded = load_inputs(data, input_shapes(source) if is_model else file_input_shapes(source))
    values = keras_se.read_gates(source, loaded.x)
    return [
        gate_statistics(site, values[site.name], loaded.labels, tau)
        for site in sites
        if site.name in values
    ], loaded.samples


@click.command("export", short_help="Convert a model to TFLite.")
@click.argument("model")
@click.argument("out")
@click.option(
    "--format", "file_format", default="int8", show_default=True, type=click.Choice(list(FORMATS))
)
@click.option("--calibration", help="Representative inputs, for int8 and int16x8: " + _DATA_HELP)
@click.option("--input-type", help="Of an integer file: int8, uint8, int16 or float32.")
@click.option("--output-type", help="The same for its outputs.")
@click.option(
    "--keep-float",
    multiple=True,
    metavar="SITE",
    help="Leave an SE site of an integer file in float32; may be repeated.",
)
@click.option(
    "--no-check-range",
    is_flag=True,
    help="Take data of another range than the model was trained with.",
)
@click.option("--overwrite", is_flag=True, help="Rename an existing OUT and its recipe aside.")
def export_command(
    model: str,
    out: str,
    file_format: str,
    calibration: str | None,
    input_type: str | None,
    output_type: str | None,
    keep_float: tuple[str, ...],
    no_check_range: bool,
    overwrite: bool,
) -> None:
    """Convert MODEL.keras to OUT.tflite, with what went in beside it in OUT.recipe.json."""
    if not out.endswith(".tflite"):
        raise InputError(f"The name of a TFLite file must end in .tflite. Received: {out!r}")
    refuse_existing(out, overwrite)
    loaded = load_model(model)
    samples = None
    if calibration is not None:
        # Never calibrate on the test part: `verify` refuses calibration samples.
        samples = load_inputs(calibration, input_shapes(loaded), held_out=False).x
    # Show conversion warnings as plain lines. `always`: Python shows a repeated one only once.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        conversion = convert(
            loaded,
            file_format,
            samples,
            input_type=input_type,
            output_type=output_type,
            keep_float=keep_float,
            check_range=not no_check_range,
            path=out,
            overwrite=overwrite,
        )
    for warning in caught:
        if isinstance(warning.message, ConversionWarning):
            click.echo(f"Warning: {warning.message}", err=True)
    for aside in conversion.asides:
        click.echo(f"An old file is now {aside}")
    click.echo(f"{out}: {file_format}, {len(conversion.tflite):,} bytes")
    # `integer` is the file without float sites; show what --keep-float costs against it.
    if conversion.integer is not None:
        before, after = (
            (len(content), delegation(content).partitions)
            for content in (conversion.integer, conversion.tflite)
        )
        click.echo(
            f"Kept in float: {', '.join(keep_float)}; bytes {before[0]:,} -> {after[0]:,}, "
            f"delegate partitions {before[1]} -> {after[1]}"
        )
    click.echo(f"{recipe_path(out)}: what went into it")


@click.command("verify", short_help="Judge the gates of a .tflite file.")
@click.argument("model")
@click.argument("tflite")
@click.option("--data", required=True, help="Held-out inputs: " + _DATA_HELP)
@click.option("--tau", type=float, default=0.2, show_default=True, help="Suppressed below this.")
@click.option("--reference", help="The compressed .keras model, if MODEL was trained on since.")
@click.option("--gates", "recorded", help="Gates recorded on a device: FILE.npz.")
@click.option("--recipe", help="The recipe of the file; by default the one beside it.")
@click.option("--json", "json_path", help="Also write the report to this file.")
@click.option("--overwrite", is_flag=True, help="Rename an existing report aside.")
def verify_command(
    model: str,
    tflite: str,
    data: str,
    tau: float,
    reference: str | None,
    recorded: str | None,
    recipe: str | None,
    json_path: str | None,
    overwrite: bool,
) -> int:
    """Judge the gates of FILE.tflite against those of MODEL.keras: exit code 0 or 1."""
    if json_path is not None:
        refuse_existing(json_path, overwrite)
    loaded = load_model(model)
    inputs = load_inputs(data, input_shapes(loaded))
    report = keras_se.verify(
        loaded,
        tflite,
        inputs.x,
        tau,
        y=inputs.labels if _takes(loaded, inputs.labels) else None,
        reference=None if reference is None else load_model(reference),
        gates=recorded,
        recipe=recipe,
    )
    Console().print(report_table(os.path.basename(tflite), report))
    click.echo(f"{tflite}: {report.verdict}.")
    if report.verdict == NOTHING_TO_SURVIVE:
        click.echo("No gate varies over these samples by more than the format can show.")
    if json_path is not None:
        _write(json_path, report.to_json().encode(), overwrite)
    return PASSED if report.passed else FAILED


def _takes(model: keras.Model, labels: Any) -> bool:
    # `verify` refuses labels that do not fit the model's output.
    return labels is not None and takes_labels(model, labels)


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"A plan must be a JSON file. Received: {path!r}: {error}") from error


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise InputError(f"--input-shape is sizes such as 224,224,3. Received: {text!r}")
    return tuple(int(size) for size in sizes)


def _write(path: str, content: bytes, overwrite: bool) -> None:
    aside = write_file(path, content, overwrite)
    if aside is not None:
        click.echo(f"The old {path} is now {aside}")


COMMANDS: dict[str, click.Command] = {
    command.name or "": command
    for command in (
        insert_command,
        cost_command,
        gates_command,
        compress_command,
        export_command,
        verify_command,
    )
}
