"""What the API pages need beside the docstrings: examples shown as code, and the types that stand in the stub."""

import ast
import pathlib
import re

import griffe

STUB = pathlib.Path(__file__).parents[1] / "tfmetaprune/__init__.pyi"
HOME = "tfmetaprune.pipeline"  # of the functions whose types are in the stub


class Pages(griffe.Extension):
    """Changes what griffe has read: "Example:" becomes the heading it knows, and parameters get their types."""

    def on_object(self, *, obj, **_):
        """Changes the docstring of one object in place."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example( \(.*)?:$", r"Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_function(self, *, func, **_):
        """Gives a function the types of the stub."""
        if func.parent is None or func.parent.path != HOME:
            return
        for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == func.name:
                func.returns = ast.unparse(node.returns)
                for argument in (*node.args.args, *node.args.kwonlyargs):
                    func.parameters[argument.arg].annotation = ast.unparse(argument.annotation)
