"""The command `fold`."""

import click

import keras_se
from keras_se.cli.files import check_output, write_outputs
from keras_se.cli.networks import fitting
from keras_se.cli.options import DATA_HELP, input_shape_option, json_option, overwrite_option
from keras_se.data import load_inputs, spaced
from keras_se.files import load_model, model_bytes
from keras_se.graph.inputs import input_shapes

_ENOUGH = 1000  # samples; each site takes a run over them


@click.command("fold")
@click.argument("model")
@click.argument("out")
@click.option(
    "--data",
    required=True,
    help="Inputs that stand for the use of the network, never the test part, of which "
    f"{_ENOUGH:,}, evenly spaced, are taken. {DATA_HELP}",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0.0),
    default=0.01,
    help="Share of SE's work in the outputs that may be lost; inf folds all sites.",
)
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="SITE",
    help="An SE site that may be folded; may be repeated. Default: all.",
)
@input_shape_option
@json_option
@overwrite_option
def fold_command(
    model: str,
    out: str,
    data: str,
    tolerance: float,
    sites: tuple[str, ...],
    input_shape: tuple[int, ...] | None,
    json_path: str | None,
    overwrite: bool,
) -> bool:
    """Turn the SE sites of MODEL.keras that do little into constants, and write OUT.keras.

    Exit code 0, or 1 if no site can go: then OUT is not written.
    """
    check_output(out, overwrite, ".keras")
    check_output(json_path, overwrite)
    loaded = load_model(model)
    # Never on the test part, which is to judge the new model.
    x, labels = load_inputs(data, input_shapes(loaded), held_out=False)
    labels = fitting(labels, tuple(loaded.outputs[0].shape))
    x, y = spaced(x, _ENOUGH), None if labels is None else spaced(labels, _ENOUGH)
    folding = keras_se.fold(loaded, x, sites or None, tolerance, y=y, input_shape=input_shape)
    click.echo(str(folding), nl=False)
    contents = {} if json_path is None else {json_path: folding.to_json().encode()}
    if folding.folded:
        contents[out] = model_bytes(folding.model)
    write_outputs(contents, overwrite)
    if folding.folded:
        sites_left = len(folding.sites) - len(folding.folded)
        click.echo(
            f"{out}: SE sites: {sites_left}, parameters: {folding.model.count_params():,} "
            f"(before: {loaded.count_params():,})"
        )
    return bool(folding.folded)
