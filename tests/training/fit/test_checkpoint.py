import shutil
from unittest.mock import patch

import pytest
import torch
from torch import nn

from querying.base.errors import DamagedError
from querying.base.files import read_json, write_json
from training.fit.optim import new_optimizer
from training.fit.progress import TrainingProgress
from training.fit.states import TrainingStates
from training.network.checkpoint import load_model, save_model
from training.settings.training import TrainSettings


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).to(
        memory_format=torch.channels_last
    )


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def adamw(model):
    return new_optimizer(model, TrainSettings(optimizer="adamw", lr=0.01, weight_decay=0.1))


def steps(model, optimizer, first, last):
    for step in range(first, last):
        torch.manual_seed(step)
        x = torch.randn(2, 3, 8, 8)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("new", [sgd, adamw])
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, new):
    straight, optimizer = network(), None
    optimizer = new(straight)
    steps(straight, optimizer, 0, 8)
    first = network()
    first_optimizer = new(first)
    steps(first, first_optimizer, 0, 4)
    progress = TrainingProgress(4, [{"epoch": 0, "loss": 0.1}], {"ce": 0.1 + 0.2}, 12, 3.5)
    TrainingStates(tmp_path, "inputs").save(first, first_optimizer, progress)
    second = network(seed=1)
    second_optimizer = new(second)
    assert TrainingStates(tmp_path, "inputs").restore(second, second_optimizer) == progress
    steps(second, second_optimizer, 4, 8)
    assert equal(second, straight)


def test_a_damaged_newest_state_falls_back_to_the_one_before(tmp_path):
    model = network()
    optimizer = sgd(model)
    saved = TrainingStates(tmp_path, "inputs", keep=2)
    for epoch in (1, 2, 3):
        steps(model, optimizer, epoch, epoch + 1)
        saved.save(model, optimizer, TrainingProgress(epoch))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    file = tmp_path / "step-00000003" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert saved.restore(network(1), optimizer).step == 2
    TrainingStates(tmp_path, "inputs").save(model, optimizer, TrainingProgress(3))  # replaces the damaged one
    assert saved.restore(network(1), optimizer).step == 3


def test_nobody_finds_half_of_a_state_that_is_being_removed(tmp_path):
    """A thread that sends states to another node looks at any time."""
    model, seen = network(), []
    saved = TrainingStates(tmp_path, "inputs", keep=1)
    saved.save(model, sgd(model), TrainingProgress(1))

    def without_one_file(path):
        (path / "meta.json").unlink()
        seen.append({folder.name: len(list(folder.iterdir())) for folder in tmp_path.glob("step-*")})
        removed(path)

    removed = shutil.rmtree
    with patch.object(shutil, "rmtree", without_one_file):
        saved.save(model, sgd(model), TrainingProgress(2))
        TrainingStates(tmp_path, "others").save(model, sgd(model), TrainingProgress(2))
    assert seen == [{"step-00000002": 2}, {}]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_what_a_killed_process_of_the_same_number_was_removing_is_in_nobodys_way(tmp_path):
    model = network()
    saved = TrainingStates(tmp_path, "inputs", keep=1)
    saved.save(model, sgd(model), TrainingProgress(1))
    with patch.object(shutil, "rmtree"):
        saved.save(model, sgd(model), TrainingProgress(2))
    saved = TrainingStates(tmp_path, "inputs", keep=1)
    for step in (1, 3):  # from the beginning again
        saved.save(model, sgd(model), TrainingProgress(step))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_nothing_saved_means_the_beginning(tmp_path):
    model = network()
    assert TrainingStates(tmp_path / "none", "inputs").restore(model, sgd(model)) == TrainingProgress()


@pytest.mark.parametrize("damage", ["flip", "cut", "no model", "no meta", "bad json"])
def test_a_damaged_model_is_named(tmp_path, damage):
    save_model(tmp_path, network().state_dict(), {"classes": ["a"]})
    state, meta = load_model(tmp_path)
    assert meta["classes"] == ["a"]
    assert set(state) == set(network().state_dict())
    model, meta_file = tmp_path / "model.safetensors", tmp_path / "meta.json"
    content = model.read_bytes()
    if damage == "flip":
        model.write_bytes(content[:-3] + bytes([content[-3] ^ 64]) + content[-2:])
    elif damage == "cut":
        model.write_bytes(content[:100])
    elif damage == "no model":
        model.unlink()
    elif damage == "no meta":
        meta_file.unlink()
    else:
        meta_file.write_text("{")
    with pytest.raises(DamagedError, match=str(tmp_path)):
        load_model(tmp_path)


def test_states_of_other_inputs_are_not_continued_from(tmp_path):
    model = network()
    TrainingStates(tmp_path, "these").save(model, sgd(model), TrainingProgress(7))
    assert TrainingStates(tmp_path, "those").restore(model, sgd(model)) == TrainingProgress()
    assert TrainingStates(tmp_path, "these").restore(model, sgd(model)) == TrainingProgress(7)


def test_states_of_other_inputs_take_no_place(tmp_path):
    """A training of other inputs had come further: its states must not be the ones that stay."""
    model = network()
    for number in (100, 200):
        TrainingStates(tmp_path, "those").save(model, sgd(model), TrainingProgress(number))
    (tmp_path / "step-00000300").mkdir()  # damaged beyond saying what it was made from
    for number in (10, 20, 30):
        TrainingStates(tmp_path, "these").save(model, sgd(model), TrainingProgress(number))
        assert TrainingStates(tmp_path, "these").restore(model, sgd(model)) == TrainingProgress(number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000030"]


def test_a_state_is_written_once_by_a_process(tmp_path):
    """A stop at the end of an epoch finds its state already saved and must not take it away to save it again."""
    model = network()
    states = TrainingStates(tmp_path, "these")
    states.save(model, sgd(model), TrainingProgress(7))
    [file] = tmp_path.glob("step-*/model.safetensors")
    before = file.stat().st_ino
    states.save(model, sgd(model), TrainingProgress(7))
    assert file.stat().st_ino == before


def test_a_state_of_other_settings_is_not_continued_from_and_one_that_notes_none_is(tmp_path, caplog):
    model = torch.nn.Linear(2, 2)
    TrainingStates(tmp_path, "these", settings={"train.lr": 0.5}).save(model, sgd(model), TrainingProgress(7))

    def found(**settings):
        return TrainingStates(tmp_path, "these", settings=settings).restore(model, sgd(model)).step

    assert found(**{"train.lr": 0.1}) == 0
    assert "of a training with train.lr 0.5: not continued from" in caplog.text
    assert found(**{"train.lr": 0.5, "of.this.version": 1}) == 7
    [folder] = tmp_path.glob("step-*")
    meta = read_json(folder / "meta.json")
    del meta["settings"]
    write_json(folder / "meta.json", meta)
    assert found(**{"train.lr": 0.1}) == 7
    assert "made by a version that noted no settings" in caplog.text
