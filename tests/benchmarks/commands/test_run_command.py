"""The first weights of a run: copied once, checked at every start."""

import shutil

import pytest
from safetensors.torch import save_file

from benchmarks.commands.compare import compare_any
from benchmarks.commands.run import run_command
from benchmarks.commands.status import status_command
from benchmarks.deploy.predict import find_checkpoint
from orchestrator.audit.files import audit_run
from orchestrator.choices import Checkpoint
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import recipe_copy, restore_recipe, write_recipe
from orchestrator.recipe.config import override
from orchestrator.recipe.provenance import provenance as _provenance
from orchestrator.run.preflight import check_same_run
from orchestrator.run.protocol import load_summary
from orchestrator.run.start import _prepare_backbone
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json
from tests.small import small_config, small_run
from training.network.deeplab import build_model
from training.settings.training import ModelSettings


@pytest.fixture
def started(toy_data, tmp_path):
    """A run that has its weights and its recipe, and the file that they come from."""
    source = tmp_path / "mobilenetv2_100.safetensors"
    encoder = build_model(ModelSettings(), 2, embedding=False).encoder.state_dict()
    save_file({name: value.contiguous() for name, value in encoder.items()}, source)
    layout = RunLayout(tmp_path / "run")
    layout.root.mkdir()
    config = override(small_config(), [f"model.weights={source}"])
    _prepare_backbone(config, layout)
    write_recipe(layout.recipe, config, _provenance(toy_data, layout.backbone))
    return config, layout, source


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_damaged_first_weights_are_set_aside_and_made_again(started, capsys):
    config, layout, _ = started
    before = layout.backbone.read_bytes()
    _prepare_backbone(config, layout)
    assert capsys.readouterr().out == ""
    flip(layout.backbone)
    _prepare_backbone(config, layout)
    assert layout.backbone.read_bytes() == before
    assert (layout.root / "damaged-1-backbone.safetensors").exists()
    assert "backbone.safetensors: not what was written: set aside" in capsys.readouterr().out


def test_other_weights_than_the_run_began_from_are_refused(started):
    config, layout, source = started
    layout.backbone.unlink()
    flip(source)
    with pytest.raises(DamagedError, match="the run began from other weights"):
        _prepare_backbone(config, layout)


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_damaged_recipe_is_taken_from_its_copy(started, toy_data, capsys, how):
    config, layout, _ = started
    before = layout.recipe.read_bytes()
    flip(layout.recipe) if how == "flip" else layout.recipe.unlink()
    check_same_run(config, toy_data, layout)
    with pytest.raises(UserError, match="holds another run: seed is 0 there, 3 here"):
        check_same_run(override(config, ["seed=3"]), toy_data, layout)
    restore_recipe(layout.recipe)
    assert layout.recipe.read_bytes() == before
    assert "taken from its copy" in capsys.readouterr().out


def test_a_run_whose_recipe_is_lost_is_a_run_and_damaged(started, finished, tmp_path):
    _, layout, _ = started
    layout.recipe.unlink()
    with pytest.raises(DamagedError, match=r"recipe\.yaml: does not exist"):
        status_command(layout.root)
    with pytest.raises(UserError, match="no cycle is finished yet"):
        load_summary(layout.root)
    with pytest.raises(UserError, match="no cycle is trained yet"):
        find_checkpoint(layout.root, None)
    other = shutil.copytree(finished, tmp_path / "other")
    (other / "recipe.yaml").unlink()
    with pytest.raises(DamagedError, match=r"recipe\.yaml: does not exist"):
        compare_any([finished, other], tmp_path / "compare", None, "none", Checkpoint.last)


@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_damaged_copy_is_found_by_verify_and_made_again(started, capsys, how):
    _, layout, _ = started
    copy = recipe_copy(layout.recipe)
    before = copy.read_bytes()
    assert not [line for line in audit_run(layout) if str(copy) in line]
    flip(copy) if how == "flip" else copy.unlink()
    assert [line for line in audit_run(layout) if str(copy) in line]
    restore_recipe(layout.recipe)
    assert copy.read_bytes() == layout.recipe.read_bytes() == before
    assert "made again from the recipe" in capsys.readouterr().out


def test_a_list_that_names_an_unknown_image_leaves_nothing_behind(toy_data, tmp_path):
    (tmp_path / "list.txt").write_text("train_00000\nno_such_image\n")
    words = [f"initial.list={tmp_path / 'list.txt'}", "initial.cover=false"]
    with pytest.raises(UserError, match=r"list\.txt: no_such_image: no image of the train split that has a mask"):
        run_command("toy_splits", words, toy_data.root, tmp_path / "run", "local", None, "none")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["gone", "edited"])
def test_a_run_whose_labelled_set_and_list_are_lost_goes_on_from_its_ledger(toy_data, tmp_path, monkeypatch, how):
    names, layout = tmp_path / "list.txt", RunLayout(tmp_path / "run")
    names.write_text("train_00001\ntrain_00002\n")
    words = (f"initial.list={names}", "train.epochs=1", "cycles=0")
    (tmp_path / "recipe.yaml").write_text(small_config(*words).to_yaml())
    small_run(toy_data.root, layout.root, *words)
    write_recipe(layout.recipe, small_config(*words), _provenance(toy_data, layout.backbone))
    layout.labelled_set.unlink()
    names.unlink() if how == "gone" else names.write_text("no_such_image\n")
    launched = []
    monkeypatch.setattr("benchmarks.commands.run.carry_out", lambda *args, **more: launched.append(args))
    run_command(str(tmp_path / "recipe.yaml"), [], toy_data.root, layout.root, "local", None, "none")
    assert launched
    small_run(toy_data.root, layout.root, *words)
    assert read_json(layout.labelled_set)["ids"] == ["train_00001", "train_00002"]


def test_a_run_that_was_stopped_before_it_had_a_recipe_can_be_started_again(started, toy_data):
    config, layout, _ = started
    for path in layout.root.glob("*recipe.yaml*"):
        path.unlink()
    (layout.root / ".tmp-7-recipe.yaml").write_text("half")
    check_same_run(config, toy_data, layout)
    (layout.root / "photo.jpg").write_text("")
    with pytest.raises(UserError, match="is not empty and not a run folder"):
        check_same_run(config, toy_data, layout)
