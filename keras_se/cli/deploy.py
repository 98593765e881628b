"""The commands `deploy` and `repair`."""

import click

import keras_se
from keras_se.cli.files import check_output, check_tflite, write_outputs
from keras_se.cli.networks import load_network
from keras_se.cli.options import (
    DATA_HELP,
    choice_option,
    html_option,
    input_shape_option,
    input_type_option,
    json_option,
    output_type_option,
    overwrite_option,
    strict_option,
)
from keras_se.cli.samples import CALIBRATION
from keras_se.data import load_inputs, spaced
from keras_se.deployment.deploying import Parts
from keras_se.deployment.deployment import Deployment, Preference
from keras_se.litert.devices.npu import ACCELERATORS, Accelerator
from keras_se.litert.formats import FORMATS, FormatName, IOType
from keras_se.litert.recipe import recipe_path

_tolerance_option = click.option(
    "--tolerance",
    default=0.01,
    type=click.FloatRange(0.0, 1.0),
    help="By how much accuracy may fall, by the 95 % interval of the difference.",
)


@click.command("deploy")
@click.argument("network", metavar="MODEL.keras|FLOAT.tflite")
@click.argument("out", metavar="OUT.tflite")
@click.option(
    "--calibration",
    required=True,
    help="Representative inputs for the ranges, never the test part, of which "
    f"{CALIBRATION}, evenly spaced, are taken. {DATA_HELP}",
)
@click.option("--data", required=True, help=f"Held-out inputs to judge on. {DATA_HELP}")
@_tolerance_option
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(list(FORMATS)),
    help="Try this format; may be repeated. Default: int8, int16x8, weight_only, float16.",
)
@choice_option("--prefer", ("size", "latency"), "Which file to take of those that pass.")
@strict_option
@click.option(
    "--npu",
    type=click.Choice(ACCELERATORS),
    help="Take the file that is cheapest on this NPU, by operators on the CPU, then cycles.",
)
@choice_option("--parts", ("float32", "int16x8"), "What computes where gates are lost.")
@click.option(
    "--fold",
    default=0.0,
    help="Share of SE's work that may be folded into constants first, as `fold` does.",
)
@input_type_option
@output_type_option
@input_shape_option
@json_option
@html_option
@overwrite_option
def deploy_command(
    network: str,
    out: str,
    calibration: str,
    data: str,
    tolerance: float,
    formats: tuple[FormatName, ...],
    prefer: Preference,
    strict: bool,
    npu: Accelerator | None,
    parts: Parts,
    fold: float,
    input_type: IOType | None,
    output_type: IOType | None,
    input_shape: tuple[int, ...] | None,
    json_path: str | None,
    html_path: str | None,
    overwrite: bool,
) -> bool:
    """Find a small TFLite file whose gates survive, and write OUT.tflite.

    Takes int8, as it is or with equalized channels, if it passes. Else tries int8 with the parts in
    float32 that lost the gates, and the other formats, and takes the smallest that passes. The file
    may have int8 inputs and outputs, and the report says so; `--input-type float32` and
    `--output-type float32` make one that is fed as the float file is. Exit code 0 if a file passes
    and was written, 1 if none passes. A command that was killed goes on where it was.
    """
    _check_outputs(out, json_path, html_path, overwrite)
    loaded = load_network(network)
    inputs, _ = load_inputs(calibration, loaded.shapes, held_out=False)
    x, labels = loaded.held_out(data)
    found = keras_se.deploy(
        loaded.source,
        spaced(inputs, CALIBRATION),
        x,
        labels,
        tolerance=tolerance,
        formats=formats or None,
        prefer=prefer,
        strict=strict,
        npu=npu,
        parts=parts,
        fold=fold,
        input_type=input_type,
        output_type=output_type,
        input_shape=input_shape,
        path=out,
        overwrite=overwrite,
    )
    return _told(found, out, json_path, html_path, overwrite)


@click.command("repair")
@click.argument("float_file", metavar="FLOAT.tflite")
@click.argument("integer_file", metavar="INT8.tflite")
@click.argument("out", metavar="OUT.tflite")
@click.option("--data", required=True, help=f"Held-out inputs to judge on. {DATA_HELP}")
@_tolerance_option
@strict_option
@json_option
@html_option
@overwrite_option
def repair_command(
    float_file: str,
    integer_file: str,
    out: str,
    data: str,
    tolerance: float,
    strict: bool,
    json_path: str | None,
    html_path: str | None,
    overwrite: bool,
) -> bool:
    """Put float operators into INT8.tflite where its gates were lost, and write OUT.tflite.

    Both files are of one network, from any converter that keeps the names of tensors. Exit code 0
    if the file passes and was written, 1 if none passes.
    """
    _check_outputs(out, json_path, html_path, overwrite)
    check_tflite(integer_file)
    loaded = load_network(float_file)
    x, labels = loaded.held_out(data)
    found = keras_se.repair(
        loaded.source,
        integer_file,
        x,
        labels,
        tolerance=tolerance,
        strict=strict,
        path=out,
        overwrite=overwrite,
    )
    return _told(found, out, json_path, html_path, overwrite)


def _check_outputs(out: str, json_path: str | None, html_path: str | None, overwrite: bool) -> None:
    for path, suffix in ((out, ".tflite"), (json_path, ""), (html_path, ".html")):
        check_output(path, overwrite, suffix)


def _told(
    found: Deployment, out: str, json_path: str | None, html_path: str | None, overwrite: bool
) -> bool:
    click.echo(str(found), nl=False)
    reports = {json_path: found.to_json, html_path: found.page}
    files = {path: made().encode() for path, made in reports.items() if path is not None}
    write_outputs(files, overwrite)
    if found.passed:
        beside = f", and {recipe_path(out)}" if found.recipe else ""
        click.echo(f"{out}: {found.chosen}{beside}")
    return found.passed
