"""Meta-training on a zoo: mixed families and data sets, ended by the objective on validation models; and the choice among metanetworks."""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import platform
import zlib
from collections.abc import Sequence

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork, load_metanetwork, save_metanetwork
from tfmetaprune.metanet.pretrained import load_card
from tfmetaprune.metatrain.command import HELD_OUT_SEED, PACKAGES
from tfmetaprune.metatrain.data_models import BATCH_SIZE, ORDER_SEED, DataModelFile, list_data_models, logged_models
from tfmetaprune.metatrain.distribution import gather, is_chief, make_strategy
from tfmetaprune.metatrain.searching import load_searched
from tfmetaprune.metatrain.select import NONE, load_judges, pruning_objective, select
from tfmetaprune.metatrain.trainer import IDENTITY_FILE, MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import logged_seconds
from tfmetaprune.pruning import check_repair

VALIDATION_SPEEDUPS = (2.0, 4.0, 8.0, 12.0)  # of the early stop, which runs often


def split_zoo(folder, *, families=None, data=None, held_out=False, number=None):
    """Lists the data models of a zoo that are there to train on, or those that are held out.

    Args:
      folder: of the zoo.
      families: names to take; None for all.
      data: names of data sets to take; None for all.
      held_out: whether to list those with seeds from 1000 on, which are never trained on.
      number: how many to take at most, of all families and data sets in turn; None for all.

    Returns:
      A list of `DataModelFile`s.

    Raises:
      ArgumentError: there are none.
    """
    files = list_data_models(folder, families=families, data=data)
    files = [file for file in files if (file.seed >= HELD_OUT_SEED) == held_out]
    if not files:
        what, option = (f"seeds from {HELD_OUT_SEED} on", "--held-out") if held_out else (f"seeds below {HELD_OUT_SEED}", "--seeds")
        raise ArgumentError(
            f"Zoo {folder}: expected data models with {what}, got none. Make some: tfmetaprune zoo make {folder} {option} 2"
        )
    groups, data_of = {}, {}
    for file in files:
        groups.setdefault((file.family, file.data), []).append(file)
        data_of.setdefault(file.family, []).append(file.data)
    order = [(place, file) for group in groups.values() for place, file in enumerate(group)]
    if number is None:
        return [file for _, file in sorted(order)]
    turns = {key: sorted({*data_of[key[0]]}).index(key[1]) for key in groups}  # each family once, before any comes again
    return [file for *_, file in sorted((place, turns[file.family, file.data], file) for place, file in order)][:number]


def meta_train_on_zoo(
    out, zoo, *, name="universal", families=None, data=None, validation_families=None, validation_data=None, num_validation=6,
    validation_repair="bn", settings: MetaTraining | None = None, config: MetaNetConfig | None = None, strategy="none",
    resume=False, progress=None,
) -> dict | None:  # fmt: skip
    """Trains a metanetwork on the data models of a zoo with seeds below 1000; the best by the objective on others is kept.

    Args:
      out: folder for the checkpoints, log, TensorBoard's file, and the metanetwork and its card, NAME.keras and NAME.json.
      zoo: folder of the zoo.
      name: of the metanetwork.
      families: names to train on; None for all.
      data: names of data sets to train on; None for all.
      validation_families: names to validate on; None for those that are trained on.
      validation_data: the same for data sets.
      num_validation: number of data models, with seeds from 1000 on, to validate on; 0 to train to the end without.
      validation_repair: repair of the objective, "bn" or "least_squares".
      settings: the `MetaTraining`.
      config: of the metanetwork.
      strategy: name of the distribution strategy, see `make_strategy`.
      resume: go on where an earlier run in `out` stopped.
      progress: called as `progress(stage, done, total)`.

    Returns:
      The card, a JSON-able dict; None on workers other than the chief.

    Raises:
      ArgumentError: the zoo has no data models for this, or no searches for the objective "searched", or there is no such repair, or
        the results would be written over the zoo's or the training's own files.
    """
    check_repair(validation_repair)
    if pathlib.Path(out).resolve() == pathlib.Path(zoo).resolve():
        raise ArgumentError(f"meta-train: expected another folder than the zoo's for the training, got {out} for both. Take a new one.")
    if pathlib.Path(name).name != name or name == IDENTITY_FILE.removesuffix(".json"):
        raise ArgumentError(f"meta-train: expected the name of a file, other than {IDENTITY_FILE!r} has, got {name!r}. Take another.")
    strategy = make_strategy(strategy)
    settings, config, report = settings or MetaTraining(), config or MetaNetConfig(), progress or (lambda *_: None)
    out, chief = pathlib.Path(out), is_chief(strategy)
    files = split_zoo(zoo, families=families, data=data)
    datasets = {each: _train_split(each) for each in sorted({file.data for file in files})}
    rankings, search = _searches(zoo, files) if settings.objective == "searched" else (None, None)
    models = [file.load(zoo) for file in files]
    keras.utils.set_random_seed(settings.seed)
    with strategy.scope():
        metanet = MetaNetwork(config)
    judges, judged = [], []
    if num_validation:
        judged = split_zoo(
            zoo, families=validation_families or families, data=validation_data or data, held_out=True, number=num_validation
        )
        judges = load_judges(zoo, judged) if chief else []

    def validate(candidate):
        values = pruning_objective(candidate, judges, repair=validation_repair, speedups=VALIDATION_SPEEDUPS, seed=settings.seed)
        return float(values.mean())

    crc = functools.reduce(lambda crc, ranking: zlib.crc32(np.ascontiguousarray(ranking), crc), rankings or (), 0)
    identity = {
        "validation": {"models": [file.digest(zoo) for file in judged], "repair": validation_repair, "speedups": VALIDATION_SPEEDUPS},
        "search": {**(search._asdict() if search else {}), "scores": crc},
    }  # fmt: skip
    trainer = MetaTrainer(
        metanet, models, [datasets[file.data] for file in files], settings, out, strategy, validate if judged else None, rankings, identity
    )
    trainer.train(resume=resume, progress=lambda step, _: report("meta-steps", step, settings.steps))
    if not chief:
        gather(strategy, 0)
        return None
    chosen = {
        "families": families, "data": data, "validation-families": validation_families, "validation-data": validation_data
    }  # fmt: skip
    card = {
        "command": " ".join([
            f"tfmetaprune meta-train --zoo ZOO --out DIR --objective {settings.objective} --steps {settings.steps} "
            f"--seed {settings.seed} --batches-per-step {settings.batches_per_step} --models-per-step {settings.models_per_step} "
            f"--perturbation {settings.perturbation:g} --num-validation {num_validation} --validation-repair {validation_repair} "
            f"--validate-every {settings.validate_every} --patience {settings.patience} --hidden {config.hidden} "
            f"--layers {config.num_layers} --fisher-weight {config.fisher_weight:g}",
            *([f"--regularization {settings.regularization:g}"] if settings.regularization is not None else []),
            *(f"--{option} {','.join(values)}" for option, values in chosen.items() if values),
        ]),
        "data": {"names": list(datasets)},
        "data_models": {"trained_on": [file.file_name for file in files], "validated_on": [file.file_name for file in judged]},
        "config": config.to_dict(),
        "parameters": int(sum(np.prod(v.shape) for v in metanet.trainable_variables)),
        "training": dataclasses.asdict(settings), **({"search": search._asdict()} if search else {}),
        "seconds": {"data_models": round(_seconds(zoo, files)), "meta_training": round(logged_seconds(out / "log.jsonl"))},
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
    }  # fmt: skip
    if judged:
        card["validation"] = {
            "what": f"area under accuracy / log speed-up at {', '.join(f'{s:g}' for s in VALIDATION_SPEEDUPS)}x right after "
            f"pruning and the repair {validation_repair}, on the validation split, mean over the models",
            "objective": round(trainer.best.value, 4), "step": trainer.best.step,
            "without": round(float(pruning_objective(
                None, judges, repair=validation_repair, speedups=VALIDATION_SPEEDUPS, seed=settings.seed).mean()), 4),
        }  # fmt: skip
    save_metanetwork(metanet, out / f"{name}.keras", card)
    gather(strategy, 0)
    return card


def _searches(zoo, files):
    """Returns the scores that the search for each data model ended with, and the settings, which are the same for all."""
    searches = [load_searched(zoo, file) for file in files]
    settings = {search.settings for search in searches}
    if len(settings) > 1:
        raise ArgumentError(
            f"Zoo {zoo}: expected searches with the same settings for all data models, got {len(settings)} kinds. Make them the same: "
            f"tfmetaprune zoo search {zoo}"
        )
    return [search.start + search.found for search in searches], settings.pop()


def _seconds(zoo, files):
    """What the training of data models took, by the zoo's log."""
    seconds = {tuple(row[field] for field in DataModelFile._fields): row["seconds"] for row in logged_models(zoo)}
    return sum(seconds.get(file, 0) for file in files)


def select_on_zoo(
    metanets: Sequence, zoo, out, *, families=None, data=None, num_models=None, split="validation", progress=None, **options
) -> dict:
    """Judges metanetworks by the objective on the held-out data models of a zoo, and writes the winner with its card.

    Args:
      metanets: names of shipped ones, or paths.
      zoo: folder of the zoo.
      out: folder for the measurements, `selection.json`, and the winner, if it is a metanetwork: its file and its card, with what
        was measured under "selection". None is written for the test split, which nothing may be chosen by.
      families: names to judge on; None for all.
      data: names of data sets to judge on; None for all.
      num_models: how many data models to judge on at most, of all families and data sets in turn; None for all.
      split: whose accuracy counts, see `load_judges`.
      progress: called as `progress(stage, done, total)`.
      **options: of `select`.

    Returns:
      What `select.summarize` returns.

    Raises:
      ArgumentError: two metanetworks have the same name, or the zoo has no data models for this.
      MetaNetworkError: a metanetwork cannot be loaded.
    """
    report = progress or (lambda *_: None)
    names = [pathlib.Path(str(each)).stem for each in metanets]
    if len(set(names)) < len(names):
        raise ArgumentError(f"select: expected metanetworks of different names, got {names}. Rename the files.")
    if "selection" in names:
        raise ArgumentError("select: expected no metanetwork called 'selection', which the result is called. Rename the file.")
    loaded = {name: load_metanetwork(each) for name, each in zip(names, metanets)}
    files = split_zoo(zoo, families=families, data=data, held_out=True, number=num_models)
    ready = iter(range(1, len(files) + 1))
    judges = load_judges(zoo, files, split, lambda _: report("validation models", next(ready), len(files)))
    out = pathlib.Path(out)
    result = {"split": split, **select(loaded, judges, out, progress=lambda *done: report("curves", *done), **options)}
    (out / "selection.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if result["winner"] != NONE and split != "test":
        winner = result["winner"]
        card = load_card(metanets[names.index(winner)])
        save_metanetwork(loaded[winner], out / f"{winner}.keras", {**card, "selection": result})
    return result


def _train_split(name):
    from tfmetaprune.data import load

    tf.random.set_seed(ORDER_SEED)
    return load(name, batch_size=BATCH_SIZE).train
