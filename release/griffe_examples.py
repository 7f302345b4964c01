"""Shows the examples of docstrings as code: griffe knows them under the heading "Examples:", ours say "Example:"."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the heading in every docstring as it is read."""

    def on_object(self, *, obj, **_):
        """Changes the docstring of one object in place."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example( \(.*)?:$", r"Examples:", obj.docstring.value, flags=re.MULTILINE)
