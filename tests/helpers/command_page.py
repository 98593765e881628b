"""The page of the command line, made from what click knows: `python tests/helpers/command_page.py`.

What is above the first heading of a command is written by hand and kept.
"""

import importlib
import inspect
from pathlib import Path

import click

from tuning.cli import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
FIRST = "## keras-se "  # of the headings of commands


def commands():
    """The commands by name, in the order of `keras-se --help`."""
    for name, (place, line) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        yield name, line, getattr(importlib.import_module(module), attribute)


def sections():
    """Yields the section of each command."""
    for name, _, command in commands():
        context = click.Context(command, info_name=f"keras-se {name}")
        usage = " ".join(piece.strip() for piece in command.collect_usage_pieces(context))
        lines = [f"{FIRST}{name}", "", f"`keras-se {name} {usage}`", ""]
        paragraphs = inspect.cleandoc(command.help).split("\n\n")
        lines += [" ".join(paragraph.split()) + "\n" for paragraph in paragraphs]
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [row(option) for option in command.params if isinstance(option, click.Option)]
        yield "\n".join(lines) + "\n"


def row(option):
    """The row of an option."""
    is_choice = isinstance(option.type, click.Choice)
    kind = "NAME" if is_choice else option.type.name.partition(" ")[0].upper()  # no "RANGE"
    value = "" if option.is_flag else f" {option.metavar or kind}"
    meanings = [option.help or ""]
    if is_choice:
        meanings.append(f"One of {', '.join(f'`{name}`' for name in option.type.choices)}.")
    if option.multiple and "repeated" not in meanings[0]:
        meanings.append("May be repeated.")
    meaning = " ".join(filter(None, meanings)).replace("|", "\\|")
    return f"| `{option.opts[0]}{value}` | {default(option)} | {meaning} |"


def default(option):
    """The default of an option as a cell."""
    if option.required:
        return "required"
    value = option.to_info_dict()["default"]
    is_none = value is None or option.multiple or (option.is_flag and not value)
    return "" if is_none or type(value).__name__ == "Sentinel" else f"`{value}`"


def page(text):
    """The page, with the top of `text`."""
    return text.partition(f"\n{FIRST}")[0].rstrip() + "\n\n" + "\n".join(sections())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
