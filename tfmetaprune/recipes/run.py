"""Runs a recipe: data -> data models -> metanetwork -> network -> fine-tune A -> prune -> fine-tune B -> TFLite -> report."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform

import numpy as np

import tfmetaprune
from tfmetaprune import pipeline
from tfmetaprune._keras import keras
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.export.tflite import export_tflite
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork, load_metanetwork, save_metanetwork
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.pruning import cost, make_plan, rebuild_model, replace_weights
from tfmetaprune.recipes.architectures import ARCHITECTURES
from tfmetaprune.recipes.recipe import Recipe
from tfmetaprune.recipes.smoke import mocked_data, toy
from tfmetaprune.recipes.store import Store
from tfmetaprune.recipes.training import evaluate, fit, kernel_rms, splits_for
from tfmetaprune.trace import trace_model

PACKAGES = ("tensorflow", "tf_keras", "tensorflow-gnn", "tensorflow-datasets", "numpy")


def run_recipe(recipe: Recipe, out, *, smoke=False, resume=False, data_dir=None, progress=None) -> dict:
    """Runs a recipe from the data to the report.

    The folder holds the model and the figures of every stage (network, data_models/N, metanetwork, generated, finetuned_a, pruned,
    finetuned_b), model.tflite and report.json. Every stage draws its random numbers from the recipe's seed and its own name, so
    that a run that was interrupted between two stages ends as an unbroken one. The test split is read for the report alone.

    Args:
      recipe: the `Recipe`.
      out: the folder.
      smoke: run the same chain at toy scale, on random examples in place of a data set that would be downloaded.
      resume: go on where an earlier run in `out` stopped.
      data_dir: as for `data.load`.
      progress: called as `progress(stage, done, total)`.

    Returns:
      The report, a JSON-able dict.

    Raises:
      ArgumentError: the folder cannot be used, or a value of the recipe cannot.
      TFMetaPruneError: of other kinds, from the stages.
    """
    recipe = toy(recipe) if smoke else recipe
    with mocked_data(recipe.data.name, data_dir) if smoke else contextlib.nullcontext(data_dir) as data_dir:
        store = Store(out, {**dataclasses.asdict(recipe), "smoke": smoke}, resume=resume)
        return _Run(recipe, store, data_dir, progress or (lambda *_: None), eager=smoke).report()


class _Run:
    """One run of a recipe; each method named after a stage runs it, or reads what an earlier run has left of it."""

    def __init__(self, recipe, store, data_dir, progress, *, eager):
        self.recipe, self.store, self.progress, self.eager = recipe, store, progress, eager
        self.load = functools.partial(splits_for, recipe.data, data_dir=data_dir)

    def seed(self, number=0):
        """Sets all random numbers; data models have the numbers from 1."""
        seed = self.recipe.seed * 1000 + number
        keras.utils.set_random_seed(seed)
        return seed

    def trained(self, name, model, training, seed):
        """Trains a model in place for a stage; returns the history."""
        _, train, steps = self.load(training, seed=seed)
        backup = self.store.path(name, ".backup")
        tick = functools.partial(self.progress, name)
        return fit(model, training, train, steps, progress=tick, backup=backup, eager=self.eager)

    def figures(self, model, training, **more):
        """MACs, parameters, and the loss and accuracy on the validation split."""
        total = cost(trace_model(model))
        splits, _, _ = self.load(training, seed=0)
        validation = evaluate(model, splits.validation, eager=self.eager)
        return {"macs": total.macs, "parameters": total.parameters, "validation": validation, **more}

    def build(self, training):
        splits, _, _ = self.load(training, seed=0)
        builder = ARCHITECTURES[self.recipe.network.architecture][0]
        return builder(splits.input_shape, splits.num_classes, **self.recipe.network.options)

    def network(self):
        recipe = self.recipe

        def make():
            seed = self.seed()
            model = self.build(recipe.training)
            if recipe.network.weights is None:
                return model, self.figures(
                    model, recipe.training, history=self.trained("network", model, recipe.training, seed)
                )
            try:
                given = keras.models.load_model(recipe.network.weights, compile=False)
                model.set_weights(given.get_weights())
            except (OSError, ValueError, TypeError) as error:
                raise UnsupportedModelError(
                    f"network.weights: expected a tf_keras model like {model.name}, got {recipe.network.weights!r}: {error}. Give "
                    f"its .keras file."
                ) from error
            return model, self.figures(model, recipe.training)

        return self.store.stage("network", make)

    def data_model(self, number):
        recipe, settings, name = self.recipe, self.recipe.data_models, f"data_models/{number}"
        is_pruned = settings.speedups is not None
        first = f"{name}_whole" if is_pruned else name

        def make():
            seed = self.seed(1 + number)
            model = self.build(settings.training)
            history = self.trained(first, model, settings.training, seed)
            return model, self.figures(model, settings.training, history=history)

        def prune():
            seed = self.seed(1 + number)
            trace = trace_model(self.store.model(first))
            speedup = float(np.geomspace(*settings.speedups, settings.count)[number])
            plan = make_plan(trace, recipe.pruning.criterion, speedup=speedup, floor=recipe.pruning.floor, seed=seed)
            model = rebuild_model(trace, plan)
            history = self.trained(name, model, settings.finetuning, seed) if settings.finetuning is not None else None
            return model, self.figures(model, settings.training, history=history, speedup=plan.speedup)

        whole = self.store.stage(first, make)
        return {**self.store.stage(name, prune), "whole": whole} if is_pruned else whole

    def metanetwork(self):
        recipe, meta = self.recipe, self.recipe.metatraining

        def make():
            models = [self.store.model(f"data_models/{number}") for number in range(recipe.data_models.count)]
            options = {name: value for name, value in dataclasses.asdict(meta).items() if name != "examples"}
            settings = MetaTraining(**options, seed=recipe.seed)
            config = dataclasses.asdict(recipe.metanetwork)
            if config.pop("ratio_unit") == "weight":
                config["ratio"] /= kernel_rms(models)
            seed = self.seed()
            metanet = MetaNetwork(MetaNetConfig(**config))
            splits, _, _ = self.load(dataclasses.replace(recipe.training, batch_size=meta.batch_size), seed=seed)
            dataset = splits.train if meta.examples is None else splits.train.take(-(-meta.examples // meta.batch_size))
            trainer = MetaTrainer(metanet, models, dataset, settings, self.store.folder / "metatraining")
            losses = []

            def tick(step, loss):
                losses.append(loss)
                self.progress("meta-steps", step, settings.steps)

            trainer.train(resume=True, progress=tick)
            figures = {"config": metanet.config.to_dict(), "training": dataclasses.asdict(settings)}
            figures["last_loss"] = losses[-1] if losses else None  # None if only the writing was missing
            figures["parameters"] = int(sum(np.prod(v.shape) for v in metanet.trainable_variables))
            save_metanetwork(metanet, self.store.path("metanetwork"), {**figures, "recipe": recipe.description})
            return None, figures

        return self.store.stage("metanetwork_training", make)

    def generated(self):
        recipe = self.recipe

        def make():
            seed = self.seed()
            trace = trace_model(self.store.model("network"))
            splits, _, _ = self.load(recipe.training, seed=seed)
            metanet = load_metanetwork(self.store.path("metanetwork"))
            weights, _ = generate(metanet, trace, channel_statistics(trace, splits.train, seed=seed))
            model = replace_weights(trace.model, weights)
            return model, self.figures(model, recipe.training)

        return self.store.stage("generated", make)

    def finetuned(self, name, source, training):
        def make():
            seed = self.seed()
            model = self.store.model(source)
            history = self.trained(name, model, training, seed)
            return model, self.figures(model, training, history=history)

        return self.store.stage(name, make)

    def pruned(self, source):
        pruning = self.recipe.pruning

        def make():
            self.seed()
            trace = trace_model(self.store.model(source))
            plan = make_plan(trace, pruning.criterion, speedup=pruning.speedup, floor=pruning.floor, seed=self.recipe.seed)
            self.store.path("plan", ".json").write_text(plan.to_json() + "\n", encoding="utf-8")
            model = rebuild_model(trace, plan)
            return model, self.figures(model, self.recipe.training, speedup=plan.speedup)

        return self.store.stage("pruned", make)

    def pruned_by_scores(self):
        recipe, pruning = self.recipe, self.recipe.pruning

        def make():
            seed = self.seed()
            splits, _, _ = self.load(recipe.finetuning_b, seed=seed)
            result = pipeline.prune(
                self.store.model("network"), splits.train, validation_data=splits.validation, speedup=pruning.speedup,
                method=pruning.method, sparsity=pruning.sparsity, criterion=pruning.criterion,
                metanetwork=self.store.path("metanetwork"), seed=recipe.seed,
                finetune=lambda small, *_: self.trained("finetuned_b", small, recipe.finetuning_b, seed),
            )  # fmt: skip
            self.store.path("plan", ".json").write_text(result.plan.to_json() + "\n", encoding="utf-8")
            model = keras.Model(result.model.input, result.model.output, name=result.model.name)  # uncompiled
            return model, self.figures(model, recipe.finetuning_b, history=result.history, prune=result.report)

        return self.store.stage("finetuned_b", make)

    def exported(self):
        def make():
            self.seed()
            splits, _, _ = self.load(self.recipe.finetuning_b, seed=0)
            report = export_tflite(
                self.store.model("finetuned_b"), self.store.path("model", ".tflite"), quantize=self.recipe.export.quantize,
                representative_data=splits.train,
            )  # fmt: skip
            names = ("size_bytes", "gzip_size_bytes", "relative_difference")
            return None, {name: getattr(report, name) for name in names}

        return self.store.stage("exported", make)

    def report(self):
        """Runs all stages and returns the report."""
        recipe = self.recipe
        stages = {"network": self.network()}
        for number in range(recipe.data_models.count):
            stages[f"data_models/{number}"] = self.data_model(number)
        stages["metanetwork"] = self.metanetwork()
        if recipe.use == "scores":
            stages["finetuned_b"] = self.pruned_by_scores()
        else:
            stages["generated"] = self.generated()
            source = "generated"
            if recipe.finetuning_a is not None:
                stages["finetuned_a"] = self.finetuned("finetuned_a", source, recipe.finetuning_a)
                source = "finetuned_a"
            stages["pruned"] = self.pruned(source)
            stages["finetuned_b"] = self.finetuned("finetuned_b", "pruned", recipe.finetuning_b)
        stages["exported"] = self.exported()
        splits, _, _ = self.load(recipe.finetuning_b, seed=0)
        test = {name: evaluate(self.store.model(name), splits.test, eager=self.eager) for name in ("network", "finetuned_b")}
        report = {
            "tfmetaprune": tfmetaprune.__version__,
            "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
            "recipe": dataclasses.asdict(recipe),
            "data": {"num_examples": splits.num_examples, "input_shape": splits.input_shape, "num_classes": splits.num_classes},
            "stages": stages,
            "test": test,
            "speedup": {
                "target": recipe.pruning.speedup,
                "reached": stages["network"]["macs"] / stages["finetuned_b"]["macs"],
            },
            "seconds": round(sum(f["seconds"] + f.get("whole", {}).get("seconds", 0) for f in stages.values()), 1),
        }
        self.store.write("report", report)
        return report
