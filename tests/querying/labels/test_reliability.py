import itertools

import pytest

from querying.base.errors import DamagedError
from querying.labels.reliability import RELIABILITY, reliable_images, write_reliability


def chosen(folder, found, share=0.5):
    write_reliability(folder, found, share)
    return sorted(reliable_images(folder))


def test_the_most_reliable_half_is_chosen_rounded_down_and_ties_go_to_the_first_id(tmp_path):
    found = [("d", 0.5), ("b", 0.9), ("e", 0.5), ("a", 0.2), ("c", 0.5)]
    assert all(chosen(tmp_path, order) == ["b", "c"] for order in itertools.permutations(found))
    assert chosen(tmp_path, [*found, ("f", 1.0)]) == ["b", "c", "f"]


@pytest.mark.parametrize(("images", "share", "expected"), [(7, 0.5, 3), (1, 0.5, 1), (0, 0.5, 0), (100, 0.29, 29)])
def test_how_many_are_chosen(tmp_path, images, share, expected):
    assert len(chosen(tmp_path, [(f"{i:03d}", i / 100) for i in range(images)], share)) == expected


def test_without_the_file_all_images_count_and_a_damaged_one_is_named(tmp_path):
    assert reliable_images(tmp_path) is None
    write_reliability(tmp_path, [("a", 0.5), ("b", 0.75)], 0.5)
    path = tmp_path / RELIABILITY
    path.write_text(path.read_text().replace("0.75", "0.25"))
    with pytest.raises(DamagedError, match=RELIABILITY):
        reliable_images(tmp_path)
