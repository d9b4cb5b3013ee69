import pytest

from benchmarks.recipes.catalogue import find
from orchestrator.run.outcome import total_steps
from orchestrator.studies.cells import METHODS, POOL_TRUTH, cell
from querying.base.errors import UserError
from training.methods.registry import METHODS as TRAINED

BASE = find("toy_splits")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_what_the_recipe_fixes(name):
    """Network, steps, batch, rates, augmentation and evaluation are the base's; nothing is asked."""
    found = cell(BASE, name, "1/8", 3)
    for group in ("model", "augment", "evaluate", "data"):
        assert getattr(found, group) == getattr(BASE, group)
    same = {"method": BASE.train.method, "pool_labels": BASE.train.pool_labels}
    assert found.train.model_copy(update=same) == BASE.train
    assert (found.seed, found.query.per_image, found.reference) == (3, 0, False)
    rounds = 3 if name.startswith("self_training") or name == "st++" else 1
    unused = name == POOL_TRUTH  # the teacher's only step
    assert total_steps(found) == rounds * BASE.train.epochs * BASE.train.steps_per_epoch + unused
    first = found.train_at(0, last=False)
    assert first.batch_size == BASE.train.batch_size
    assert first.method in TRAINED
    assert found.name == f"toy_splits.{name}.1_8"


def test_the_control_is_one_training_with_the_truth_of_the_pool():
    found = cell(BASE, POOL_TRUTH, "1/8", 0)
    student = found.train_at(1, last=True)
    assert (student.method, student.pool_labels, found.reco.weight) == ("self_training", "truth", 0.0)
    assert (student.epochs, student.steps_per_epoch) == (BASE.train.epochs, BASE.train.steps_per_epoch)
    assert student.batch_size_unlabelled == BASE.train.batch_size_unlabelled > 0
    for name in set(METHODS) - {POOL_TRUTH}:
        assert cell(BASE, name, "1/8", 0).train.pool_labels == "pseudo"


ACTIVE = {"equal", "deal", "s4al"}
"""Methods of active-learning systems, which ask."""


def test_all_methods_of_the_registry_are_in_the_benchmark():
    assert {cell(BASE, name, "1/8", 0).train.method for name in METHODS} == set(TRAINED) - ACTIVE


def test_a_drawn_split_covers_the_classes_and_a_family_is_its_list():
    assert cell(BASE, "cps", "1/4", 0).initial.model_dump() == {
        "fraction": 0.25, "images": None, "list": None, "cover": True,
    }  # fmt: skip
    listed = cell(find("cityscapes_ssl_resnet50"), "cps", "1/4", 0, family="cps")
    assert listed.initial.list == "cityscapes/cps/1_4"
    assert listed.name == "cityscapes_ssl_resnet50.cps.1_4.cps"
    drawn = cell(find("cityscapes_ssl_resnet50"), "cps", "1/4", 0)  # the recipe's own list does not linger
    assert drawn.initial.list is None


def test_published_settings_of_cps():
    with_it, without = (cell(BASE, name, "1/8", 0).methods.cps for name in ("cps_cutmix", "cps"))
    assert (with_it.weight, with_it.cutmix, with_it.boxes) == (5.0, True, 3)
    assert (without.weight, without.cutmix) == (6.0, False)


def test_st_plus_plus_labels_every_pixel_and_contrasts_nothing():
    found = cell(BASE, "st++", "1/8", 0)
    assert (found.train.method, found.cycles, found.reco.weight) == ("st++", 2, 0.0)
    assert found.query.model_copy(update={"threshold": BASE.query.threshold}) == BASE.query
    assert found.query.threshold < 1 / 255
    assert [found.train_at(cycle, last=cycle == 2).method for cycle in range(3)] == ["st++", *["self_training"] * 2]
    assert found.as_reference().train_at(0, last=True).method == "supervised"


@pytest.mark.parametrize(
    ("method", "split", "family", "message"),
    [
        ("mean_techer", "1/8", None, "did you mean 'mean_teacher'"),
        ("cps", "1/0", None, "split '1/0': expected a share such as 1/8"),
        ("cps", "eighth", None, "expected a share"),
        ("cps", "9/8", None, "at most 1"),
        ("cps", "1/3", "cps", "no list cityscapes/cps/1_3; there are cityscapes/cps/1_16"),
        ("cps", "1/8", "cpu", "no list cityscapes/cpu/1_8"),
    ],
)
def test_what_does_not_exist_is_named(method, split, family, message):
    with pytest.raises(UserError, match=message):
        cell(BASE, method, split, 0, family=family)
