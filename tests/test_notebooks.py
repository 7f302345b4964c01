"""The notebooks run from top to bottom; what they promise they assert themselves."""

import importlib.util
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
pytest.importorskip("nbclient")


def _execute():
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_are_there():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number}_" for number in range(1, 7)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    before = path.read_bytes()
    notebook = _execute().run_notebook(path, tmp_path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    assert any(line.startswith("assert ") for cell in cells for line in cell.source.splitlines())
    assert path.read_bytes() == before


def test_no_file_tells_of_the_machine():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert "site-packages" not in text and "stderr" not in text
