"""Runs the notebooks in this folder and writes them back with their outputs: `make notebooks`.

Each runs in an empty folder of its own, with a new kernel. What tells of the machine, standard error too, is left out of the file.
"""

import os
import pathlib
import sys
import tempfile

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks() -> list[pathlib.Path]:
    """Returns the notebooks, in the order in which they are to be read."""
    return sorted(FOLDER.glob("*.ipynb"))


def run_notebook(path, folder):
    """Runs every cell of a notebook.

    Args:
      path: the notebook; it is not written.
      folder: the working directory of the kernel.

    Returns:
      The notebook with its new outputs, without metadata of cells and kernel.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=None, record_timing=False)
    client.execute(cwd=str(folder), env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ})
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":  # warnings name files of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def main(names):
    """Runs the named notebooks, or all of them, and writes them back."""
    from tfmetaprune import data

    data.load("digits")  # what its preparation prints is in no notebook
    for path in [FOLDER / pathlib.Path(name).name for name in names] or notebooks():
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(path, folder)
        nbformat.write(notebook, path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
