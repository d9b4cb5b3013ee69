"""Every way to get one line of a recipe wrong: found at once, with the key's name, and mostly with the right one."""

import pytest
import yaml
from pydantic import BaseModel

from benchmarks.recipes.catalogue import find
from orchestrator.recipe.config import RunConfig, build, flat_keys, load_yaml, override
from orchestrator.recipe.strict_yaml import parse_yaml
from orchestrator.run.preflight import check_data, with_local_list, with_local_weights
from querying.base.errors import UserError

REFERENCE = find("toy_s4al_plus")
KEYS = list(flat_keys(RunConfig))
pytestmark = pytest.mark.timeout(60)  # each takes well under a second: what is refused costs no more than its text


def plain():
    return REFERENCE.model_dump(mode="json")


def group_of(tree, key):
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree[parent]
    return tree, leaf


def refusal(tmp_path, tree):
    """What is said to a recipe."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(UserError, match=r"recipe\.yaml: ") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one_edit(word):
    """Typos of one edit each: a letter too few, one twice, a wrong one, two exchanged; the first letter stays."""
    for place in range(1, len(word)):
        yield word[:place] + word[place + 1 :]
        yield word[:place] + word[place] + word[place:]
        yield word[:place] + ("x" if word[place] != "x" else "y") + word[place + 1 :]
        if place + 1 < len(word):
            yield word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def test_a_misspelt_key_is_refused_and_nine_of_ten_times_the_right_one_is_named():
    groups = [name for name, field in RunConfig.model_fields.items() if is_model(field.annotation)]
    total = right = 0
    for key in [*KEYS, *groups]:
        for typo in sorted(set(one_edit(key.rpartition(".")[2])))[::9]:
            tree = plain()
            group, leaf = group_of(tree, key)
            if typo in group:
                continue
            group[typo] = group[leaf]
            misspelt = f"{key.rpartition('.')[0]}.{typo}".lstrip(".")
            with pytest.raises(UserError, match=rf"^unknown key '{misspelt}'") as caught:
                build(tree)
            total += 1
            right += f"did you mean {key!r}?" in str(caught.value)
    print(f"{right} of {total} suggestions are right")
    assert total > 250
    assert right / total >= 0.9


def is_model(annotation):
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


WRONG = {
    "a mapping": {"a": 1},
    "a mapping in a list": [{"a": 1}],
    "text": "many words",
    "true": True,
}
TEXT = ("name", "data.dataset", "data.evaluate_on", "model.weights", "initial.list")
YES_OR_NO = (
    "reference", "initial.cover", "train.nesterov", "train.sync_bn", "query.exclude_border", "methods.cps.cutmix",
    "evaluate.best_on_val", "train.cuda_graph", "model.align_corners",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_a_wrong_type_is_refused_with_its_key(tmp_path, key):
    for what, value in WRONG.items():
        if (what == "true" and key in YES_OR_NO) or (isinstance(value, str) and key in TEXT[1:]):
            continue
        tree = plain()
        group, leaf = group_of(tree, key)
        group[leaf] = value
        assert f"recipe.yaml: {key}: " in refusal(tmp_path, tree), what


@pytest.mark.parametrize("key", [key for key in KEYS if key not in (*TEXT, *YES_OR_NO)])
def test_a_number_out_of_range_is_refused_with_its_key(tmp_path, key):
    for value in (-1, -0.5, float("nan"), float("inf"), -(10**30)):
        tree = plain()
        group, leaf = group_of(tree, key)
        group[leaf] = [value] * max(1, len(group[leaf])) if isinstance(group[leaf], list) else value
        assert f"recipe.yaml: {key}: " in refusal(tmp_path, tree), value


TOO_MUCH = {
    "initial.fraction": 1.01, "initial.images": 0, "cycles": 1000, "budget": 1.5, "stop_at": 0, "seed": 2**31,
    "model.output_stride": 4, "model.aspp_channels": 7, "model.dropout": 1, "train.momentum": 1, "train.crop": [15, 99],
    "train.epochs": 1.5, "teacher.epochs": 0, "reco.hard_threshold": 0, "augment.flip": 1.1, "augment.scale_max": 5,
    "augment.jitter": [0.8, 0.8, 0.8, 0.6], "augment.blur_sigma": [1], "query.threshold": 0, "query.scales": [],
    "query.region_size": 0, "query.batch_size": 0, "query.actors": 0, "data.size": [1, 2, 3], "name": "a b",
    "name ": "..", "methods.st_plus_plus.reliable": 1,
}  # fmt: skip
CONFLICTS = {
    "train.workers=3": "train.batch_size", "stop_at=0.9 reference=false": "stop_at",
    "augment.scale_min=2 augment.scale_max=1": "scale_min", "augment.blur_sigma=[2,1]": "blur_sigma",
    "train.batch_size=1 teacher.batch_size=1 train.batch_size_unlabelled=0": "2 images",
    "train.method=supervised train.batch_size=1": "2 images",
    "train.method=supervised train.batch_size_unlabelled=0": "leave the bought cells out",
    "train.batch_size_unlabelled=0": "leave the bought cells out",
    "train.workers=2 train.batch_size_unlabelled=3": "unlabelled",
    "train.workers=2 teacher.batch_size=3": "batch_size",
    "train.micro_batch=2": "train.micro_batch needs reco.weight=0",
    "train.micro_batch=2 train.method=cps cycles=0": "train.method=cps needs a step's images together",
    "train.micro_batch=2 reco.weight=0 train.ohem=0.7 methods.self_training.mean=apart": "needs train.ohem=null",
    "train.micro_batch=1 reco.weight=0": "leaves a single image of 8 in a part",
    "train.betas=[0.8,0.9]": "betas is not of optimizer=sgd",
    "train.optimizer=adamw train.momentum=0.5": "momentum is not of optimizer=adamw",
    "train.schedule=cosine train.poly_power=1": "poly_power is of schedule=poly",
    "train.method=st++ cycles=1 query.per_image=0": "needs cycles=2", "train.method=st++ cycles=2": "query.per_image=0",
}  # fmt: skip
AGAINST_THE_DATA = {
    "data.dataset=camvid": "toy_s4al_plus is for 'camvid'", "data.size=[96,128]": "--size 96x128",
    "data.evaluate_on=tset": "tset", "initial.images=25": "initial.images=25",
    "query.region_size=24": "query.exclude_border",
    "query.region_size=100": "query.region_size", "budget=0.01 initial.fraction=0.5": "budget=0.01",
    "model.weights=/nowhere/w.safetensors": "model.weights=/nowhere/w.safetensors",
    "model.weights=imagnet": "model.weights=imagnet",
    "model.weights=/": "model.weights=/",
    "model.weights=~nobody_here/x": "model.weights=~nobody_here/x: ~nobody_here is no home folder",
    "initial.list=~nobody_here/x": "initial.list=~nobody_here/x: ~nobody_here is no home folder",
    "train.method=cps query.unit=image query.per_image=0 query.images=9 cycles=2 initial.images=6":
        "query.images=9: after 2 queries all 24",
}  # fmt: skip


@pytest.mark.parametrize("key", TOO_MUCH)
def test_a_value_beyond_its_limit_is_refused_with_its_key(tmp_path, key):
    tree = plain()
    group, leaf = group_of(tree, key.strip())
    group[leaf] = TOO_MUCH[key]
    assert f"recipe.yaml: {key.strip()}: " in refusal(tmp_path, tree)


@pytest.mark.parametrize("assignments", CONFLICTS)
def test_keys_that_contradict_each_other_are_named(assignments):
    with pytest.raises(UserError, match=CONFLICTS[assignments]):
        override(REFERENCE, assignments.split())


@pytest.mark.parametrize("assignments", AGAINST_THE_DATA)
def test_what_does_not_fit_the_data_or_the_disk_is_named_before_anything_starts(toy_data, assignments):
    with pytest.raises(UserError) as caught:
        check_data(with_local_list(with_local_weights(override(REFERENCE, assignments.split()))), toy_data)
    assert AGAINST_THE_DATA[assignments] in str(caught.value)


TWISTED = {
    "no": "no", "010": "010", "1:30": "1:30", "1e-2": "1e-2", "2001-01-01": "2001-01-01", "yes": "yes", "0x10": "0x10",
    "1_000": "1_000", "true": True, "~": None, "-3": -3, ".5": 0.5, "1.5e+3": 1500.0,
}  # fmt: skip


def test_values_that_yaml_is_known_to_twist_keep_their_type():
    """`no` is no, 010 is not eight, 1:30 is not ninety, 1e-2 is a number where one is wanted, a date is text."""
    assert {text: parse_yaml(text, "x") for text in TWISTED} == TWISTED
    changed = override(REFERENCE, ["train.lr=1e-2", "reference=no", "data.dataset=no", "train.nesterov=off"])
    assert (changed.train.lr, changed.reference, changed.data.dataset) == (0.01, False, "no")
    assert not changed.train.nesterov
    with pytest.raises(UserError, match="seed"):
        override(REFERENCE, ["seed=1:30"])


VALUES = [True, "true", 0.0, -0.0, 1e-300, 1.5, "no", "1e5", "~", "0x1f", "010", "é", "a: b", "- a"]


@pytest.mark.parametrize("value", VALUES)
def test_what_is_printed_is_what_is_read(value):
    found = parse_yaml(yaml.safe_dump({"a": value}), "x")["a"]
    assert (found, type(found)) == (value, type(value))


HOSTILE = {
    "tag": "a: !!python/name:os.system x\n",
    "alias bomb": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n",
    "merge": "a: {b: 1}\n<<: {c: 1}\n",
    "key twice": "seed: 1\nseed: 2\n",
    "key twice in other quotes": "seed: 1\n'seed': 2\n",
    "many keys": "".join(f"k{number}: 1\n" for number in range(6000)),
    "deep": "[" * 20_000,
    "deep keys": "".join(f"{' ' * depth}a:\n" for depth in range(250)),
    "10 MB": "a: " + "x" * 10_000_000,
    "10 MB of lines": "- a\n" * 2_500_000,
    "one long number": "seed: " + "9" * 40_000,
    "list as key": "? [a]\n: 1\n",
    "zero byte": "a: \0\n",
    "two documents": "name: x\n---\nname: y\n",
    "nothing": "",
    "text": "hello",
    "not UTF-8": "name: \udcff\udcfe\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_in_time(tmp_path, what):
    path = tmp_path / "hostile.yaml"
    path.write_bytes(HOSTILE[what].encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"hostile\.yaml: ") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_nesting_is_bounded_before_the_parser_recurses():
    assert parse_yaml("[" * 20 + "]" * 20, "x") is not None
    with pytest.raises(UserError, match="nested too deeply"):
        parse_yaml("[" * 30 + "]" * 30, "x")


def test_keys_that_are_no_text_are_refused():
    with pytest.raises(UserError, match="1"):
        build({"name": "x", 1: 2})
