"""Pages from templates; all that is shown is escaped."""

import os
from functools import cache
from importlib import metadata
from typing import Any

from keras_se.errors import InputError, import_extra
from keras_se.files import write_files


def page(template: str, **content: Any) -> str:
    """Returns a page: `package/template.html` of this project, filled with content."""
    return _environment().get_template(template).render(content)


def write_page(path: str | os.PathLike[str], text: str, overwrite: bool) -> None:
    """Writes a page whole or not at all."""
    if not os.fspath(path).lower().endswith((".html", ".htm")):
        raise InputError(f"The name of a page must end in .html. Received: {os.fspath(path)!r}")
    write_files({path: text.encode()}, overwrite)


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
    environment.filters["figure"] = _figure
    environment.globals["version"] = metadata.version("keras-se")
    return environment


def _figure(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)
