"""The commands of `keras-se`: each a thin wrapper of the function of that name.

Exit codes: 0 passed, 1 judged and failed, 2 wrong use or bad input, 3 a fault of ours, 130
interrupted. The commands are arguments of `run`, so that a package above this one can add its own.
"""

import importlib
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import keras
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

import keras_se
from keras_se.errors import InputError, MissingExtraError
from keras_se.gate_curves import draw_gate_curves
from keras_se.gate_statistics import gate_statistics, to_json
from keras_se.inputs import input_shapes, load_inputs
from keras_se.layers import gates as gates_module
from keras_se.litert.convert import ConversionWarning
from keras_se.litert.formats import FORMATS
from keras_se.litert.recipe import recipe_path
from keras_se.litert.runtime import file_input_shapes
from keras_se.outputs import refuse_existing, write_file
from keras_se.placements import PLACEMENTS, WHERE
from keras_se.verification import FLOAT_STEP, NOTHING_TO_SURVIVE, GateReport

PASSED, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

_DATA_HELP = (
    "FILE.npz with x_test and x_train, or x (labels: y_test, y_train, y), or with the names of the "
    "model's inputs for x; or package.module:function that returns them."
)


def run(commands: Mapping[str, click.Command], arguments: Sequence[str] | None = None) -> int:
    """Runs one of `commands` and returns its exit code.

    Args:
        commands: The commands, by name.
        arguments: The words of the command line, by default those of the process.

    Returns:
        0, 1, 2 or 130. A fault of ours raises.
    """
    group = click.Group(
        "keras-se",
        commands=dict(commands),
        callback=_import_modules,
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
        result = group.main(arguments, prog_name="keras-se", standalone_mode=False)
        return result if isinstance(result, int) else PASSED
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except (InputError, MissingExtraError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        return WRONG_USE


def _import_modules(modules: tuple[str, ...]) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # the user's own code
            raise InputError(
                "--import takes an importable module. "
                f"Received: {module!r}, which raises {type(error).__name__}: {error}"
            ) from error


def load_model(path: str) -> keras.Model:
    """Loads a `.keras` file in safe mode.

    Args:
        path: The file.

    Returns:
        The model.

    Raises:
        InputError: If there is no such file, or Keras cannot load it.
    """
    if not Path(path).is_file():
        raise InputError(f"A model must be an existing .keras file. Received: {path!r}")
    if not path.endswith(".keras") or not zipfile.is_zipfile(path):
        raise InputError(
            "A model must be a .keras file, a zip archive that model.save wrote. "
            f"Received: {path!r}, which is not"
        )
    try:
        return keras.saving.load_model(path)
    except Exception as error:  # Keras gives zip, HDF5, JSON and its own errors for a bad file
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            "A model must be a .keras file that Keras loads in safe mode, with --import for custom "
            f"layers. Received: {path!r}, which gives: {first_line}"
        ) from error


def model_bytes(model: keras.Model) -> bytes:
    """The `.keras` file of a model, as bytes.

    Args:
        model: The model.

    Returns:
        What `model.save` writes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return path.read_bytes()


@click.command("insert", short_help="Put SE blocks into a model.")
@click.argument("model")
@click.argument("out")
@click.option("--ratio", type=float, default=16, show_default=True, help="Reduction ratio.")
@click.option("--gate", default="one_plus_tanh", show_default=True,
              type=click.Choice(sorted(gates_module.GATES)))  # fmt: skip
@click.option("--placement", default="standard", show_default=True,
              type=click.Choice(PLACEMENTS), help="Where in a residual unit.")  # fmt: skip
@click.option("--where", type=click.Choice(WHERE),
              help="Kind of place; by default the first of these that the model has.")  # fmt: skip
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
    columns = ("site", "C", "width", "parameters", "of all", "FLOPs", "of all", "MACs")
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for site in report.sites:
        table.add_row(
            *(site.name, f"{site.channels:,}", f"{site.width:,}"),
            *(f"{site.parameters:,}", f"{site.parameter_share:.2%}"),
            *(f"{site.flops:,}", f"{site.flop_share:.2%}", f"{site.macs:,}"),
        )
    Console().print(table)
    for name, part, whole, share in (
        ("parameters", report.se_parameters, report.parameters, report.se_parameter_share),
        ("FLOPs", report.se_flops, report.flops, report.se_flop_share),
    ):
        click.echo(f"SE: {part:,} of {whole:,} {name}, {share:.2%}")
    if report.uncounted:
        click.echo(f"Not counted: {', '.join(report.uncounted)}")
    if json_path is not None:
        _write(json_path, report.to_json().encode(), overwrite)


@click.command("gates", short_help="Show what gates do on data.")
@click.argument("model_or_tflite")
@click.option("--data", required=True, help=_DATA_HELP)
@click.option("--tau", type=float, default=0.2, show_default=True, help="Suppressed below this.")
@click.option("--json", "json_path", help="Also write the figures, by class, to this file.")
@click.option("--plot", help="Also draw the mean gates by class: FILE.svg, .png or .pdf.")
@click.option("--overwrite", is_flag=True, help="Rename existing files aside.")
def gates_command(
    model_or_tflite: str,
    data: str,
    tau: float,
    json_path: str | None,
    plot: str | None,
    overwrite: bool,
) -> None:
    """Show what the gates of MODEL.keras or FILE.tflite do on data."""
    outputs = [path for path in (json_path, plot) if path is not None]
    for path in outputs:
        refuse_existing(path, overwrite)
    if len(outputs) == 2 and Path(outputs[0]).resolve() == Path(outputs[1]).resolve():
        raise InputError(f"--json and --plot need files of their own. Received: {plot!r} for both")
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
    is_model = isinstance(source, keras.Model)
    loaded = load_inputs(data, input_shapes(source) if is_model else file_input_shapes(source))
    values = keras_se.read_gates(source, loaded.x)
    statistics = [gate_statistics(site, values[site.name], loaded.labels, tau) for site in sites]
    columns = ("site", "gate", "C", "mean", "spread", "classes", f"< {tau:g}", "saturated")
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for figures in statistics:
        table.add_row(
            *(figures.name, figures.gate, str(figures.channels)),
            *(_figure(v, ".4f") for v in (figures.mean, figures.spread, figures.between_classes)),
            *(str(figures.suppressed), _figure(figures.saturated, ".1%")),
        )
    drawn = None if plot is None else draw_gate_curves(statistics, plot.rpartition(".")[-1])
    Console().print(table)
    click.echo(f"On {loaded.samples} samples. spread: standard deviation over samples,")
    click.echo("classes: of the class means; root mean squares over channels.")
    if json_path is not None:
        _write(json_path, to_json(statistics).encode(), overwrite)
    if plot is not None and drawn is not None:
        _write(plot, drawn, overwrite)


@click.command("export", short_help="Convert a model to TFLite.")
@click.argument("model")
@click.argument("out")
@click.option("--format", "file_format", default="int8", show_default=True,
              type=click.Choice(list(FORMATS)))  # fmt: skip
@click.option("--calibration", help="Representative inputs, for int8 and int16x8: " + _DATA_HELP)
@click.option("--input-type", help="Of an integer file: int8, uint8, int16 or float32.")
@click.option("--output-type", help="The same for its outputs.")
@click.option("--no-check-range", is_flag=True,
              help="Take data of another range than the model was trained with.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Rename an existing OUT and its recipe aside.")
def export_command(
    model: str,
    out: str,
    file_format: str,
    calibration: str | None,
    input_type: str | None,
    output_type: str | None,
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
        samples = load_inputs(calibration, input_shapes(loaded), held_out=False).x
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        tflite = keras_se.to_tflite(
            loaded,
            file_format,
            samples,
            input_type=input_type,
            output_type=output_type,
            check_range=not no_check_range,
            path=out,
            overwrite=overwrite,
        )
    for warning in caught:
        if isinstance(warning.message, ConversionWarning):
            click.echo(f"Warning: {warning.message}", err=True)
    click.echo(f"{out}: {file_format}, {len(tflite):,} bytes")
    click.echo(f"{recipe_path(out)}: what went into it")


@click.command("verify", short_help="Judge the gates of a .tflite file.")
@click.argument("model")
@click.argument("tflite")
@click.option("--data", required=True, help="Held-out inputs: " + _DATA_HELP)
@click.option("--tau", type=float, default=0.2, show_default=True, help="Suppressed below this.")
@click.option("--json", "json_path", help="Also write the report to this file.")
@click.option("--overwrite", is_flag=True, help="Rename an existing report aside.")
def verify_command(
    model: str, tflite: str, data: str, tau: float, json_path: str | None, overwrite: bool
) -> int:
    """Judge the gates of FILE.tflite against those of MODEL.keras: exit code 0 or 1."""
    if json_path is not None:
        refuse_existing(json_path, overwrite)
    loaded = load_model(model)
    inputs = load_inputs(data, input_shapes(loaded))
    report = keras_se.verify(loaded, tflite, inputs.x, tau)
    Console().print(report_table(os.path.basename(tflite), report))
    click.echo(f"{tflite}: {report.verdict}.")
    if report.verdict == NOTHING_TO_SURVIVE:
        click.echo("No gate varies over these samples by more than the format can show.")
    click.echo(f"On {report.samples} samples, {report.runtime}.")
    if json_path is not None:
        _write(json_path, report.to_json().encode(), overwrite)
    return PASSED if report.passed else FAILED


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
    for command in (insert_command, cost_command, gates_command, export_command, verify_command)
}


def report_table(title: str, report: GateReport) -> Group:
    """A table of verdicts, a row per site, with the reasons of those that fail below it.

    Args:
        title: Stands above the table.
        report: What `verify` returned.

    Returns:
        Something that `rich` prints.
    """
    columns = ("site", "gate", "C", "spread/step", "R²", "slope", "verdict")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, no_wrap=True)
    faults = []
    for site in report.sites.values():
        spread = None if site.step == FLOAT_STEP else site.spread
        table.add_row(
            *(site.name, site.gate, str(site.channels)),
            *(_figure(v, f) for v, f in ((spread, ".1f"), (site.r2, ".4f"), (site.slope, ".3f"))),
            site.verdict,
        )
        if site.verdict == "fails":
            faults.append(Text(f"{site.name} fails: {site.reason}"))
    return Group(table, *faults)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
