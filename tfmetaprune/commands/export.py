"""`tfmetaprune export`."""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app
from tfmetaprune.commands.shared import Model, load_model, quiet
from tfmetaprune.errors import ArgumentError


@app.command()
def export(
    model: Model,
    out: Annotated[pathlib.Path, typer.Option(help="The TFLite file to write.")],
    quantize: Annotated[str | None, typer.Option(help="float16, dynamic or int8; float32 without.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set to calibrate on; needed for int8.")] = None,
    sparse: Annotated[bool, typer.Option("--sparse", help="Leave runs of zeros out of the file.")] = False,
    integer_io: Annotated[bool, typer.Option("--integer-io", help="Make inputs and outputs int8, for int8.")] = False,
):
    """Exports a model as a TFLite file that is run and compared before it counts."""
    if quantize == "int8" and data is None:
        raise ArgumentError("export: expected --data NAME for --quantize int8, got none. Name a data set.")
    keras_model = load_model(model)
    with quiet():
        from tfmetaprune.data import load
        from tfmetaprune.export.tflite import export_tflite
        from tfmetaprune.report.progress import progress_bar
        from tfmetaprune.report.tables import format_count
    representative = None if data is None else load(data).train
    with progress_bar("Exporting to TFLite and running it"):
        report = export_tflite(
            keras_model, out, quantize=quantize, representative_data=representative, sparse=sparse, integer_io=integer_io
        )  # fmt: skip
    Console().print(
        f"{out}: {format_count(report.size_bytes)} bytes ({format_count(report.gzip_size_bytes)} after gzip), "
        f"{report.relative_difference:.2g} off the Keras model's largest output.", highlight=False, soft_wrap=True
    )  # fmt: skip
