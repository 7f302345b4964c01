"""Runs pytest on the files given: the entry point of the Bazel tests."""

import pathlib
import sys

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    sys.exit(pytest.main([*sys.argv[1:], "-p", "no:cacheprovider"]))
