"""The list of public names, and the direction of imports."""

import ast
import pathlib
import subprocess
import sys

import pytest

import tfmetaprune

ROOT = pathlib.Path(tfmetaprune.__file__).parent
PUBLIC = [
    "prune", "PruneResult", "encode", "decode", "load_metanetwork", "MetaNetwork", "MetaNetConfig", "inspect",
    "export_tflite", "benchmark", "MetaPruning", "analyze", "TFMetaPruneError", "__version__",
]  # fmt: skip

# Part of the package -> the parts it may import (README.md, "Imports run one way").
_BASE = {"_keras", "errors"}
_TRACE = _BASE | {"layers", "channels", "trace"}
_ENGINE = _TRACE | {"interop", "graph", "metanet", "pruning", "export", "data", "report"}
ALLOWED = {
    "errors": set(),
    "_keras": {"errors"},
    "compile_state": {"_keras"},
    "model_class": {"_keras"},
    "layers": _BASE,
    "channels": _BASE | {"layers"},
    "trace": _TRACE - {"trace"},
    "interop": _BASE | {"layers", "compile_state", "model_class"},
    "graph": _TRACE,
    "metanet": _TRACE | {"graph"},
    "pruning": _TRACE | {"compile_state", "model_class"},
    "export": _TRACE | {"pruning", "interop", "data", "finetuning"},
    "data": _BASE,
    "report": {"_keras", "errors"},
    "metatrain": _ENGINE | {"__init__", "finetuning"},
    "finetuning": _BASE | {"data", "interop", "report", "trace"},
    "preparation": _TRACE | {"pruning", "finetuning"},
    "latency_target": _BASE | {"pruning", "export"},
    "arguments": {"errors", "pruning", "latency_target"},
    "inspection": _TRACE | {"pruning", "interop"},
    "output_errors": _TRACE | {"graph", "pruning"},
    "ways": {"metanet"},
    "choosing": _ENGINE | {"latency_target", "output_errors", "ways"},
    "pipeline": _ENGINE | {"__init__", "arguments", "choosing", "finetuning", "inspection", "preparation", "record", "ways"},
    "record": _TRACE | {"pruning", "report"},
    "report_measurements": {"errors", "export", "pipeline", "report"},
    "callback_options": _BASE | {"pruning"},
    "callbacks": _ENGINE | {"__init__", "callback_options", "choosing", "pipeline", "finetuning"},
    "analysis_numbers": _TRACE | {"pruning"},
    "analysis": _ENGINE | {"analysis_numbers"},
    "demo": _ENGINE | {"choosing", "pipeline", "finetuning", "metatrain"},
    "recipes": _ENGINE | {"__init__", "pipeline", "metatrain"},
    "comparison": _ENGINE | {"finetuning"},
    "environment": _BASE | {"__init__", "data", "metanet"},
    "commands": _ENGINE
    | {
        "__init__", "inspection", "pipeline", "demo", "metatrain", "analysis", "comparison", "environment", "recipes",
        "report_measurements",
    },  # fmt: skip
    "cli": {"commands"},
    "__main__": {"cli"},
    "__init__": set(),  # it imports by name, lazily
}


def _part(names):
    """The part of the package that `names`, the components of a module's name, belong to."""
    is_part = len(names) > 1 and ((ROOT / names[1]).is_dir() or (ROOT / f"{names[1]}.py").is_file())
    return names[1] if is_part else "__init__"


def _imported_parts(source, package):
    """The parts of the package that a module imports, anywhere in it."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            modules = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {_part(name.split(".")) for name in modules if name.split(".")[0] == "tfmetaprune"}
    return parts


def _modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if not path.stem.endswith("_test")]


def test_public_names_are_exactly_these():
    assert tfmetaprune.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(tfmetaprune))
    for name in PUBLIC:
        assert getattr(tfmetaprune, name) is not None


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tfmetaprune' has no attribute 'shrink'"):
        tfmetaprune.shrink  # noqa: B018


@pytest.mark.parametrize("path", _modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path):
    names = ("tfmetaprune", *path.relative_to(ROOT).with_suffix("").parts)
    package = names[:-1]
    part = _part(names)
    assert part in ALLOWED, f"{part}: add it to ALLOWED and to the design"
    forbidden = _imported_parts(path.read_text(encoding="utf-8"), package) - ALLOWED[part] - {part}
    assert not forbidden, f"{part} must not import {sorted(forbidden)}"


def test_forbidden_imports_are_found():
    package = ("tfmetaprune", "graph")
    assert _imported_parts("def f():\n    from tfmetaprune.pruning.plan import make_plan", package) == {"pruning"}
    assert _imported_parts("from tfmetaprune import pipeline", package) == {"pipeline"}
    assert _imported_parts("from ..metanet import MetaNetwork", package) == {"metanet"}
    assert _imported_parts("from . import schema", package) == {"graph"}
    assert _imported_parts("import tfmetaprune.cli", package) == {"cli"}
    assert _imported_parts("import tfmetaprune\nfrom tfmetaprune import prune", package) == {"__init__"}
    assert _imported_parts("import numpy, tensorflow", package) == set()


@pytest.mark.parametrize("statement", ["import tfmetaprune", "import tfmetaprune.cli"])
def test_importing_is_light(statement):
    heavy = "('tensorflow', 'tf_keras', 'numpy')"
    code = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
