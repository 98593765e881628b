"""Shows the sections of this project's docstrings, which follow Keras, in the API pages."""

import re
from typing import Any

import griffe

# Griffe knows "Examples:", and no arguments of a call but as further parameters.
_SECTIONS = (
    (re.compile(r"^Example:$", re.MULTILINE), "Examples:"),
    (re.compile(r"^Call arguments:$", re.MULTILINE), "Other parameters: Call arguments:"),
)


class KerasSections(griffe.Extension):
    """Renames sections of docstrings before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            for section, name in _SECTIONS:
                obj.docstring.value = section.sub(name, obj.docstring.value)
