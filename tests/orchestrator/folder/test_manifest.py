import shutil

import numpy as np
import pytest

from orchestrator.folder.layout import once, remove_leftovers
from orchestrator.folder.manifest import digest, problems, seal, seconds, set_aside
from orchestrator.recipe.config import RunConfig, override
from orchestrator.recipe.keys import deciding
from querying.base.errors import UserError


@pytest.fixture
def stage(tmp_path):
    folder = tmp_path / "scores"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.arrow").write_bytes(bytes(range(64)))
    (folder / "deep" / "b.json").write_text("{}")
    seal(folder, inputs={"model": "m1", "labels": "l1"}, seconds=1.5)
    return folder


def test_an_intact_folder_has_no_problems(stage):
    assert problems(stage) == problems(stage, {"model": "m1"}) == []
    assert seconds(stage) == 1.5


def test_the_digest_is_that_of_the_contents_and_not_of_the_seconds(stage, tmp_path):
    copy = shutil.copytree(stage, tmp_path / "copy")
    seal(copy, inputs={}, seconds=9.0)
    assert digest(copy) == digest(stage)
    (copy / "deep" / "b.json").write_text("{ }")
    seal(copy, inputs={}, seconds=9.0)
    assert digest(copy) != digest(stage)
    assert digest(copy, "*.arrow") == digest(stage, "*.arrow")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "a.arrow").unlink(), "a.arrow: does not exist"),
        (lambda folder: (folder / "a.arrow").write_bytes(bytes(64)), "a.arrow: differs from its manifest"),
        (lambda folder: (folder / "a.arrow").write_bytes(b""), "a.arrow: differs from its manifest"),
        (lambda folder: (folder / "c").write_text(""), "c: is in no manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: does not exist"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json: not what was written"),
    ],
)
def test_what_is_wrong_is_named(stage, spoil, message):
    spoil(stage)
    assert [message in line for line in problems(stage)] == [True]


def test_other_inputs_are_named(stage):
    assert problems(stage, {"model": "m2", "labels": "l1"}) == [f"{stage}: was made from another model"]


def test_other_settings_are_named_and_those_of_a_version_without_a_key_are_its_defaults(stage):
    lr = RunConfig(name="x").train.lr
    seal(stage, inputs={}, settings={"train.lr": 0.5, "seed": 3, "of.another.version": 1}, seconds=1.0)
    assert problems(stage, {}, {"train.lr": 0.5, "seed": 3}) == []
    assert problems(stage, {}, {"train.lr": lr, "seed": 4}) == [
        f"{stage}: was made with train.lr 0.5, not {lr!r}; seed 3, not 4"
    ]
    seal(stage, inputs={}, settings={"seed": 3}, seconds=1.0)
    assert problems(stage, {}, {"seed": 3, "train.lr": lr}) == []
    assert problems(stage, {}, {"seed": 3, "train.lr": 0.5}) == [f"{stage}: was made with train.lr {lr!r}, not 0.5"]


def test_what_decides_a_stage_is_all_of_the_recipe_but_what_is_noted_or_hashed():
    def key(assignment):
        changed = deciding(override(RunConfig(name="x"), [assignment]), 1)
        return [name for name, value in deciding(RunConfig(name="x"), 1).items() if changed[name] != value]

    for name, value in {"seed": 1, "train.lr": 0.5, "query.threshold": 0.9, "augment.flip": 0.1, "cycles": 2}.items():
        assert key(f"{name}={value}") == [name]
    for assignment in ("train.threads=5", "train.timeout=9", "name=y", "initial.fraction=0.3", "model.weights=none"):
        assert key(assignment) == []
    assert deciding(RunConfig(name="x"), 1) != deciding(RunConfig(name="x"), 2)


def test_what_a_killed_attempt_with_other_settings_has_left_is_not_continued_from(tmp_path):
    """As where a staging folder is copied from another run: its inputs by hash are the same."""

    def killed(staging):
        (staging / "old").write_text("")
        raise KeyboardInterrupt

    said = []
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "scores", killed, settings={"query.threshold": 0.9})
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "scores", killed, settings={"query.threshold": 0.9}, say=said.append)
    assert said == []
    once(
        tmp_path / "scores",
        lambda staging: (staging / "new").write_text(""),
        settings={"query.threshold": 0.7},
        say=said.append,
    )
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["manifest.json", "new"]
    assert "was begun with query.threshold 0.9, not 0.7: not continued from" in said[0]


def test_two_thousand_flipped_bits_are_all_noticed(stage):
    rng = np.random.default_rng(0)
    files = [path for path in stage.rglob("*") if path.is_file()]
    for _ in range(2_000):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        place = int(rng.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        assert problems(stage), (path, place)
        path.write_bytes(whole)
    assert problems(stage) == []


def test_a_manifest_of_another_schema_says_so(stage, monkeypatch):
    monkeypatch.setattr("orchestrator.folder.manifest.SCHEMA", 2)
    with pytest.raises(UserError, match="schema 1 is unknown, this version reads 2"):
        digest(stage)
    with pytest.raises(UserError, match="schema 1"):  # not damage: nothing is set aside
        once(stage, lambda staging: None)
    assert stage.exists()


def test_what_is_set_aside_is_numbered(tmp_path):
    for expected in ("damaged-1-x", "damaged-2-x"):
        (tmp_path / "x").write_text("")
        assert set_aside(tmp_path / "x").name == expected
    (tmp_path / "y").write_text("")
    assert set_aside(tmp_path / "y").name == "damaged-3-y"


def test_a_damaged_stage_is_set_aside_and_made_again(tmp_path):
    made, said = [], []

    def make(staging):
        made.append(staging)
        (staging / "a").write_text("right")

    def publish(**inputs):
        once(tmp_path / "scores", make, inputs=inputs, say=said.append)

    publish(model="m1")
    publish(model="m1")
    assert (len(made), said) == (1, [])
    (tmp_path / "scores" / "a").write_text("wrong")
    publish(model="m1")
    assert (tmp_path / "scores" / "a").read_text() == "right"
    assert (tmp_path / "damaged-1-scores" / "a").read_text() == "wrong"
    assert "a: differs from its manifest: set aside as damaged-1-scores, making it again" in said[0]
    publish(model="m2")
    assert "was made from another model" in said[1]
    assert (len(made), len(said)) == (3, 2)


def test_what_a_lost_worker_was_writing_is_not_published(tmp_path):
    def make(staging):
        (staging / "a").write_text("right")
        (staging / ".tmp-7-b").write_text("half")

    once(tmp_path / "scores", make)
    remove_leftovers(tmp_path)  # as the next start does
    assert problems(tmp_path / "scores") == []


def test_files_of_a_killed_attempt_with_other_inputs_are_not_continued_from(tmp_path):
    def killed(staging):
        (staging / "old").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "scores", killed, inputs={"model": "m1"})
    once(tmp_path / "scores", lambda staging: (staging / "new").write_text(""), inputs={"model": "m2"})
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["manifest.json", "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]
