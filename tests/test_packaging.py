"""BUILD names every source and every test, with what they import; the version stands in one place and in the list of changes."""

import ast
import importlib.metadata
import pathlib
import re

import pytest

import tfmetaprune

ROOT = pathlib.Path(tfmetaprune.__file__).parents[1]


def _glob(patterns, exclude=()):
    """Bazel's `glob`, from the top of the checkout."""
    found = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(found - set(_glob(exclude) if exclude else ()))


def _targets():
    """Name -> (kind, srcs, data, deps), of what BUILD makes: Starlark is close enough to Python to be run as it."""
    targets = {}

    def rule(kind):
        def make(name, srcs, deps=(), data=(), **_):
            targets[name] = (kind, set(srcs), set(data), [dep.removeprefix(":") for dep in deps])

        return make

    names = {kind: rule(kind) for kind in ("py_library", "py_binary", "py_test")}
    nothing = dict.fromkeys(("load", "package", "licenses", "exports_files"), lambda *args, **kwargs: None)
    exec((ROOT / "BUILD").read_text(encoding="utf-8"), {**names, **nothing, "glob": _glob})
    return targets


TARGETS = _targets()
LIBRARIES = [name for name, (kind, *_) in TARGETS.items() if kind == "py_library"]


def _closure(name):
    """The files that a target sees: its own, and those of what it depends on."""
    _, srcs, data, deps = TARGETS[name]
    return srcs.union(data, *map(_closure, deps))


def test_every_source_is_in_a_library_and_every_file_of_the_package_is_seen():
    sources = {path for name in LIBRARIES for path in TARGETS[name][1]}
    assert set(_glob(["tfmetaprune/**/*.py"])) <= sources
    others = {path for path in _glob(["tfmetaprune/**/*"]) if not path.endswith((".py", ".pyc"))}
    assert others <= _closure("tfmetaprune")
    assert set(_glob(["saved_models/*"])) <= _closure("tfmetaprune")


def test_every_test_is_a_target_that_sees_the_package():
    tests = {path: name for name, (kind, srcs, *_) in TARGETS.items() if kind == "py_test" for path in srcs if "/test_" in path}
    assert set(tests) == set(_glob(["tests/**/test_*.py"]))
    for path, name in tests.items():
        assert _closure("tfmetaprune") <= _closure(name), path
        assert {"tests/run_pytest.py", "conftest.py", "pyproject.toml", "README.md", "mkdocs.yml"} <= _closure(name), path


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_depends_on_what_it_imports_at_once(name):
    """Imports inside functions are left out: some go upwards."""
    seen = _closure(name)
    for path in sorted(TARGETS[name][1]):
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfmetaprune."):
                module = node.module.replace(".", "/")
                assert seen & {f"{module}.py", f"{module}/__init__.py"}, f"{path} imports {node.module}: add it to deps of :{name}"


def test_version_stands_in_one_place():
    version = tfmetaprune.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert newest == version
    assert version not in (ROOT / "setup.py").read_text(encoding="utf-8").replace("2.21", "")
    assert importlib.metadata.metadata("tfmetaprune")["Requires-Python"] == ">=3.10"
