"""Every check of a run that needs neither torch nor Ray: a mistake is found before anything is spent or written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cache, partial

import numpy as np

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import is_run, read_recipe, recipe_copy
from orchestrator.recipe.config import RunConfig
from orchestrator.recipe.keys import HARMLESS_KEYS, MACHINE_KEYS, changed_keys
from orchestrator.run.first_labels import draw, find_ids, initial_count, read_list, shipped_lists
from querying.base.errors import DamagedError, UserError
from querying.base.files import user_path
from querying.dataset.index import Size
from querying.dataset.shards import DataIndex, check_ids
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from querying.scoring.custom_acquisition import own_acquisition
from querying.settings import scaled_size, unscaled
from training.network.weight_file import weight_file
from training.settings.training import BACKBONES, VAL_SPLIT
from training.settings.traits import traits_of

_log = logging.getLogger(__name__)
MOSTLY_PADDING = 0.5
FEW = 20
"""Images below which a split's mIoU is said to be mostly chance."""


def check_data(config: RunConfig, index: DataIndex, decided: bool = False) -> None:
    """UserError with all reasons why the recipe does not fit the data: found before anything is written or trained.

    Where the first images are `decided` (see `RunLayout`), the list that they came from may be gone.
    """
    reasons = list(_reasons(config, index, decided))
    if len(reasons) > 1:
        raise UserError("; ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1)))
    if reasons:
        raise UserError(reasons[0])


def check_unattended(config: RunConfig) -> None:
    """UserError where people answer: many trainings beside each other can not wait for them."""
    if config.annotator == "human":
        raise UserError("annotator=human: people answer one run (`s4al run`); set annotator=simulated here")


def few_images(index: DataIndex, split: str) -> str:
    """A warning where so few images are measured on that another draw of them would give another result; else ""."""
    images = index.num_images(split)
    if images >= FEW:
        return ""
    if images == 1:
        return f"split {split!r} has 1 image: its mIoU has no interval and says nothing about other images"
    return f"split {split!r} has {images} images: differences of mIoU between runs and cycles are mostly chance"


def _check_names(config: RunConfig, index: DataIndex) -> None:
    """UserError where the user's own code, or timm's network, is not there or is not what it has to be, or takes no
    images as small as the run's."""
    if ":" in config.query.acquisition:
        own_acquisition(config.query.acquisition)
    if ":" in config.train.method:
        from training.methods.registry import method_class  # loads torch

        method_class(config.train.method)
    if config.model.own_encoder:
        from training.network.own_encoder import try_encoder  # loads torch

        try_encoder(config.model)
    elif config.model.backbone not in BACKBONES:
        from training.network.encoder_check import check_encoder  # loads torch

        check_encoder(config.model)
    if config.model.backbone not in BACKBONES:  # which take all sizes
        from training.inference.dry_run import check_sizes  # loads torch

        check_sizes(config.model, _sizes(config, index))
    if config.train.layer_decay < 1:
        from training.fit.groups import check_layers  # loads torch

        check_layers(config.model)


def _sizes(config: RunConfig, index: DataIndex) -> Iterator[tuple[str, Size]]:
    """Heights and widths that the network is given, and what asks for them; of the data the smallest alone."""
    splits = {"train", config.data.evaluate_on, *([VAL_SPLIT] if config.train.validate_epochs else [])}
    every = {size for split in splits for size in index.sizes(split)}
    for size in sorted(one for one in every if not any(map(partial(_within, of=one), every - {one}))):
        yield "images of the data", size
        if config.evaluate.window:
            yield "evaluate.window", _window(config.evaluate.window, 1.0, size)
        for scale in config.query.scales if config.cycles else ():
            seen = _window(config.query.window, scale, size)
            asked = "" if seen == size else "query.window at "
            yield f"{asked}query.scales={scale}", scaled_size(seen, scale)
    if config.train.crop:
        yield "train.crop", config.train.crop


def _window(window: Size | None, scale: float, size: Size) -> Size:
    """What a window shows of an image of `size`, before it is scaled."""
    if window is None:
        return size
    height, width = unscaled(window, scale)
    return min(height, size[0]), min(width, size[1])


def _within(size: Size, *, of: Size) -> bool:
    return size[0] <= of[0] and size[1] <= of[1]


def _reasons(config: RunConfig, index: DataIndex, decided: bool) -> Iterator[str]:
    """In the order in which they are best mended."""
    expected = config.data
    if expected.dataset and index.name != expected.dataset:
        yield f"{index.root}: holds {index.name!r}, recipe {config.name} is for {expected.dataset!r}"
    if expected.size and (index.several_sizes or (index.height, index.width) != expected.size):
        height, width = expected.size
        of = f"{'of several sizes, up to ' if index.several_sizes else ''}{index.height}x{index.width}"
        yield (
            f"{index.root}: images are {of}, recipe {config.name} expects {height}x{width}:"
            f" ingest again with --size {height}x{width}"
        )
    _check_names(config, index)
    grid = RegionGrid(index.height, index.width, config.query.region_size)
    if config.query.leaves_border_out and config.cycles and config.query.asked:
        bare = [size for size in index.sizes("train") if grid.on(size).border().all()]
        if len(bare) == len(index.sizes("train")):
            yield (
                f"query.region_size={grid.size}: all {grid.num_regions} regions touch the border,"
                " which query.exclude_border leaves out"
            )
        elif bare:
            images = sum(index.sizes("train")[size] for size in bare)
            _log.warning(
                "%d of %d train images are so small that all their regions touch the border, which query.exclude_border"
                " leaves out: nothing of them is asked about", images, index.num_images("train"),
            )  # fmt: skip
    images, masked = index.num_images("train"), sum(shard.masked for shard in index.shards("train"))
    if not masked:
        yield f"{index.root}: no train image has a mask, so there is nothing to learn from"
        return
    _say_crop(config, index)
    if not any(sum(shard.class_pixels) for shard in index.shards("train")):
        yield f"{index.root}: all pixels of split 'train' are void, so there is nothing to learn from"
    if (config.initial.images or 0) > masked:
        yield (f"initial.images={config.initial.images}: the train split has {masked} images with a mask")
    units = "query.unit=cell query.images=0 " if config.query.unit == "image" else ""
    asked = bool(config.cycles and config.query.asked) and config.annotator == "simulated"
    keys = {"reference=false": config.reference, f"{units}query.per_image=0": asked}
    if masked < images and config.annotator == "human" and (config.reference or config.train.pool_labels == "truth"):
        change = "reference=false" if config.reference else "train.pool_labels=pseudo"
        yield (
            f"{index.root}: {images - masked} of {images} train images have no mask yet, so there are no true labels of"
            f" all to train on: set {change}"
        )
    elif masked < images and (change := " ".join(key for key, needed in keys.items() if needed)):
        yield (
            f"{index.root}: {images - masked} of {images} train images have no mask, so there is no full supervision"
            f" to compare with and the simulated annotator can not answer: set {change} to self-train without queries"
        )
    if not decided:
        yield from _check_first(config, images, masked)
    for split in dict.fromkeys([config.data.evaluate_on, *([VAL_SPLIT] if config.train.validate_epochs else [])]):
        yield from _check_measured(index, split)


def _say_crop(config: RunConfig, index: DataIndex) -> None:
    """A warning where most of what the network would be shown in training is padding."""
    share = index.num_pixels("train") / (index.num_images("train") * index.height * index.width)
    if config.train.crop is None and share < MOSTLY_PADDING:
        _log.warning(
            "train.crop=null: crops of %dx%d, the largest height and width, of which train images fill %.0f %% on"
            " average: train.crop=[HEIGHT,WIDTH] near the size of most images is faster",
            index.height, index.width, 100 * share,
        )  # fmt: skip


def _check_measured(index: DataIndex, split: str) -> Iterator[str]:
    bare = sum(shard.rows - shard.masked for shard in index.shards(split))
    if bare:
        yield (
            f"{index.root}: {bare} of {index.num_images(split)} images of split {split!r} have no mask, so there is"
            " nothing to measure"
        )
    pixels_C = np.sum([shard.class_pixels for shard in index.shards(split)], axis=0)
    if not pixels_C.any():
        yield (f"{index.root}: all pixels of split {split!r} are void, so there is nothing to measure")
    if np.count_nonzero(pixels_C) == 1:
        only = index.classes[int(pixels_C.argmax())]
        _log.warning("split %s: %s is the only class in it, so that its mIoU says nothing", split, only)


def _check_first(config: RunConfig, images: int, masked: int) -> Iterator[str]:
    first = initial_count(config, images)
    if config.initial.list and first > masked:
        yield f"initial.list={config.initial.list}: names {first} images, the train split has {masked} masks"
    if traits_of(config.train.method).labels_pool and first >= images:
        yield f"train.method={config.train.method}: all {images} train images are labelled, no pool is left"
    last = first + config.cycles * config.query.images if config.query.unit == "image" else first
    if traits_of(config.train.method).labels_pool and min(last, images * (config.budget or 1.0)) >= images:
        yield (
            f"query.images={config.query.images}: after {config.cycles} queries all {images} train images are labelled,"
            f" and train.method={config.train.method} needs a pool"
        )
    if config.budget is not None and min(first, masked) > config.budget * images + 1e-6:
        yield f"budget={config.budget}: the {first} initial images are more than that share of {images}"


def check_first_images(configs: Sequence[RunConfig], index: DataIndex) -> None:
    """UserError where a list names an image that is not there, or drawn images are too few to show every class;
    DamagedError where an image is in the data twice or a shard is not what the index says.  Reads all ids, and the
    pool's masks for the classes, once for all recipes."""
    check_ids(index)
    oracle = SimulatedOracle(index, RegionGrid(index.height, index.width, min(index.height, index.width)))
    answerable, classes = cache(oracle.answerable), cache(oracle.classes)
    total = index.num_images("train")
    for source in sorted({config.initial.list for config in configs if config.initial.list}):
        find_ids(read_list(source)[0], answerable(), where=source)
    drawn = [config for config in configs if config.initial.cover and not config.initial.list]
    for seed, count in sorted({(config.seed, initial_count(config, total)) for config in drawn}):
        draw(seed, answerable(), count, classes())


def with_local_list(config: RunConfig) -> RunConfig:
    """A user's list of images as an absolute path, like the weights'."""
    source = config.initial.list
    if source is None or source in shipped_lists():
        return config
    path = str(user_path("initial.list", source).resolve())
    return config.model_copy(update={"initial": config.initial.model_copy(update={"list": path})})


def with_local_weights(config: RunConfig) -> RunConfig:
    """The weight file as an absolute path, so that the run does not depend on where it was started."""
    weights = config.model.weights
    if weights in ("none", "imagenet"):
        return config
    path = user_path("model.weights", weights).resolve()
    if path.is_dir() and config.model.own_encoder:
        raise UserError(f"model.weights={weights}: is a folder; model.backbone={config.model.backbone} needs a file")
    path = weight_file(path, config.model.backbone, weights)
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": str(path)})})


def check_same_run(config: RunConfig, index: DataIndex, layout: RunLayout, *, allow_drift: bool = False) -> None:
    """UserError lists what differs from the run that already lives in the folder; `allow_drift` admits another share
    of another machine."""
    if not is_run(layout.root):
        # A run that was stopped before it had its recipe leaves these.
        begun = ("run.lock", ".tmp", "backbone.safetensors", "damaged-")
        if layout.root.is_dir() and any(not path.name.startswith(begun) for path in layout.root.iterdir()):
            raise UserError(f"{layout.root}: is not empty and not a run folder")
        return
    try:
        started, provenance = read_recipe(layout.recipe)
    except DamagedError:
        started, provenance = read_recipe(recipe_copy(layout.recipe))
    changed = {
        key: f"{key} is {there!r} there, {here!r} here"
        for key, there, here in changed_keys(started, config)
        if key not in HARMLESS_KEYS
    }
    machine = {key: changed.pop(key) for key in MACHINE_KEYS if key in changed}
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(f"{layout.root}: holds another run: {'; '.join([*changed.values()][:3])}{more}")
    if machine and not allow_drift:
        raise UserError(
            f"{layout.root}: {'; '.join(machine.values())}: the run would not be bit for bit that of its recipe any"
            " more; --allow-drift continues and notes it"
        )
    if not index.is_that(provenance["data"]["sha256"]):
        raise UserError(f"{layout.root}: was started on other data (index.json of {index.root} has another SHA-256)")
