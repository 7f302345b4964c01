"""What type checkers see of the public names, and that it is what Python sees."""

import ast
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import tfmetaprune

ROOT = pathlib.Path(tfmetaprune.__file__).parents[1]
STUB = ast.parse((ROOT / "tfmetaprune/__init__.pyi").read_text(encoding="utf-8"))
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}

PROGRAM = '''
import keras
import tfmetaprune
from tfmetaprune.data import load

model = keras.models.load_model("mine.keras")
small = tfmetaprune.prune(model, load("digits").train, speedup=2.0)
reveal_type(small)
reveal_type(small.plan)
reveal_type(tfmetaprune.export_tflite(small.model, "small.tflite", quantize="int8").size_bytes)
reveal_type(tfmetaprune.benchmark(small.model).models[0].latency.median_ms)
reveal_type(tfmetaprune.MetaPruning(speedup=2.0).plan)
reveal_type(tfmetaprune.analyze(model, small.model).weight_change)
reveal_type(tfmetaprune.inspect(model).prunable_macs_share)
reveal_type(tfmetaprune.load_metanetwork("digits").config)
tfmetaprune.prune(model, speedup="two")
tfmetaprune.export_tflite(model, "small.tflite", quantize="int4")
'''
SEEN = [
    'Revealed type is "tfmetaprune.pipeline.PruneResult"',
    'Revealed type is "tfmetaprune.pruning.plan.PruningPlan | tfmetaprune.pruning.sparse.targets.SparsePlan"',
    'Revealed type is "int"',
    'Revealed type is "float"',
    'Revealed type is "tfmetaprune.pruning.plan.PruningPlan | None"',
    'Revealed type is "dict[str, float]"',
    'Revealed type is "float"',
    'Revealed type is "tfmetaprune.metanet.config.MetaNetConfig"',
    'Argument "speedup" to "prune" has incompatible type',
    'Argument "quantize" to "export_tflite" has incompatible type',
]


def test_a_typed_program_sees_the_types(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "program.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # as if it were installed: only a package with py.typed is read
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = run.stdout.splitlines()
    assert [wanted for line, wanted in zip(lines, SEEN) if wanted in line] == SEEN, run.stdout + run.stderr
    assert lines[-1].startswith("Found 2 errors"), run.stdout


def test_the_stub_names_what_is_public():
    imported = {alias.name for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    declared = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)}
    assert imported | declared | set(FUNCTIONS) == set(tfmetaprune.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stub_has_the_signature_of_the_function(name):
    stub = FUNCTIONS[name].args
    defaults = [inspect.Parameter.empty] * (len(stub.args) - len(stub.defaults)) + [*map(ast.literal_eval, stub.defaults)]
    wanted = [(arg.arg, default) for arg, default in zip(stub.args, defaults)]
    wanted += [(arg.arg, ast.literal_eval(default)) for arg, default in zip(stub.kwonlyargs, stub.kw_defaults)]
    parameters = inspect.signature(getattr(tfmetaprune, name)).parameters.values()
    assert [(parameter.name, parameter.default) for parameter in parameters] == wanted, "tfmetaprune/__init__.pyi is behind"
    keyword_only = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    assert keyword_only == [arg.arg for arg in stub.kwonlyargs]
