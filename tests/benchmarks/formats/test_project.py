"""A project that people answer through each format: the same ledger as with simulated answers, byte for byte."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.formats.answers_in import read_answers, reread
from benchmarks.formats.export import export
from orchestrator.annotation.answers import publish
from orchestrator.annotation.package import read_package
from orchestrator.annotation.rounds import current_round
from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from querying.base.errors import WaitingForLabels
from querying.dataset.codecs import encode_label
from querying.dataset.label_values import IGNORE
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from tests.annotated import PEOPLE, THREE_SIZES, image_id, make_data, truth
from tests.benchmarks.formats.packages import annotation, brush, task
from tests.orchestrator.annotation.test_human_project import again_with
from tests.small import small_run

IMAGES, FIRST, PARTS = 24, 6, 3
KEYS = ("cycles=2", "query.region_size=16", "query.per_image=1", "query.threshold=0.3", "train.epochs=1",
        "train.steps_per_epoch=1", "query.scales=[1]", "augment.cutout_size=8")  # fmt: skip
HUMAN = (*KEYS, "annotator=human", f"initial.images={FIRST}")
NAMES = ("road", "car", "tree", "sky")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    (root / "first.txt").write_text("".join(f'"{image_id(number)}"\n' for number in range(FIRST)))
    make_data(root / "few", IMAGES, FIRST)
    make_data(root / "all", IMAGES, IMAGES)
    small_run(root / "all", root / "simulated", *KEYS, f"initial.list={root / 'first.txt'}")
    with pytest.raises(WaitingForLabels):
        small_run(root / "few", root / "run", *HUMAN)
    return root


def label_studio(package, images, masks, out, who, rng):
    """What Label Studio exports: brushes of the classes and of `not sure` inside the frames, the tasks in any order."""
    tasks = []
    for one in images:
        asked = np.zeros(one.size, bool)
        for _, top, left, bottom, right in one.boxes:
            asked[top:bottom, left:right] = True
        results = [
            brush(package, name, (masks[one.image_id] == value) & asked, f"h{value}")
            for value, name in [*enumerate(NAMES), (IGNORE, "not sure")]
            if ((masks[one.image_id] == value) & asked).any()
        ]
        made = annotation(results, one.rank, completed_by={"email": f"{who}@example.org"}, unique_id=f"u{one.rank}")
        tasks.append(task(package, one.image_id, made, number=one.rank))
    rng.shuffle(tasks)
    file = out.with_suffix(".json")
    file.write_text(json.dumps(tasks))
    return file, {}


def cvat(package, images, masks, out, who, rng):
    """What CVAT exports: the archive that a package with the truth for its pre-annotation would have."""
    export(known(package, images, masks, out), out, "cvat")
    return out / "annotations.zip", {"annotator": who, "blank": "void"}


def folder(package, images, masks, out, who, rng):
    """A mask for each image, painted by hand in any editor."""
    (out / "masks").mkdir(parents=True)
    for one in images:
        Image.fromarray(masks[one.image_id]).save(out / "masks" / one.file)
    return out, {"annotator": who}


def known(package, images, masks, out):
    root = shutil.copytree(package.root, out.with_name(f"{out.name}-package"))
    (root / "pre").mkdir(exist_ok=True)
    for one in images:
        (root / "pre" / one.file).write_bytes(encode_label(masks[one.image_id]))
    return dataclasses.replace(package, root=root, images=tuple(images))


@pytest.mark.ray
@pytest.mark.parametrize("made", [label_studio, cvat, folder], ids=lambda made: made.__name__)
def test_three_people_in_three_parts_give_the_ledger_of_the_simulated_run(project, tmp_path, made):
    run, masks, rng = shutil.copytree(project / "run", tmp_path / "run"), truth(IMAGES), random.Random(1)
    for cycle in (1, 2):
        package = read_package(current_round(run).package)
        assert package.cycle == cycle
        images = list(package.images)
        rng.shuffle(images)
        for part, who in enumerate(PEOPLE):
            mine = images[part::PARTS]
            file, options = made(package, mine, masks, tmp_path / f"{cycle}-{who}", who, rng)
            for again in (False, True):
                with read_answers(package, file, blank=options.get("blank", "ask")) as answers:
                    report = publish(run, package, answers.source, answers.found, reread=reread, **options)
                assert report.complete == (part == PARTS - 1)
                assert bool(report.new) != again, "a second time it is known"
        assert len(report.workers) == 3
        # The cells are made again from what was handed in, and are the same.
        cells = RunLayout(run).answers(cycle - 1) / "import-001" / "regions.parquet"
        content = cells.read_bytes()
        cells.write_bytes(content[:-9])
        if cycle == 1:
            with pytest.raises(WaitingForLabels, match="labels of cycle 2"):
                again_with(HUMAN, project / "few", run, reread)
        else:
            assert again_with(HUMAN, project / "few", run, reread)["finished"]
        assert cells.read_bytes() == content
    ledgers = [{path.name: path.read_bytes() for path in (one / "ledger").iterdir() if "damaged" not in path.name}
               for one in (run, project / "simulated")]  # fmt: skip
    assert len(ledgers[0]) == 6
    assert ledgers[0] == ledgers[1]


@pytest.fixture(scope="module")
def three_sizes(tmp_path_factory):
    root = tmp_path_factory.mktemp("sizes")
    (root / "first.txt").write_text("".join(f'"{image_id(number)}"\n' for number in range(FIRST)))
    make_data(root / "few", IMAGES, FIRST, THREE_SIZES)
    make_data(root / "all", IMAGES, IMAGES, THREE_SIZES)
    small_run(root / "all", root / "simulated", *KEYS, f"initial.list={root / 'first.txt'}")
    with pytest.raises(WaitingForLabels):
        small_run(root / "few", root / "run", *HUMAN)
    return root


@pytest.mark.ray
def test_images_of_three_sizes_in_three_formats_give_the_ledger_of_the_simulated_run(three_sizes, tmp_path):
    """Each person works in another format in each round, so that each format has images of every size."""
    run, masks, rng = three_sizes / "run", truth(IMAGES, THREE_SIZES), random.Random(2)
    grid, formats = RegionGrid(48, 48, 16), (label_studio, cvat, folder)
    for cycle in (1, 2):
        package = read_package(current_round(run).package)
        assert {one.size for one in package.images} == set(THREE_SIZES)
        for one in package.images:
            assert np.asarray(Image.open(package.image(one))).shape == (*masks[one.image_id].shape, 3)
            for region, *box in one.boxes:
                rows, columns = grid.on(one.size).box(region)
                assert box == [rows.start, columns.start, rows.stop, columns.stop]
        images = sorted(package.images, key=lambda one: (one.size, one.image_id))
        for part, who in enumerate(PEOPLE):
            made, mine = formats[(part + cycle) % 3], images[part::PARTS]
            assert {one.size for one in mine} == set(THREE_SIZES)
            file, options = made(package, mine, masks, tmp_path / f"{cycle}-{who}", who, rng)
            with read_answers(package, file, blank=options.get("blank", "ask")) as answers:
                report = publish(run, package, answers.source, answers.found, reread=reread, **options)
        assert report.complete
        if cycle == 1:
            with pytest.raises(WaitingForLabels, match="labels of cycle 2"):
                again_with(HUMAN, three_sizes / "few", run, reread)
    assert again_with(HUMAN, three_sizes / "few", run, reread)["finished"]
    ledgers = [{path.name: path.read_bytes() for path in (one / "ledger").iterdir()}
               for one in (run, three_sizes / "simulated")]  # fmt: skip
    assert len(ledgers[0]) == 6
    assert ledgers[0] == ledgers[1]
    table = Ledger(run / "ledger").read(1)
    assert len(set(table["pixels"].to_pylist())) > 1, "a cell that its image cuts short was bought"
    assert not [line for line in audit_run(RunLayout(run)) if "recipe.yaml" not in line]
