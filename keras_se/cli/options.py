"""Options that several commands share."""

import importlib
from collections.abc import Sequence
from typing import Any, get_args

import click

from keras_se.errors import InputError, user_code
from keras_se.litert.formats import IOType

DATA_HELP = (
    "FILE.npz with x_test and x_train, or x, and labels y_test and y_train, or y; a model with "
    "several inputs needs their names in place of x. Or package.module:function, which returns "
    "such arrays."
)

POSITIVE = click.FloatRange(0.0, min_open=True)

json_option = click.option("--json", "json_path", help="Also write the report to this file.")
strict_option = click.option(
    "--strict", is_flag=True, help="Ask that the gates survive at every site."
)
html_option = click.option(
    "--html", "html_path", help="Also write the report as a page, NAME.html."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Rename existing output files to NAME.1, NAME.2, ..."
)
tau_option = click.option(
    "--tau", default=0.2, help="A channel is suppressed if its mean gate is below this."
)


def _sizes(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    sizes = [] if value is None else value.split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise InputError(f"--input-shape must be sizes such as 224,224,3. Received: {value!r}")
    return tuple(map(int, sizes)) or None


input_shape_option = click.option(
    "--input-shape",
    callback=_sizes,
    metavar="SIZES",
    help="Shape of one sample, such as 224,224,3, if the model leaves sizes open.",
)


input_type_option, output_type_option = (
    click.option(
        f"--{which}-type",
        type=click.Choice(get_args(IOType)),
        help=f"Type of the {which}s of an integer file. Default: that of its codes.",
    )
    for which in ("input", "output")
)


def choice_option(name: str, choices: Sequence[str], help: str) -> Any:
    """Returns an option whose default is the first choice."""
    return click.option(name, type=click.Choice(choices), default=choices[0], help=help)


def import_modules(modules: Sequence[str], source: str = "--import") -> None:
    """Imports modules by name, so that they register custom layers and functions."""
    for module in modules:
        with user_code(f"{source} takes an importable module", module):
            importlib.import_module(module)
