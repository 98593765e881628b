"""Pages from templates; all that is shown is escaped."""

import os
from abc import abstractmethod
from functools import cache
from importlib import metadata
from typing import Any

from keras_se.display.shown import Shown
from keras_se.display.table import Table, tone
from keras_se.display.text import figure
from keras_se.errors import InputError, import_extra
from keras_se.files import write_files


def page(template: str, **content: Any) -> str:
    """Returns a page: `package/template.html` of this project, filled with content."""
    return _environment().get_template(template).render(content)


class Paged(Shown):
    """A report that is also a page."""

    @abstractmethod
    def page(self) -> str:
        """Returns the report as one page of HTML, with plots, that needs no network."""

    def to_html(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the report as one page of HTML, with plots, that needs no network.

        Args:
            path: Where to write it.
            overwrite: Whether to replace an existing file; the old one is renamed.

        Raises:
            InputError: If the file exists or cannot be written.
            MissingExtraError: If Jinja or matplotlib is not installed.
        """
        if not os.fspath(path).lower().endswith((".html", ".htm")):
            raise InputError(f"The name of a page must end in .html. Received: {os.fspath(path)!r}")
        write_files({path: self.page().encode()}, overwrite)


@cache
def _environment() -> Any:
    jinja2: Any = import_extra("jinja2", "plots")
    loaders = {
        "display": "keras_se.display",
        "verification": "keras_se.verification.reports",
        "search": "tuning.report",
    }
    environment = jinja2.Environment(
        loader=jinja2.PrefixLoader(
            {name: jinja2.PackageLoader(package, "") for name, package in loaders.items()}
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, and no gap in the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value, form=".3f": figure(value, form)
    environment.filters["table"] = lambda table, links=False: _safe(table, links)
    environment.filters["tone"] = tone
    environment.globals["version"] = metadata.version("keras-se")
    return environment


def _safe(table: Table, links: bool) -> Any:
    """Returns a table that is escaped already."""
    markupsafe: Any = import_extra("markupsafe", "plots")
    return markupsafe.Markup(table.html(links))
