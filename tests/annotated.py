"""A project that people answer, small: generated images of which a few have masks, and people who know the truth."""

import os
import random

import numpy as np

from orchestrator.annotation.answer import Answer
from orchestrator.annotation.answers import publish
from orchestrator.annotation.package import read_package
from orchestrator.annotation.rounds import current_round
from querying.base.errors import S4ALError
from querying.dataset.index import DataIndex
from querying.dataset.label_values import IGNORE
from querying.dataset.shard_writer import ShardWriter

HEIGHT, WIDTH, CLASSES = 32, 48, 4
ONE_SIZE = ((HEIGHT, WIDTH),)
THREE_SIZES = (ONE_SIZE[0], (48, 32), (24, 40))
"""Image n has the size whose turn it is.  Regions of 16 pixels do not divide the last; none is as large as the grid."""
COLOURS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (120, 120, 120)], np.uint8)
PEOPLE = ("anna", "bert", "cleo")


def picture(number, sizes=ONE_SIZE):
    """Blobs of the classes, some void, and noise."""
    rng = np.random.default_rng(number)
    height, width = sizes[number % len(sizes)]
    mask = np.full((height, width), number % CLASSES, np.uint8)
    for _ in range(4):
        top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
        mask[top : top + rng.integers(6, 16), left : left + rng.integers(6, 20)] = rng.integers(0, CLASSES)
    image = (COLOURS[mask].astype(int) + rng.integers(-30, 30, (height, width, 3))).clip(0, 255).astype(np.uint8)
    mask[:2, :5] = IGNORE
    return image, mask


def image_id(number):
    return f"street {number:02d} ü" if number % 7 == 3 else f"street_{number:02d}"


def truth(images, sizes=ONE_SIZE):
    return {image_id(number): picture(number, sizes)[1] for number in range(images)}


def make_data(root, images, masked, sizes=ONE_SIZE):
    """A data set; the train images from number `masked` on have no mask."""
    root.mkdir(parents=True)
    splits = {}
    for split, numbers in (("train", range(images)), ("val", range(1000, 1003)), ("test", range(2000, 2004))):
        with ShardWriter(root, split, num_classes=CLASSES, shard_size=16, encoding="ppm") as writer:
            for number in sorted(numbers, key=lambda number: number % len(sizes)):  # by size, as ingest has them
                image, mask = picture(number, sizes)
                name = image_id(number) if split == "train" else f"{split}-{number}"
                writer.add(name, image, mask if split != "train" or number < masked else None)
        splits[split] = writer.close()
    names = ("road", "car", "tree", "sky")
    palette = tuple(tuple(map(int, colour)) for colour in COLOURS)
    height, width = map(max, zip(*sizes, strict=True))
    DataIndex(root, "toy", names, palette, height, width, "ppm", {"kind": "test"}, splits).save()
    return root


def answers_of(package, masks, part=0, of=1, seed=0):
    """What people say who know the truth: every image by one of them, those of one part, in any order."""
    images = [one for one in package.images if one.rank % of == part]
    random.Random(seed).shuffle(images)
    for one in images:
        label = masks[one.image_id]
        painted = np.zeros(label.shape, bool)
        for _, top, left, bottom, right in one.boxes:
            painted[top:bottom, left:right] = True
        who = PEOPLE[one.rank % len(PEOPLE)]
        yield Answer(one.image_id, who, f"{package.cycle}-{one.rank}", 4.0 * len(one.boxes), "", label, painted)


def hand_in(run, masks, part=0, of=1, seed=0, **options):
    package = read_package(current_round(run).package)
    source = run.parent / f"answers-{package.cycle}-{part}.txt"
    source.write_text(f"answers of cycle {package.cycle}, part {part} of {of}\n")
    return publish(run, package, source, answers_of(package, masks, part, of, seed), **options)


def child(data, run, keys, failpoint, trace):
    """A run in a process of its own, broken at a place; its exit status is that of `s4al run`."""
    os.environ.update({"S4AL_FAILPOINT": failpoint, "S4AL_FAILPOINT_TRACE": trace})
    import torch

    torch.set_num_threads(1)
    from tests.small import small_run

    try:
        small_run(data, run, *keys)
    except S4ALError as error:
        os._exit(error.exit_status)
    os._exit(0)


def hand_in_child(run, images, failpoint, trace):
    """All answers of a round, handed in by a process that is broken at a place."""
    os.environ.update({"S4AL_FAILPOINT": failpoint, "S4AL_FAILPOINT_TRACE": trace})
    hand_in(run, truth(images))
    os._exit(0)
