"""Pages of documents: their code runs, and prints what they say that it prints."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
# A block of code, and what it prints, if the page has it right below.
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """The blocks of Python in a page, each with what it prints; empty if that is not said."""
    return _BLOCK.findall(text)


def run_page(text: str, same: Callable[[str, str], bool] = str.__eq__) -> tuple[dict, str]:
    """Runs the blocks of a page one after the other, and returns their names and what they print.

    Args:
        text: The page.
        same: Whether what a page says is what a block prints; by default to the last letter.
    """
    names: dict = {"__name__": "page"}
    found = blocks(text)
    assert found
    whole = ""
    for n, (source, said) in enumerate(found, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"block {n}", "exec"), names)  # noqa: S102
        whole += printed.getvalue()
        assert not said or same(said, printed.getvalue()), (
            f"block {n} prints:\n{printed.getvalue()}"
        )
    return names, whole


def table(text: str, header: str) -> list[list[str]]:
    """The rows of the table of a page whose header line begins so, each as its cells."""
    rows = text.split(f"\n| {header}", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
