"""The commands `insert` and `cost`."""

import click

import keras_se
from keras_se.cli.files import check_output, read_settings, write_outputs
from keras_se.cli.options import (
    choice_option,
    input_shape_option,
    json_option,
    overwrite_option,
)
from keras_se.costs import narrow
from keras_se.display.text import rendered
from keras_se.errors import InputError
from keras_se.files import load_model, model_bytes
from keras_se.layers.gates import GATES, GateName
from keras_se.surgery.placements import PLACEMENTS, WHERE, Placement, WhereName


@click.command("insert")
@click.argument("model")
@click.argument("out")
@click.option("--ratio", type=float, default=16, help="Reduction ratio.")
@click.option("--gate", default="one_plus_tanh", type=click.Choice(sorted(GATES)))
@choice_option("--placement", PLACEMENTS, "Place of the SE block in a residual unit.")
@click.option(
    "--where",
    type=click.Choice(WHERE),
    help="Where SE blocks go. Default: the first of these that the model has.",
)
@click.option("--plan", help="JSON file with settings for each site, as a search writes it.")
@overwrite_option
def insert_command(
    model: str,
    out: str,
    ratio: float,
    gate: GateName,
    placement: Placement,
    where: WhereName | None,
    plan: str | None,
    overwrite: bool,
) -> None:
    """Put SE blocks into MODEL.keras and write OUT.keras, which computes the same."""
    check_output(out, overwrite, ".keras")
    settings = None if plan is None else read_settings(plan, "A plan")
    new = keras_se.insert(
        load_model(model), ratio, placement=placement, where=where, plan=settings, gate=gate
    )
    write_outputs({out: model_bytes(new)}, overwrite)
    sites = keras_se.find_sites(new)
    click.echo(f"{out}: SE blocks: {len(sites)}, parameters: {new.count_params():,}")
    for sentence in narrow(sites):
        click.echo(rendered([sentence]), nl=False)
    click.echo("The model is not compiled. Train it: new gates do not vary yet.")


@click.command("cost")
@click.argument("model")
@input_shape_option
@json_option
@overwrite_option
def cost_command(
    model: str, input_shape: tuple[int, ...] | None, json_path: str | None, overwrite: bool
) -> None:
    """Show how many parameters and operations SE adds to MODEL.keras."""
    check_output(json_path, overwrite)
    report = keras_se.cost(load_model(model), input_shape)
    if not report.sites:
        raise InputError(f"cost needs a model with SE sites. Received: {model} with none")
    click.echo(str(report), nl=False)
    if json_path is not None:
        write_outputs({json_path: report.to_json().encode()}, overwrite)
