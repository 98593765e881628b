"""A table of a report, the same in text, in notebooks and on pages."""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import rich.table
from rich import box

# What a word says of its row, for the colours of pages.
_TONES = {
    "survives": "good",
    "weakened": "fair",
    "lost": "bad",
    "failed": "bad",
    "out": "bad",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its title.
        cells: One text for each row.
        short: Its title in text of 80 columns; empty if it is the same, `None` if it is left out.
        is_words: Whether its cells are words, which stand at the left, and no figures.
        folds: Whether cells go on in a further line of text where there is no room.
    """

    title: str
    cells: Sequence[str]
    short: str | None = ""
    is_words: bool = False
    folds: bool = False

    @property
    def side(self) -> Literal["left", "right"]:
        """Where its cells stand."""
        return "left" if self.is_words else "right"

    def cell(self, text: str, tag: str = "td", further: str = "") -> str:
        """Returns a cell of the column as HTML, from text or what `further` has made of it."""
        kind = f' class="{tone(text)}"' if self.is_words and tone(text) else ""
        scope = {"th": ' scope="row"', "td": ""}[tag]
        style = f' style="text-align: {self.side}"'
        return f"<{tag}{scope}{kind}{style}>{further or escape(text)}</{tag}>"

    @property
    def head(self) -> str:
        """The title as a cell of HTML."""
        return f'<th scope="col" style="text-align: {self.side}">{escape(self.title)}</th>'


@dataclass(frozen=True)
class Table:
    """Rows of text, of which the first column has the names.

    Attributes:
        name: What the rows are, for those who hear the page.
        columns: The columns.
        most: Number of rows but on pages; those beyond are counted.
    """

    name: str
    columns: Sequence[Column]
    most: int | None = None

    def __len__(self) -> int:
        return len(self.columns[0].cells)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yields the cells, row by row."""
        yield from zip(*(column.cells for column in self.columns), strict=True)

    @property
    def _more(self) -> int:
        return 0 if self.most is None else max(0, len(self) - self.most)

    def drawn(self) -> rich.table.Table:
        """Returns the table for text of 80 columns."""
        table = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        first, *others = [column for column in self.columns if column.short is not None]
        where, cells = without_path(first.cells) if first.title == "site" else ("", first.cells)
        if where:
            table.caption, table.caption_justify = f"All sites are in {where}.", "left"
        for column in (first, *others):
            # A name is folded, not cut: cut names may be equal.
            table.add_column(
                column.short or column.title,
                overflow="fold",
                no_wrap=not column.folds,
                justify=column.side,
            )
        rows = zip(cells, *(column.cells for column in others), strict=True)
        for row in list(rows)[: self.most]:
            table.add_row(*row)
        if self._more:
            table.add_row(f"and {self._more} more")
        return table

    def html(self, links: bool = False, whole: bool = True) -> str:
        """Returns the table as HTML.

        Args:
            links: Whether the names lead to sections with the numbers of the rows as `id`.
            whole: Whether all rows are shown, more than `most`, too.
        """
        names, *others = self.columns
        rows = list(self.rows())[: None if whole else self.most]
        lines = []
        for number, (name, *cells) in enumerate(rows, start=1):
            link = f'<a href="#{number}">{escape(name)}</a>' if links else ""
            row = [column.cell(cell) for column, cell in zip(others, cells, strict=True)]
            lines.append(f"<tr>{''.join([names.cell(name, 'th', link), *row])}</tr>")
        if self._more and not whole:
            lines.append(f"<tr>{names.cell(f'and {self._more} more', 'th')}</tr>")
        head = "".join(column.head for column in self.columns)
        body = "\n".join(lines)
        # Tables scroll, also by the keyboard, and nothing else is wider than its place.
        return (
            '<div class="scroll" style="overflow-x: auto" tabindex="0" role="region" '
            f'aria-label="{escape(self.name)}">\n<table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
        )


def without_path(names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Returns the path that all sites lie in, such as a nested backbone, and the rest of each."""
    parents = [name.rpartition("/")[0] for name in names]
    path = posixpath.commonpath(parents) if len(names) > 1 and all(parents) else ""
    return path, [name.removeprefix(f"{path}/") for name in names] if path else names


def tone(words: str) -> str:
    """Returns the class of words in a page, by the last of them; empty without."""
    found = _TONES.get(words.rpartition(", ")[2])
    return f"tone-{found}" if found else ""


def names(title: str, cells: Sequence[str]) -> Column:
    """Returns the first column of a table, which names its rows."""
    return Column(title, cells, is_words=True, folds=True)
