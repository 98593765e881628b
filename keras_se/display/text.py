"""Reports as text of 80 columns, as JSON, and in notebooks."""

import html
import json
from collections.abc import Iterable
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 80
# Names come from files, and a terminal obeys what follows these.
_CONTROLS = dict.fromkeys([*range(10), *range(11, 32), *range(127, 160)])


class Shown:
    """A report that shows its text in a notebook, too."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def json_text(content: dict[str, Any]) -> str:
    """Returns the content of a report as JSON text; `None` stands for NaN, which is not JSON."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def rendered(parts: Iterable[str | Table]) -> str:
    """Returns sentences and tables as lines of at most 80 columns."""
    stream = StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, highlight=False, emoji=False)
    for part in parts:
        console.print(part, markup=False)
    return "\n".join(printable(line).rstrip() for line in stream.getvalue().split("\n")[:-1]) + "\n"


def printable(text: str) -> str:
    """Returns text without control characters, all but ends of lines."""
    return text.translate(_CONTROLS)


def site_table(*columns: str, right: bool = False) -> Table:
    """Returns an empty table, the first column for the names of sites."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # A name is folded, not cut: cut names may be equal.
    table.add_column("site", overflow="fold")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if right else "left")
    return table


def figure(value: float | None, form: str) -> str:
    """Returns a number of a table, or a dash."""
    return "-" if value is None else format(value, form)
