"""All reasons why a recipe does not fit its data, in one message; few images are said."""

from dataclasses import replace

import pytest

from orchestrator.run.preflight import check_data, few_images
from querying.base.errors import UserError
from tests.mixed import mixed_data
from tests.small import small_config


def bare(index, masked):
    """Six of sixty have masks: only the first `masked` of a shard."""
    train = [replace(shard, masked=masked) for shard in index.shards("train")]
    return replace(index, splits={**index.splits, "train": tuple(train)})


def test_all_reasons_come_in_one_message_with_the_count_of_the_whole_set(toy_data):
    index = bare(toy_data, 1)
    with pytest.raises(UserError) as caught:
        check_data(small_config("reference=true", "initial.images=9"), index)
    message = str(caught.value)
    assert "(1) initial.images=9: the train split has 5 images with a mask" in message
    assert "(2) " in message
    assert "19 of 24 train images have no mask" in message
    assert "set reference=false query.per_image=0 to self-train" in message
    assert "(3) " not in message


def test_a_single_reason_stands_alone(toy_data):
    with pytest.raises(UserError, match=r"^[^(]\S*: 19 of 24 train images have no mask, .* set query.per_image=0 to"):
        check_data(small_config(), bare(toy_data, 1))
    with pytest.raises(UserError, match=r"set query.unit=cell query.images=0 query.per_image=0 to self-train"):
        check_data(small_config("query.unit=image", "query.images=2"), bare(toy_data, 1))


def test_few_images_to_measure_on_are_said(toy_data):
    assert few_images(toy_data, "train") == ""
    assert few_images(toy_data, "test").startswith("split 'test' has 6 images: differences of mIoU")
    one = replace(toy_data.shards("test")[0], rows=1)
    alone = replace(toy_data, splits={**toy_data.splits, "test": (one,)})
    assert "has 1 image: its mIoU has no interval" in few_images(alone, "test")


def test_a_recipe_for_one_size_refuses_images_of_several(tmp_path):
    index = mixed_data(tmp_path, [(24, 32), (32, 24)], counts=(3, 1, 1), shard_size=3)
    config = small_config("data.size=[32,32]", "query.region_size=8")
    with pytest.raises(UserError, match=r"images are of several sizes, up to 32x32, .* ingest again with --size 32x32"):
        check_data(config, index)


def test_images_without_a_cell_inside_and_crops_of_padding_are_said(tmp_path, caplog):
    index = mixed_data(tmp_path, [(16, 16), (64, 64)], counts=(3, 1, 1), shard_size=3)
    config = small_config("data.size=null", "query.region_size=5", "query.exclude_border=true")
    check_data(config, index)
    assert not [one for one in caplog.messages if "touch the border" in one]
    check_data(small_config("data.size=null", "query.region_size=8", "query.exclude_border=true"), index)
    [said] = [one for one in caplog.messages if "touch the border" in one]
    assert said.startswith("3 of 6 train images are so small")
    assert "crops of" not in caplog.text
    index = mixed_data(tmp_path / "longer", [(16, 64), (64, 16)], counts=(3, 1, 1), shard_size=3)
    check_data(small_config("data.size=null", "query.region_size=8"), index)
    assert "crops of 64x64, the largest height and width, of which train images fill 25 % on average" in caplog.text
    caplog.clear()
    check_data(small_config("data.size=null", "query.region_size=8", "train.crop=[32,32]"), index)
    assert "crops of" not in caplog.text


def test_images_that_are_too_small_for_the_encoder_are_refused_by_what_asks_for_them(toy_data):
    """PVT needs 29 pixels a side; the scenes have 48x64."""
    pvt = ["model.encoder=pvt_v2_b0", "model.output_stride=32", "model.weights=none"]
    check_data(small_config(*pvt, "query.scales=[0.7,1]", "train.crop=[32,32]"), toy_data)
    check_data(small_config(*pvt, "query.scales=[0.5]", "cycles=0"), toy_data)
    check_data(small_config(*pvt, "query.scales=[0.7]", "query.window=[30,40]"), toy_data)
    for key, asked, size in (
        ("train.crop=[16,32]", "train.crop", "16x32"),
        ("evaluate.window=[96,20]", "evaluate.window", "48x20"),
        ("query.scales=[1,0.5]", "query.scales=0.5", "24x32"),
        ("query.window=[24,96]", "query.window at query.scales=1.0", "24x64"),
    ):
        with pytest.raises(UserError) as caught:
            check_data(small_config(*pvt, "query.scales=[1]", key), toy_data)
        assert str(caught.value).startswith(f"{asked}: {size} pixels are too few, model.backbone=pvt_v2_b0 needs at")
    check_data(small_config("train.crop=[16,16]"), toy_data)


def test_of_images_of_several_sizes_the_smallest_are_tried(tmp_path):
    pvt = ["data.size=null", "model.encoder=pvt_v2_b0", "model.output_stride=32", "model.weights=none"]
    index = mixed_data(tmp_path, [(64, 32), (32, 64), (64, 64)], counts=(3, 1, 1), shard_size=3)
    check_data(small_config(*pvt, "query.scales=[1]"), index)
    with pytest.raises(UserError, match=r"^query\.scales=0\.8: (51x26|26x51) pixels are too few"):
        check_data(small_config(*pvt, "query.scales=[1,0.8]"), index)
    index = mixed_data(tmp_path / "more", [(64, 64), (20, 90)], counts=(3, 1, 1), shard_size=3)
    with pytest.raises(UserError, match=r"^images of the data: 20x90 pixels are too few"):
        check_data(small_config(*pvt, "query.scales=[1]"), index)


def test_a_train_split_without_images_is_a_reason_and_no_defect(toy_data):
    empty = replace(toy_data, splits={**toy_data.splits, "train": ()})
    with pytest.raises(UserError, match="no train image has a mask, so there is nothing to learn from"):
        check_data(small_config(), empty)
