"""`tfmetaprune export`."""

import dataclasses
import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import (
    Data,
    DataDir,
    Json,
    Model,
    Quiet,
    Scaling,
    Seed,
    load_data,
    load_model,
    quiet,
    refuse_unused,
    results,
)
from tfmetaprune.errors import ArgumentError


@app.command(
    epilog=examples(
        "tfmetaprune export model.keras",
        "tfmetaprune export model.keras --quantize int8 --data digits --out model_int8.tflite",
        "tfmetaprune export model.keras --quantize int8 --data digits --train-epochs 3",
    )
)
def export(
    model: Model,
    out: Annotated[pathlib.Path | None, typer.Option(help="The TFLite file to write.", show_default="beside the model")] = None,
    quantize: Annotated[str | None, typer.Option(help="float16, dynamic or int8.", show_default="float32")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    scaling: Scaling = None,
    sparse: Annotated[bool, typer.Option("--sparse", help="Leave runs of zeros out of the file.")] = False,
    integer_io: Annotated[bool, typer.Option("--integer-io", help="Make inputs and outputs int8, for int8.")] = False,
    train_epochs: Annotated[int, typer.Option(help="Train for int8 on the data first, so many passes.", min=0)] = 0,
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Exports a model as a TFLite file that is run and compared before it counts; int8 needs --data to calibrate on."""
    with results(as_json, is_quiet) as done:
        if data is None and (quantize == "int8" or train_epochs):
            asked = "--train-epochs" if train_epochs else "--quantize int8"
            raise ArgumentError(f"export: expected --data NAME for {asked}, got none. Name a data set.")
        if data is None:
            refuse_unused("export without --data", data_dir=data_dir, scaling=scaling)
        out = model.with_suffix(".tflite") if out is None else out
        keras_model = load_model(model)
        with quiet():
            from tfmetaprune.export.tflite import export_tflite
            from tfmetaprune.report.progress import progress_bar
            from tfmetaprune.report.tables import format_count
        examples_seen = None if data is None else load_data(data, data_dir, seed, keras_model, scaling).train
        training = {"training_data": examples_seen, "epochs": train_epochs} if train_epochs else {}
        with progress_bar("Exporting to TFLite and running it"):
            report = export_tflite(
                keras_model, out, quantize=quantize, representative_data=examples_seen, sparse=sparse, integer_io=integer_io,
                **training,
            )  # fmt: skip
        done.write({**dataclasses.asdict(report), "path": str(out)})
        done.show(
            f"{out}: {format_count(report.size_bytes)} bytes ({format_count(report.gzip_size_bytes)} after gzip), "
            f"{report.relative_difference:.2g} off the Keras model's largest output."
        )
