"""The commands `export` and `verify`."""

import click

import keras_se
from keras_se.cli.files import check_output, check_tflite, print_renamed, write_outputs
from keras_se.cli.networks import load_network
from keras_se.cli.options import (
    DATA_HELP,
    html_option,
    input_shape_option,
    input_type_option,
    json_option,
    output_type_option,
    overwrite_option,
    strict_option,
    tau_option,
)
from keras_se.cli.samples import CALIBRATION
from keras_se.data import load_inputs, spaced
from keras_se.display.progress import showing
from keras_se.files import load_model
from keras_se.graph.inputs import input_shapes
from keras_se.litert.convert import convert
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.formats import FORMATS, FormatName, IOType, Options
from keras_se.litert.recipe import recipe_path
from keras_se.verification.reports.text import described


@click.command("export")
@click.argument("model")
@click.argument("out")
@click.option("--format", "file_format", default="int8", type=click.Choice(list(FORMATS)))
@click.option(
    "--calibration",
    help="Representative inputs, which int8 and int16x8 need, never the test part, of which "
    f"{CALIBRATION}, evenly spaced, are taken. {DATA_HELP}",
)
@input_type_option
@output_type_option
@input_shape_option
@click.option(
    "--keep-float",
    multiple=True,
    metavar="SITE",
    help="Keep this SE site of an integer file in float32; may be repeated.",
)
@click.option(
    "--no-check-range",
    is_flag=True,
    help="Accept calibration data whose range is not that of the training data.",
)
@overwrite_option
def export_command(
    model: str,
    out: str,
    file_format: FormatName,
    calibration: str | None,
    input_type: IOType | None,
    output_type: IOType | None,
    input_shape: tuple[int, ...] | None,
    keep_float: tuple[str, ...],
    no_check_range: bool,
    overwrite: bool,
) -> None:
    """Convert MODEL.keras to OUT.tflite, and write its settings to OUT.recipe.json."""
    check_output(out, overwrite, ".tflite")
    loaded = load_model(model)
    samples = None
    if calibration is not None:
        # Never calibrate on the test part: `verify` refuses calibration samples.
        inputs, _ = load_inputs(calibration, input_shapes(loaded), held_out=False)
        samples = spaced(inputs, CALIBRATION)
    options = Options(
        format=file_format,
        input_type=input_type,
        output_type=output_type,
        input_shape=input_shape,
        keep_float=keep_float,
        check_range=not no_check_range,
        path=out,
        overwrite=overwrite,
    )
    with showing("export"):
        conversion = convert(loaded, samples, options)
    print_renamed(conversion.asides)
    click.echo(f"{out}: {file_format}, {len(conversion.tflite):,} bytes")
    # `integer` is the file without float sites; show what --keep-float costs against it.
    if conversion.integer is not None:
        before, after = conversion.integer, conversion.tflite
        click.echo(
            f"Kept in float: {', '.join(keep_float)}; bytes {len(before):,} -> {len(after):,}, "
            f"delegate partitions {delegation(before).partitions} -> {delegation(after).partitions}"
        )
    click.echo(f"{recipe_path(out)}: the settings and the calibration")


@click.command("verify")
@click.argument("reference", metavar="MODEL.keras|FLOAT.tflite")
@click.argument("tflite", metavar="FILE.tflite")
@click.option("--data", required=True, help=f"Held-out inputs. {DATA_HELP}")
@strict_option
@tau_option
@click.option(
    "--trained",
    help="The .keras model that compress wrote, if FILE was made from it and not from MODEL.",
)
@click.option("--gates", "recorded", help="What `record` wrote on a device: FILE.npz.")
@click.option("--recipe", help="Recipe of the file. Default: the one in it or beside it.")
@input_shape_option
@json_option
@html_option
@overwrite_option
def verify_command(
    reference: str,
    tflite: str,
    data: str,
    strict: bool,
    tau: float,
    trained: str | None,
    recorded: str | None,
    recipe: str | None,
    input_shape: tuple[int, ...] | None,
    json_path: str | None,
    html_path: str | None,
    overwrite: bool,
) -> bool:
    """Compare the gates of FILE.tflite with those of the network that it comes from.

    That is the Keras model, or a float TFLite file of any converter. Exit code 0 if the file can
    ship as far as its gates go, 1 if it cannot.
    """
    check_output(json_path, overwrite)
    check_output(html_path, overwrite, ".html")
    check_tflite(tflite)
    network = load_network(reference)
    x, labels = network.held_out(data)
    report = keras_se.verify(
        network.source,
        tflite,
        x,
        labels,
        strict=strict,
        tau=tau,
        trained=None if trained is None else load_model(trained),
        gates=recorded,
        recipe=recipe,
        input_shape=input_shape,
    )
    click.echo(f"{tflite} against {reference}")
    click.echo(described(report, "command line"), nl=False)
    if json_path is not None:
        write_outputs({json_path: report.to_json().encode()}, overwrite)
    if html_path is not None:
        write_outputs({html_path: report.page().encode()}, overwrite)
        click.echo(f"{html_path}: the report with plots")
    return report.passed
