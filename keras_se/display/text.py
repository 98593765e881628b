"""Reports as text of 80 columns and as HTML for notebooks: sentences, tables and commands."""

from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO

from rich.console import Console

from keras_se.display.table import Table

_WIDTH = 80
# Names come from files, and a terminal obeys what follows these.
_CONTROLS = dict.fromkeys([*range(10), *range(11, 32), *range(127, 160)])


class Command(str):
    """A line that is not wrapped, for what is wrapped cannot be copied."""

    __slots__ = ()


Part = str | Table


def rendered(parts: Iterable[Part]) -> str:
    """Returns sentences and tables as lines of at most 80 columns; only a command may be longer."""
    stream = StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, highlight=False, emoji=False)
    for part in parts:
        drawn = part.drawn() if isinstance(part, Table) else part
        console.print(drawn, markup=False, soft_wrap=isinstance(part, Command))
    return "\n".join(printable(line).rstrip() for line in stream.getvalue().split("\n")[:-1]) + "\n"


def html_of(parts: Iterable[Part]) -> str:
    """Returns sentences and tables as HTML that takes the colours of the page that it is put in."""
    first, *others = parts
    lines = [f"<p><strong>{escape(printable(str(first)))}</strong></p>"]
    for part in others:
        if isinstance(part, Table):
            lines.append(part.html(whole=False))
        else:
            tag = "pre" if isinstance(part, Command) else "p"
            lines.append(f"<{tag}>{escape(printable(part))}</{tag}>")
    return "\n".join(["<div>", *lines, "</div>"])


def printable(text: str) -> str:
    """Returns text without control characters, all but ends of lines."""
    return text.translate(_CONTROLS)


def listed(names: Sequence[str]) -> str:
    """Returns names as a part of a sentence, the first ones of many."""
    if len(names) <= 4:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def figure(value: float | None, form: str) -> str:
    """Returns a number of a table, or a dash."""
    return "-" if value is None else format(value, form)
