"""All reasons why a recipe does not fit its data, in one message; few images are said."""

from dataclasses import replace

import pytest

from orchestrator.run.preflight import check_data, few_images
from querying.base.errors import UserError
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
