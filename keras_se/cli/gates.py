"""The command `gates`."""

from pathlib import Path
from typing import Any

import click
import keras

import keras_se
from keras_se.cli.files import check_output, check_tflite, write_outputs
from keras_se.cli.options import DATA_HELP, json_option, overwrite_option, tau_option
from keras_se.cli.tables import delegation_table, gates_table, sites_table
from keras_se.data import load_inputs
from keras_se.display.text import rendered
from keras_se.errors import InputError
from keras_se.files import load_model
from keras_se.graph.inputs import input_shapes
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.devices.npu import ACCELERATORS, Accelerator, npu
from keras_se.litert.runtime import file_input_shapes
from keras_se.sites.curves import draw_gate_curves
from keras_se.sites.statistics import gate_statistics, to_json

_WORTH = "worth: share of what SE does for the outputs that is lost if this site alone is constant."
_NO_WORTH = "worth: none, since constant gates at all sites give almost the same outputs."


@click.command("gates")
@click.argument("model_or_tflite")
@click.option("--data", help=DATA_HELP)
@tau_option
@click.option("--worth", "with_worth", is_flag=True, help="Also show what each site does.")
@click.option(
    "--npu",
    "accelerator",
    type=click.Choice(ACCELERATORS),
    help="Instead, show what SE costs in an int8 file on this Arm NPU, without --data.",
)
@json_option
@click.option("--plot", help="Also draw the mean gates of each class: FILE.svg, .png or .pdf.")
@overwrite_option
def gates_command(
    model_or_tflite: str,
    data: str | None,
    tau: float,
    with_worth: bool,
    accelerator: Accelerator | None,
    json_path: str | None,
    plot: str | None,
    overwrite: bool,
) -> None:
    """Show the SE sites of MODEL.keras or FILE.tflite; with --data, the values of their gates."""
    _check_outputs(json_path, plot, overwrite)
    if accelerator is not None:
        if data is not None or with_worth or plot is not None:
            raise InputError("--npu goes with --json only. Received: --data, --worth or --plot")
        _print_npu(model_or_tflite, accelerator, json_path, overwrite)
        return
    # `not >=` also refuses NaN.
    if not tau >= 0.0:
        raise InputError(f"--tau must be at least 0. Received: {tau}")
    is_model = model_or_tflite.endswith(".keras")
    if not is_model:
        check_tflite(model_or_tflite)
    source: Any = load_model(model_or_tflite) if is_model else model_or_tflite
    sites = keras_se.find_sites(source)
    if not sites:
        raise InputError(
            f"gates needs a model with SE sites. Received: {model_or_tflite} with none"
        )
    if data is None:
        if with_worth or json_path is not None or plot is not None:
            raise InputError("--worth, --json and --plot need --data. Received: no --data")
        tables = [sites_table(sites, with_places=is_model)]
        if not is_model:
            tables.append(delegation_table(sites, delegation(source).sites))
        click.echo(rendered(tables), nl=False)
        return
    x, labels = load_inputs(data, input_shapes(source) if is_model else file_input_shapes(source))
    values = keras_se.read_gates(source, x)
    statistics = [
        gate_statistics(site, values[site.name], labels, tau)
        for site in sites
        if site.name in values
    ]
    worth = keras_se.worth(source, x) if with_worth else None
    contents = {} if json_path is None else {json_path: to_json(statistics, worth).encode()}
    if plot is not None:
        # Draw before any output: matplotlib may be missing, or the suffix unknown.
        contents[plot] = draw_gate_curves(statistics, plot.rpartition(".")[-1])
    tables = [sites_table(sites), gates_table(statistics, tau, worth)]
    click.echo(rendered(tables), nl=False)
    samples = len(keras.tree.flatten(x)[0])
    click.echo(f"On {samples} samples. spread: standard deviation over samples;")
    click.echo("classes: that of the class means; both are root mean squares over channels.")
    if worth is not None:
        click.echo(_WORTH if worth else _NO_WORTH)
    write_outputs(contents, overwrite)


def _print_npu(
    tflite: str, accelerator: Accelerator, json_path: str | None, overwrite: bool
) -> None:
    report = npu(tflite, accelerator)
    click.echo(f"{tflite}\n{report}", nl=False)
    write_outputs({} if json_path is None else {json_path: report.to_json().encode()}, overwrite)


def _check_outputs(json_path: str | None, plot: str | None, overwrite: bool) -> None:
    check_output(json_path, overwrite)
    check_output(plot, overwrite)
    # Compare resolved paths: `a.svg` and `./a.svg` are the same file.
    if json_path and plot and Path(json_path).resolve() == Path(plot).resolve():
        raise InputError(f"--json and --plot need different files. Received: {plot!r} for both")
