"""The console script `keras-se`. It loads a command, and with it Keras, only to run it."""

import importlib
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

_PASSED, _FAILED, _WRONG_USE, _FAULT, _INTERRUPTED = 0, 1, 2, 3, 130

# Name: object, and its line in the help of keras-se, which must not load the object.
COMMANDS = {
    "demo": ("tuning.commands.demo:demo_command", "Run all steps once, on images."),
    "insert": ("keras_se.cli.models:insert_command", "Put SE blocks into a model."),
    "cost": ("keras_se.cli.models:cost_command", "Show what SE adds to a model."),
    "gates": ("keras_se.cli.gates:gates_command", "Show SE sites and the values of their gates."),
    "fold": ("keras_se.cli.fold:fold_command", "Make constants of SE sites that do little."),
    "compress": ("keras_se.cli.compress:compress_command", "Train a model with compression."),
    "export": ("keras_se.cli.tflite:export_command", "Convert a model to TFLite."),
    "verify": ("keras_se.cli.tflite:verify_command", "Check the gates of a TFLite file."),
    "probe": ("keras_se.cli.devices:probe_command", "Make a file output its gates, for a device."),
    "record": ("keras_se.cli.devices:record_command", "Record gates on this device."),
    "deploy": (
        "keras_se.cli.deploy:deploy_command",
        "Find a file that passes: int8, else the smallest.",
    ),
    "repair": ("keras_se.cli.deploy:repair_command", "Mend the gates of a TFLite file."),
    "search": ("tuning.commands.search:search_command", "Search for the best SE blocks."),
    "report": ("tuning.commands.report:report_command", "Show what a search found."),
}


def main() -> None:
    """Runs the command line and exits with its code."""
    sys.path.append(os.getcwd())  # for --import and --data package.module:function
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_stderr_to_file() as log:
        try:
            code = run(sys.argv[1:])
        except Exception:
            code = _FAULT
            traceback.print_exc()
            # The file is deleted at the end of the block.
            lines = log.read_text(errors="replace").splitlines()[-20:]
            lines.append("This is a fault of keras-se; please report it.")
            click.echo("\n".join(lines), err=True)
    sys.exit(code)


@contextmanager
def native_stderr_to_file() -> Iterator[Path]:
    """Sends what C++ code writes to standard error to a temporary file; yields its path."""
    descriptor, name = tempfile.mkstemp(prefix="keras-se-", suffix=".log")
    # Buffered text of Python must still reach the terminal.
    sys.stderr.flush()
    terminal, python_stderr = os.dup(2), sys.stderr
    # TensorFlow and LiteRT write to descriptor 2 directly; `sys.stderr` keeps the terminal.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        sys.stderr.close()
        sys.stderr = python_stderr
        Path(name).unlink(missing_ok=True)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code. What it raises is a fault of ours."""
    try:
        with _warnings_as_lines():
            # In standalone mode Click would exit, whatever the command returns.
            result = _group.main(arguments, prog_name="keras-se", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return _INTERRUPTED
    except click.ClickException as error:
        error.show()
        return _WRONG_USE
    except ModuleNotFoundError as error:
        click.echo(
            f"Error: The command line needs the package `{error.name}`, which is not installed. "
            "Install it with: pip install 'keras-se[all]'",
            err=True,
        )
        return _WRONG_USE
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename!r}: "
        click.echo(
            "Error: A file or folder must be one that can be read or written, with room on its "
            f"disk. Received: {name}{error.strerror or error}",
            err=True,
        )
        return _WRONG_USE
    except _errors_of_input() as error:
        from keras_se.display.text import printable  # late: it loads Keras, which was loaded

        click.echo(f"Error: {printable(str(error))}", err=True)
        return _WRONG_USE
    return _FAILED if result is False else _PASSED


def _errors_of_input() -> tuple[type[Exception], ...]:
    # Importing it here would load Keras, which may be what failed.
    errors = sys.modules.get("keras_se.errors")
    return () if errors is None else (errors.InputError, errors.MissingExtraError)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Prints warnings of this package as lines, and hides those of others."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if category.__module__.partition(".")[0] in ("keras_se", "tuning"):
            click.echo(f"Warning: {message}", err=True)
        else:
            os.write(2, f"{category.__name__}: {message}\n".encode())

    with warnings.catch_warnings():
        # By default Python shows a repeated warning only once.
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


class _LazyGroup(click.Group):
    """Loads a command when it runs: importing Keras and TensorFlow takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        _print_loading()
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        # Only now: absl replaces the class of its logger when it is imported.
        for logger in ("absl", "tensorflow"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"show_default": True})
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import MODULE first, which registers custom layers and functions; may be repeated.",
)
@click.version_option(package_name="keras-se")
def _group(modules: Sequence[str]) -> None:
    """Squeeze-and-Excitation for Keras: insert SE blocks, convert models, check their gates."""
    if modules:
        _print_loading()
        from keras_se.cli.options import import_modules

        import_modules(modules)


def shadowed_modules() -> list[Path]:
    """Returns the files of modules named `tuning` that this package hides from the import."""
    own, names = Path(__file__).resolve().parent, ("tuning.py", "tuning/__init__.py")
    found = (Path(entry, name) for entry in dict.fromkeys(sys.path) for name in names)
    return [path for path in found if path.is_file() and path.resolve().parent != own]


def _print_loading() -> None:
    if "keras_se" in sys.modules:
        return
    click.echo("keras-se: loading Keras and TensorFlow ...", err=True)
    for other in shadowed_modules():
        click.echo(
            f"Warning: {other} has the name of this package, tuning, and cannot be imported: "
            "rename it.",
            err=True,
        )
