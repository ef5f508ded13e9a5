"""Show the examples of docstrings as code: griffe knows sections called Examples, our docstrings call them Example."""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rename the section of each docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename it in one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
