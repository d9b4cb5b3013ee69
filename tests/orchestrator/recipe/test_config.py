import pytest
import yaml

from benchmarks.recipes.catalogue import RECIPES, find, resolve
from orchestrator.recipe.config import RunConfig, build, flat_keys, flatten, load_yaml, override
from orchestrator.recipe.strict_yaml import parse_yaml
from querying.base.errors import UserError

BASE = RunConfig(name="x", cycles=2)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_named_after_its_function_and_survives_yaml(name, tmp_path):
    config = find(name)
    assert config.name == name
    assert RECIPES[name].__doc__
    path = tmp_path / "r.yaml"
    path.write_text(config.to_yaml())
    assert load_yaml(path) == config
    assert config.as_reference().cycles == 0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("query.treshold=0.8", "unknown key 'query.treshold': did you mean 'query.threshold'?"),
        ("quary.threshold=0.8", "did you mean 'query.threshold'?"),
        ("threshold=0.8", "did you mean 'query.threshold'?"),
        ("train.epochs=0", "train.epochs: Input should be greater than or equal to 1 (got 0)"),
        ("train.epochs=many", "train.epochs: Input should be a valid integer"),
        ("query.threshold=1.5", "query.threshold: Input should be less than or equal to 1 (got 1.5)"),
        ("query.threshold=.nan", "query.threshold"),
        ("query.acquisition=entropi", "did you mean 'entropy'?"),
        ("model.backbone=resnet-50", "model.backbone: Input should be the name of a timm network or package.module:fu"),
        ("query.scales=[]", "query.scales"),
        ("query.scales=[0.5, 99]", "query.scales: Input should be less than or equal to 4 (got 99)"),
        ("train.workers=3", "train.batch_size=4 is not divisible by 3 workers"),
        ("stop_at=0.9", "stop_at needs reference=true"),
        ("train=3", "train is a group: set one of train.method"),
        ("train.lr", "'train.lr' is not of the form key=value"),
        ("train.lr=[1", "train.lr: not valid YAML"),
        ("augment.scale_min=3", "scale_min is larger than scale_max"),
        ("query.acquisition=deal_ds", "query.acquisition=deal_ds needs train.method=deal"),
        ("model.decoder=none", "model.decoder=none has no representation head: it needs reco.weight=0"),
        ("methods.deal.attention=0", "methods.deal.attention: Input should be greater than 0 (got 0)"),
        ("cycles=-1", "cycles: Input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(assignment, message):
    with pytest.raises(UserError) as caught:
        override(BASE, [assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("query.acquisition=coreset", "chooses whole images: it needs query.unit=image"),
        ("query.unit=image", "query.unit=image needs query.images"),
        ("query.images=3", "query.images=3 is of whole images"),
        ("query.unit=pixel", "query.unit=pixel needs query.region_size=1"),
        ("query.unit=image query.images=2 query.select=global", "query.select=global is of regions"),
        ("query.unit=pixel query.region_size=1 query.select=diverse", "query.select=diverse is of regions"),
        ("query.unit=image query.images=2 query.region_size=1", "a row per pixel"),
    ],
)
def test_a_unit_and_a_selection_that_do_not_fit_are_named(words, message):
    with pytest.raises(UserError) as caught:
        override(BASE, words.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nine_of_ten_one_letter_typos_get_the_right_suggestion():
    keys = [key for key in flat_keys(RunConfig) if len(key) > 5]
    right = total = 0
    for key in keys:
        for place in range(key.rfind(".") + 2, len(key), 2):
            typo = key[:place] + key[place + 1 :]
            if typo in keys:
                continue
            total += 1
            try:
                override(BASE, [f"{typo}=1"])
            except UserError as error:
                right += f"{key!r}" in str(error)
    assert total > 100
    assert right / total >= 0.9


def test_overrides_are_yaml_values():
    changed = override(BASE, ["train.lr=1e-2", "query.scales=[1]", "budget=null", "query.exclude_border=false"])
    assert (changed.train.lr, changed.query.scales, changed.budget) == (0.01, (1.0,), None)
    assert not changed.query.exclude_border


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "a: &x [1]\nb: *x\n", "!!python/object/apply:os.system [ls]\n", "[" * 5000, "- 1\n"]
)
def test_hostile_yaml_is_refused_in_one_line(text, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"r\.yaml"):
        load_yaml(path)
    with pytest.raises(UserError, match="larger than"):
        parse_yaml("a" * 1_000_001, "r.yaml")


def test_a_difficulty_is_asked_for_where_its_branch_is_trained():
    config = override(BASE, ["train.method=deal", "query.acquisition=deal_de", "reco.weight=0"])
    first, later = (config.train_at(cycle, last=False) for cycle in (0, 1))
    assert (first.method, first.batch_size, first.batch_size_unlabelled) == ("deal", 4, 0)
    assert (later.method, later.batch_size, later.batch_size_unlabelled) == ("deal", 2, 0)
    reference = config.as_reference()
    assert reference.train_at(0, last=True).method == "supervised"
    assert build(reference.model_dump(mode="json")) == reference  # it asks nothing
    assert override(BASE, ["query.acquisition=deal_ds", "query.per_image=0"]).query.acquisition == "deal_ds"


def test_a_method_with_a_representation_head_needs_a_decoder():
    with pytest.raises(UserError, match=r"u2pl needs a representation head: model\.decoder=none has none"):
        override(BASE, ["cycles=0", "reco.weight=0", "train.method=u2pl", "model.decoder=none"])


def test_unimatch_v2_needs_two_labelled_images_where_a_decoder_has_the_mean_of_an_image():
    words = ["cycles=0", "query.per_image=0", "reco.weight=0", "train.method=unimatch_v2", "train.batch_size=1"]
    with pytest.raises(UserError, match=r"BatchNorm of model\.decoder=plus needs 2 of them per worker"):
        override(BASE, words)
    assert override(BASE, [*words, "model.decoder=dpt"]).train.batch_size == 1


def test_cycles_get_their_own_schedule():
    """Cycle 0 is the teacher (supervised, its own batch); the last cycle may be longer."""
    config = override(BASE, ["train.last_epochs=150", "teacher.steps_per_epoch=50"])
    first, middle, last = (config.train_at(cycle, last=cycle == 2) for cycle in range(3))
    assert (first.method, first.steps_per_epoch, first.batch_size, first.batch_size_unlabelled) == (
        "supervised",
        50,
        4,
        0,
    )
    assert (middle.method, middle.epochs, middle.steps_per_epoch) == ("self_training", 100, 100)
    assert last.epochs == 150
    whole = config.as_reference()
    assert whole.initial.fraction == 1.0
    assert (whole.train_at(0, last=True).epochs, whole.train_at(0, last=True).steps_per_epoch) == (150, 100)


def test_a_saved_recipe_with_its_provenance_is_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(BASE.to_yaml() + yaml.safe_dump({"provenance": {"commit": "abc"}}))
    assert resolve(str(path), []) == BASE
    assert flatten({"a": {"b": [1]}, "c": None}) == {"a.b": "[1]", "c": "null"}
    with pytest.raises(UserError, match="did you mean 'camvid_cpu'"):
        resolve("camvid_cpuu", [])
    with pytest.raises(UserError, match="name"):
        build({})
