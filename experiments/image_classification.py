"""Train a residual network on folders of photographs: ImageNet's layout, recipe and figures.

    python -m experiments.image_classification --data FOLDER                 # Shampoo, 90 epochs
    python -m experiments.image_classification --data FOLDER --preset sgd
    python -m experiments.image_classification --data FOLDER --read          # images per second
    python -m experiments.image_classification --cost                        # compiles a step
    python -m experiments.image_classification --preset smoke                # draws its own folder

FOLDER holds train/CLASS/*.jpg and val/CLASS/*.jpg. Training sees random crops, mirrored half of the
time, evaluation the middle; files are decoded in worker processes. Norms are group norms: the loss
is a function of parameters and batch alone. Parameters lie whole on every device, or in parts with
--fsdp. val/ is scored after every epoch and chooses nothing. The recipes are ours, not those of the
Shampoo paper (`experiments.studies.image_recipes`); accuracy on ImageNet is not claimed.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from experiments.data.image_folders import ImageFolders, find_images
from experiments.data.image_reader import ImageReader
from experiments.data.images import drawn_images
from experiments.harness.errors import bad_input
from experiments.harness.names import OPTIMIZERS
from experiments.harness.plots import draw_curves, read_curves
from experiments.harness.report import Table
from experiments.harness.study import Outcome, Posed, Setting, Study
from experiments.loop.parameter_average import exponential
from experiments.loop.training import train
from experiments.studies.image_costs import measure_cost, measure_reader
from experiments.studies.image_options import (
    Images,
    network,
    optimizer,
)
from experiments.tasks.image_folder_task import epoch_of

SMOKE: dict[str, Any] = {
    "model": "resnet8",
    "epochs": 2,
    "batch_size": 16,
    "side": 16,
    "warmup": 1,
    "average": 0.9,
    "counts": (1, 2),
}
PRESETS = {
    "default": Images(),
    "sgd": Images(recipe="sgd"),
    "smoke": Images(**SMOKE),
}


def pose_images(options: Images) -> Posed:
    """List the images; draw a small folder for the smoke preset."""
    if options.cost:
        return Posed()
    if options.data is None:
        if options.preset != "smoke":
            expected = "a folder with train/CLASS/*.jpg and val/CLASS/*.jpg"
            raise bad_input("--data", expected=expected, found="nothing")
        folders = _drawn_folder()
    else:
        folders = find_images(options.data)
    if len(folders.training.paths) < options.batch_size:
        found = f"{len(folders.training.paths)} images in train/"
        raise bad_input("--batch-size", expected=f"a batch of {options.batch_size}", found=found)
    return Posed(folders, folders.name)


def _drawn_folder() -> ImageFolders:
    """Write drawn images as JPEG files into a folder that lasts as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    images = drawn_images(side=24, channels=3)
    parts = {"train": images.training, "val": images.validation}
    for part, (pixels, labels) in parts.items():
        for i, (image, label) in enumerate(zip(pixels[:120], labels)):
            path = Path(folder, part, f"class_{label}", f"{i:04d}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return dataclasses.replace(find_images(folder), name=images.name)


def measure(setting: Setting[Images]) -> Outcome:
    """Train, time the reader, or compile."""
    if setting.options.cost:
        return measure_cost(setting.options)
    if setting.options.read:
        return measure_reader(setting)
    return measure_training(setting)


def measure_training(setting: Setting[Images]) -> Outcome:
    """Train by the recipe and score the last parameters and their average."""
    options, folders, mesh = setting.options, setting.inputs, setting.mesh
    classifier = network(options, classes=len(folders.classes))
    files, size = folders.training, options.batch_size
    steps = len(files.paths) // size
    tx = optimizer(options, steps_per_epoch=steps)
    make_reader = functools.partial(ImageReader, side=options.side, workers=options.workers)
    with make_reader(files) as reader, make_reader(folders.validation) as held_out:
        labels = folders.validation.labels
        score = classifier.scorer(held_out, labels, batch_size=size, mesh=mesh)
        result = train(
            setting.run,
            stage=options.recipe,
            init_params=classifier.init_params,
            loss=classifier.loss,
            tx=tx,
            batches=epoch_of(reader, len(files.paths), batch_size=size, seed=options.seed),
            epochs=options.epochs,
            steps_per_epoch=steps,
            seed=options.seed,
            mesh=mesh,
            evaluate=score,
            average=exponential(options.average),
        )
        with jax.set_mesh(mesh):
            last = score(result.last_params)
    average = {name: result.history[-1][name] for name in last}
    recipe = OPTIMIZERS[options.recipe]
    rows = [[f"{recipe}, last", *last.values()], [f"{recipe}, average", *average.values()]]
    curves = {recipe: read_curves(setting.run.folder)[options.recipe]}
    draw = functools.partial(
        draw_curves, curves=curves, metric="loss", label="loss on val", against="step"
    )
    speed = result.steps * size / result.seconds
    return Outcome(
        title="Photographs by a residual network",
        intro=f"{options.model} on {folders.name.name}, {len(folders.classes)} classes, "
        f"{len(files.paths):,} images train, {len(labels):,} validate. The recipe is ours.",
        protocol={"split": "train/ and val/", "val": "scored every epoch, chooses nothing"},
        metrics={f"{options.recipe}/average/{name}": value for name, value in average.items()}
        | {f"{options.recipe}/images_per_second": speed},
        baselines={f"{options.recipe}/last/{name}": value for name, value in last.items()},
        tables=[
            Table(
                title="Figures on val/",
                columns=("parameters", *last),
                baselines=rows[:1],
                rows=rows[1:],
                note="Shares of images whose class is first, or among the first five, by logit.",
            )
        ],
        panels=[draw],
        found=f"Top-1 {last['top_1']:.3f}, of the averaged parameters {average['top_1']:.3f}; "
        f"{speed:,.0f} images per second in training.",
    )


STUDY = Study(
    name="image_classification",
    about="ResNet-50 on folders of photographs",
    minutes=None,
    claim="Shampoo trains a large residual network by the recipe of SGD.",
    presets=PRESETS,
    measure=measure,
    pose=pose_images,
    devices=lambda options: max(options.counts) if options.cost else options.devices,
)
main = STUDY.main

if __name__ == "__main__":
    main()
