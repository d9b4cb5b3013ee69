"""From a folder of photographs without masks to a data set that a run takes: init, round 0, ingest."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.commands.ingest import ingest_command
from benchmarks.commands.people.init import init_command
from benchmarks.commands.status import show_status
from benchmarks.commands.verify import verify_command
from benchmarks.datasets.sources.project import PlanNote, load
from benchmarks.recipes.catalogue import resolve
from orchestrator.annotation.answer import Answer
from orchestrator.annotation.answers import publish
from orchestrator.annotation.masks import mask_path
from orchestrator.annotation.package import read_package
from orchestrator.annotation.rounds import current_round
from orchestrator.folder.shapes import read_shaped
from orchestrator.run.preflight import check_data
from querying.base.errors import DamagedError, UserError
from querying.dataset.codecs import encode_label
from querying.dataset.index import DataIndex
from querying.dataset.shards import read_images, read_truth
from tests.annotated import picture

ROOT = Path(__file__).parents[3]
COUNTS = {"val": None, "test": None, "first": None}


def photos(root, count=40):
    """Of several sizes and kinds, one turned by EXIF, below two folders."""
    root.mkdir()
    for number in range(count):
        image = Image.fromarray(picture(number)[0]).resize((96, 64))
        folder = root / ("more" if number % 5 == 0 else ".")
        folder.mkdir(exist_ok=True)
        if number == 3:
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned ü.jpg", exif=exif)
        else:
            image.save(folder / f"p {number:02d}.{'png' if number % 2 else 'jpg'}")
    (root.parent / "classes.txt").write_text("road\ncar & <b>\ntree\nopen sky\n")
    return root


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def begun(tmp_path, **options):
    src = photos(tmp_path / "photos")
    init_command(tmp_path / "p", src, **{"classes": None, "size": "32x48", "counts": COUNTS, "seed": 0, **options})
    return tmp_path / "p"


def label(project, images=None, value=None):
    """Everything in one class, but a corner, of all or some images."""
    package = read_package(current_round(project).package)

    def answers():
        for one in package.images:
            if images is None or one.image_id in images:
                label_HW = np.full(one.size, one.rank % 4 if value is None else value, np.uint8)
                label_HW[:4, :4] = 255
                yield Answer(one.image_id, "anna", one.image_id, 30.0, "", label_HW, np.ones(label_HW.shape, bool))

    source = project.parent / f"answers-{images and len(images)}-{value}"
    source.write_text(source.name)
    return publish(project, package, source, answers())


def test_a_project_changes_nothing_else_and_is_the_same_each_time(tmp_path):
    project = begun(tmp_path)
    before = files(tmp_path / "photos")
    names = [name for name in files(project) if not name.startswith("round-0")]
    assert names == ["README.txt", "classes.txt", "plan.json", "recipe.yaml"]
    assert files(tmp_path / "photos") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "p", "photos"]
    package = read_package(project / "round-0" / "package")
    assert package.classes == ("road", "car & <b>", "tree", "open sky")
    assert len(package.images) == 4 + 8 + 6
    assert all(one.boxes == ((-1, 0, 0, 32, 48),) for one in package.images)
    readme = (project / "README.txt").read_text()
    assert f"s4al annotate export {project} {project}-label" in readme
    first = files(project)
    (tmp_path / "p").rename(tmp_path / "older")
    init_command(tmp_path / "p", tmp_path / "photos", classes=None, size="32x48", counts=COUNTS, seed=0)
    again = files(tmp_path / "p")
    assert {name: again[name] for name in again if "manifest" not in name} == {
        name: first[name] for name in first if "manifest" not in name
    }


def test_the_recipe_is_one_that_runs_and_that_a_person_reads(tmp_path):
    project = begun(tmp_path)
    config = resolve(str(project / "recipe.yaml"), [])
    assert (config.name, config.annotator, config.reference, config.initial.images) == ("p", "human", False, 6)
    assert config.query.select == "global"
    assert (config.data.size, config.query.region_size) == ((32, 48), 8)
    assert (40 - 18) * config.query.per_image * 10 == pytest.approx(3600, rel=0.05), "about an hour"
    assert "minutes" in (project / "recipe.yaml").read_text()


def test_the_answers_of_round_0_become_a_data_set_with_the_pixels_that_were_seen(tmp_path, capsys):
    project = begun(tmp_path)
    package = read_package(current_round(project).package)
    plan = load_plan(project)
    with pytest.raises(UserError, match="4 of 4 images of val have no mask yet"):
        ingest_command("folder", [project, tmp_path / "d"], None, 8, "ppm", **OPTIONS)
    assert label(project, plan["val"]).exit_status == 3
    with pytest.raises(UserError, match="8 of 8 images of test have no mask yet"):
        ingest_command("folder", [project, tmp_path / "d"], None, 8, "ppm", **OPTIONS)
    show_status(project)
    assert "4 of 18 regions of 18 images answered" in capsys.readouterr().out
    assert label(project).complete
    ingest_command("folder", [project, tmp_path / "d"], None, 8, "ppm", **OPTIONS)
    index = DataIndex.load(tmp_path / "d")
    assert [index.num_images(split) for split in ("train", "val", "test")] == [28, 4, 8]
    assert sum(shard.masked for shard in index.shards("train")) == 6
    assert (index.classes, index.palette) == (package.classes, package.palette)
    seen = {one.image_id: np.asarray(Image.open(package.image(one))) for one in package.images}
    ranks = {one.image_id: one.rank for one in package.images}
    checked = 0
    for split in index.splits:
        for shard in index.shards(split):
            for image_id, pixels in read_images(index.root, shard):
                if image_id in seen:
                    assert (pixels == seen[image_id]).all()
                if image_id == "turned ü":
                    upright = np.asarray(Image.fromarray(picture(3)[0]).resize((96, 64)).resize((48, 32), 2), int)
                    assert np.abs(pixels - upright).mean() < 12, "stored turned, seen upright"
                    checked += 1
            for image_id, mask in read_truth(index.root, shard):
                if mask is not None:
                    assert (mask[4:] == ranks[image_id] % 4).all()
                    assert (mask[:4, :4] == 255).all()
                    checked += 1
    assert checked == 19
    check_data(resolve(str(project / "recipe.yaml"), []), index)


def test_a_pool_without_masks_needs_people(tmp_path):
    project = begun(tmp_path)
    label(project)
    ingest_command("folder", [project, tmp_path / "d"], None, 8, "ppm", **OPTIONS)
    index = DataIndex.load(tmp_path / "d")
    recipe = str(project / "recipe.yaml")
    with pytest.raises(UserError, match="22 of 28 train images have no mask"):
        check_data(resolve(recipe, ["annotator=simulated"]), index)
    with pytest.raises(UserError, match=r"no mask yet.*set reference=false"):
        check_data(resolve(recipe, ["reference=true"]), index)
    with pytest.raises(UserError, match="annotator=human with query"):
        resolve(recipe, ["query.region_size=1"])


def test_a_mask_is_replaced_by_a_later_answer_and_a_lost_one_is_written_again(tmp_path):
    project = begun(tmp_path)
    label(project)
    some = load_plan(project)["first"][0]
    path = mask_path(project, some)
    content = path.read_bytes()
    path.unlink()
    assert label(project).new == 0
    assert path.read_bytes() == content
    label(project, [some], value=2)
    assert path.read_bytes() != content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "photos" / "p 01.png").write_bytes(b"x"), None),
        (lambda root: [path.unlink() for path in (root / "photos").rglob("*.jpg")], "does not exist any more"),
        (lambda root: [Image.new("RGB", (96, 64)).save(p) for p in (root / "photos").glob("p*")], "is not the image"),
        (lambda root: (root / "p" / "classes.txt").write_text("a\nb\n"), "other classes"),
        (lambda root: [p.write_bytes(b"\x89PNG") for p in (root / "p/masks").iterdir()], "not a mask that"),
        (lambda root: (root / "p" / "plan.json").write_text("{}"), "plan.json: not what was written"),
    ],
    ids=["pool", "gone", "altered", "classes", "mask", "plan"],
)
def test_what_has_changed_since_is_named(tmp_path, change, said):
    project = begun(tmp_path)
    label(project)
    change(tmp_path)
    with pytest.raises(Exception, match=said or "p 01.png"):
        ingest_command("folder", [project, tmp_path / "d"], None, 8, "ppm", **OPTIONS)
    assert not (tmp_path / "d").exists()


def test_options_that_contradict_the_plan(tmp_path):
    project = begun(tmp_path)
    usual = {"images": (None, None), "no_masks": (False, False)}
    with pytest.raises(UserError, match=r"--no-masks: .* has its own plan"):
        load(project, None, project / "classes.txt", {**usual, "no_masks": (True, False)})
    with pytest.raises(UserError, match="--size 64x64: people have labelled images of 32x48"):
        load(project, (64, 64), project / "classes.txt", usual)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"counts": {"val": 20, "test": 10, "first": 10}}, "40 images are too few for 20 val, 10 test, 10 first"),
        ({"size": "7x9"}, "--size '7x9'"),
        ({"classes": Path("none.txt")}, "none.txt"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        begun(tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "photos"]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        begun(tmp_path)
    assert files(tmp_path / "p") == {"mine": b"x"}


@pytest.mark.parametrize("how", ["flip", "remove"])
@pytest.mark.parametrize("name", ["plan.json", "round-0/package/package.json", "round-0/package/images/p_01*.png",
                                  "round-0/package/manifest.json"])  # fmt: skip
def test_a_damaged_project_is_made_again_and_keeps_its_answers(tmp_path, name, how):
    project = begun(tmp_path)
    some = next((project / "round-0/package/images").glob("p_*.png"))
    plan = load_plan(project)
    photo = tmp_path / "photos" / plan["files"][plan["first"][0]][0]
    label(project)
    before = {path: content for path, content in files(project).items() if "manifest" not in path}
    path = some if "*" in name else project / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if how == "remove":
        path.unlink()
    with pytest.raises(DamagedError, match="the same `s4al init` again makes plan and package anew"):
        verify_command(project)
    elsewhere = shutil.move(photo, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"not those of `s4al init` then|is gone"):
        again(tmp_path)
    shutil.move(elsewhere, photo)
    again(tmp_path)
    after = files(project)
    assert {name: after[name] for name in before} == before
    verify_command(project)
    assert read_package(current_round(project).package).regions == 18
    assert label(project).new == 0
    with pytest.raises(UserError, match="is not empty"):
        again(tmp_path)


def again(tmp_path):
    init_command(tmp_path / "p", tmp_path / "photos", classes=None, size="32x48", counts=COUNTS, seed=0)


def test_no_classes_says_what_to_do(tmp_path):
    src = photos(tmp_path / "photos")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match="--classes FILE"):
        init_command(tmp_path / "p", src, classes=None, size=None, counts=COUNTS, seed=0)


def test_a_kill_leaves_no_half_project(tmp_path):
    photos(tmp_path / "photos")
    trace = tmp_path / "trace"
    words = ["init", str(tmp_path / "whole"), "--images", str(tmp_path / "photos"), "--size", "32x48"]
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "__main__.py")]

    def init(words, **env):
        return subprocess.run([*command, *words], env={**os.environ, **env}, capture_output=True, text=True)

    assert init(words, S4AL_FAILPOINT_TRACE=str(trace)).returncode == 0
    places = [place for place in dict.fromkeys(trace.read_text().split()) if ":" in place]
    chosen = [place for place in places if not place.startswith(("p_", "more", "turned"))]
    words[1] = str(tmp_path / "p")
    for place in chosen[:: max(1, len(chosen) // 4)]:
        done = init(words, S4AL_FAILPOINT=f"{place}=kill")
        assert done.returncode == -9, (place, done.stderr)
        assert not (tmp_path / "p").exists(), place
    done = init(words)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("p.tmp-*"))


SHAPES = {(60, 90): (60, 90), (90, 60): (90, 60), (600, 450): (320, 240), (800, 600): (320, 240)}
"""(height, width) of photographs, and of what people see of them."""


def shapes(root, count=24):
    root.mkdir()
    for number in range(count):
        height, width = [*SHAPES][number % len(SHAPES)]
        Image.fromarray(picture(number)[0]).resize((width, height)).save(root / f"p{number:02d}.png")
    (root.parent / "classes.txt").write_text("road\ncar\ntree\nsky\n")
    return root


def of_shapes(tmp_path, **options):
    src = tmp_path / "photos" if (tmp_path / "photos").exists() else shapes(tmp_path / "photos")
    init_command(tmp_path / "p", src, **{"classes": None, "size": None, "counts": COUNTS, "seed": 0, **options})
    return tmp_path / "p"


def test_photographs_of_several_shapes_keep_them_from_init_to_the_data_set(tmp_path, capsys, caplog):
    project = of_shapes(tmp_path)
    said = capsys.readouterr().out
    assert "at 3 sizes, 4 classes" in said
    assert (
        f"{project}: each in its own shape, of at most about 76800 pixels (--size HxW makes all one):"
        " 12 of 320x240, 6 of 60x90, 6 of 90x60"
    ) in said
    size_of = {f"p{number:02d}": [*SHAPES.values()][number % len(SHAPES)] for number in range(24)}
    package = read_package(current_round(project).package)
    assert {one.image_id: one.size for one in package.images} == {
        one.image_id: size_of[one.image_id] for one in package.images
    }
    assert {one.size for one in package.images} == set(SHAPES.values())
    assert all(one.boxes == ((-1, 0, 0, *one.size),) for one in package.images)
    plan = load_plan(project)
    assert (plan["format"], plan["size"], plan["area"]) == (2, None, 76800)

    assert label(project).complete
    ingest_command("folder", [project, tmp_path / "d"], None, 8, "ppm", **OPTIONS)
    kept = "images of 3 sizes, as people see them, each in its own shape, of at most about 76800 pixels: 12 of 320"
    assert kept in caplog.text
    assert "--size" not in caplog.text
    assert "images of several sizes, at most 320x240, 4 classes" in capsys.readouterr().out
    index = DataIndex.load(tmp_path / "d")
    assert sum((index.sizes(split) for split in index.splits), Counter()) == Counter(size_of.values())
    seen = {one.image_id: np.asarray(Image.open(package.image(one))) for one in package.images}
    masked = 0
    for split in index.splits:
        for shard in index.shards(split):
            for image_id, pixels in read_images(index.root, shard):
                assert pixels.shape[:2] == size_of[image_id]
                assert image_id not in seen or (pixels == seen[image_id]).all()
            for image_id, mask in read_truth(index.root, shard):
                masked += mask is not None
                assert mask is None or mask.shape == size_of[image_id]
    assert masked == len(seen)
    config = resolve(str(project / "recipe.yaml"), [])
    assert (config.data.size, config.query.region_size) == (None, 48)
    assert "data.size stays null" in (project / "recipe.yaml").read_text()
    check_data(config, index)
    with pytest.raises(
        UserError, match="--size 64x64: people have labelled images each in its own shape, of at most about"
    ):
        load(project, (64, 64), project / "classes.txt", {})
    small = mask_path(project, plan["val"][0])
    small.write_bytes(encode_label(np.zeros((16, 16), np.uint8)))
    with pytest.raises(UserError, match=rf"{small.name}: not a mask that .* 16"):
        ingest_command("folder", [project, tmp_path / "e"], None, 8, "ppm", **OPTIONS)


def test_a_size_makes_them_all_one_and_shapes_that_become_the_same_are_one(tmp_path):
    project = of_shapes(tmp_path, size="48x64")
    plan = load_plan(project)
    assert (plan["format"], plan["size"], "area" in plan) == (1, [48, 64], False)
    assert {one.size for one in read_package(current_round(project).package).images} == {(48, 64)}
    for number in range(24):
        if number % len(SHAPES) < 2:
            (tmp_path / "photos" / f"p{number:02d}.png").unlink()
    shutil.rmtree(project)
    plan = load_plan(of_shapes(tmp_path))
    assert (plan["format"], plan["size"], "area" in plan) == (1, [320, 240], False)


@pytest.mark.parametrize("name", ["plan.json", "round-0/package/package.json"])
def test_a_damaged_project_of_several_shapes_is_made_again(tmp_path, name):
    project = of_shapes(tmp_path)
    before = {path: content for path, content in files(project).items() if "manifest" not in path}
    (project / name).write_bytes(b"{}")
    if name == "plan.json":
        with pytest.raises(UserError, match="these options are not those"):
            of_shapes(tmp_path, size="32x48")
    else:  # an image that has come since changes nothing
        Image.new("RGB", (2000, 300)).save(tmp_path / "photos" / "z.png")
    of_shapes(tmp_path, counts={"val": 2, "test": 4, "first": 4})
    after = files(project)
    assert {path: after[path] for path in before} == before


def load_plan(project):
    return read_shaped(project / "plan.json", PlanNote)


OPTIONS = {
    "seed": 0, "classes": None, "images": None, "masks": None, "mask_suffix": None, "image_suffix": "",
    "no_masks": False, "splits": "auto", "ignore": [], "maps": [], "values": "auto", "exif": "auto", "bits": None,
    "protocol": "al", "num_classes": 8,
}  # fmt: skip
