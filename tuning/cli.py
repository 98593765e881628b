"""The console script `keras-se`."""

import os
import sys
import traceback

import click

from tuning.environment import native_stderr_to_file, other_modules

WRONG_USE, FAULT = 2, 3


def main() -> None:
    """Runs the command line and exits with its code."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    # Importing TensorFlow takes seconds: without this line the command seems to hang.
    click.echo("keras-se: loading Keras and TensorFlow ...", err=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.append(os.getcwd())  # for --import and --data package.module:function
    for other in other_modules():
        click.echo(
            f"Warning: {other} has the name of this package, tuning, which hides it: rename it.",
            err=True,
        )
    with native_stderr_to_file() as log:
        try:
            return _run(arguments)
        except KeyboardInterrupt:
            return 130  # the code of shells for Ctrl-C
        except ModuleNotFoundError as error:
            click.echo(
                f"Error: The command line needs the package `{error.name}`, which is not installed."
                " Install it with: pip install 'keras-se[all]'",
                err=True,
            )
            return WRONG_USE
        except Exception:
            traceback.print_exc()
            # The log is deleted at the end of the block, so its tail is printed here.
            native = log.read_text(errors="replace").strip().splitlines()[-20:]
            click.echo("\n".join(native), err=True)
            click.echo("This is a fault of keras-se; please report it.", err=True)
            return FAULT


def _run(arguments: list[str]) -> int:
    # These import Keras, which must not happen before the first line is on the screen.
    import logging

    from keras_se.cli.commands import COMMANDS, run
    from tuning.commands.demo import demo_command
    from tuning.commands.search import search_command

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    commands = {"demo": demo_command, **COMMANDS, "search": search_command}
    return run(commands, arguments)
