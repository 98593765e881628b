"""A report as people and programs see it: text, HTML for notebooks, and JSON."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from keras_se.display.text import Part, html_of, rendered


class Shown(ABC):
    """A report, a frozen dataclass whose fields are its content, which shows itself.

    Attributes:
        schema: Number of the form of the JSON text; see `docs/reports.md`.
        derived: Names of the properties that the JSON text has, beside the fields.
    """

    schema: ClassVar[int] = 1
    derived: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, then sentences and tables."""

    @property
    def conclusion(self) -> str:
        """One sentence: what the report comes to, and why."""
        return str(next(self.parts()))

    def __str__(self) -> str:
        return rendered(self.parts())

    def _repr_html_(self) -> str:
        return html_of(self.parts())

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values for JSON, without its schema."""
        content: dict[str, Any] = plain(self)
        return content

    def to_json(self) -> str:
        """Returns the report as JSON text, whose keys `docs/reports.md` describes."""
        # `None` stands for NaN, which is not JSON.
        content = {"schema": self.schema, **self.to_dict()}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Returns plain values for a report and all in it, properties that it names included."""
    if dataclasses.is_dataclass(value):
        # What two equal reports may differ in is for this process alone.
        fields = [field.name for field in dataclasses.fields(value) if field.compare]
        names = (*getattr(value, "derived", ()), *fields)
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value
