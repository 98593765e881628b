"""The command `report`: what a search shows, finished or not."""

import click

from keras_se.cli.files import check_output, write_outputs
from keras_se.cli.options import json_option, overwrite_option
from keras_se.files import refuse_existing
from tuning.report.text import csv_text
from tuning.result import SearchResult


@click.command("report")
@click.argument("directory", metavar="DIR")
@click.option("--html", "html_path", help="Also write the report as a page, NAME.html.")
@click.option("--csv", "csv_path", help="Also write one row for each training.")
@click.option("--tensorboard", "board_path", help="Also write a folder for TensorBoard.")
@json_option
@overwrite_option
def report_command(
    directory: str,
    html_path: str | None,
    csv_path: str | None,
    board_path: str | None,
    json_path: str | None,
    overwrite: bool,
) -> None:
    """Show what the search in DIR found, or what it shows so far."""
    check_output(html_path, overwrite, ".html")
    check_output(csv_path, overwrite)
    check_output(json_path, overwrite)
    if board_path is not None:
        refuse_existing(board_path, overwrite)
    result = SearchResult.from_folder(directory)
    click.echo(str(result), nl=False)
    contents = {}
    if html_path is not None:
        contents[html_path] = result.page().encode()
    if csv_path is not None:
        contents[csv_path] = csv_text(result).encode()
    if json_path is not None:
        contents[json_path] = result.to_json().encode()
    write_outputs(contents, overwrite)
    if board_path is not None:
        result.to_tensorboard(board_path, overwrite=overwrite)
    for path in (*contents, *([] if board_path is None else [board_path])):
        click.echo(path)
