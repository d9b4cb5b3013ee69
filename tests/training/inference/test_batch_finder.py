"""The search for a batch size, with a clock and memories that are made up."""

import pytest
import torch

import training.inference.batch_finder as batch_finder
from training.inference.batch_finder import BatchFinder


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time passes only where a network says so."""
    now = [0.0]
    monkeypatch.setattr(batch_finder.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(batch_finder, "_free", lambda cuda: 10**12)
    monkeypatch.setattr(batch_finder, "_taken", lambda cuda: 0)
    return now


def finder(clock, cost, scales=(1.0,), seen=None):
    """`cost`: seconds of a pass over so many images; the first pass of each number takes a minute more."""
    met = set() if seen is None else seen

    def predict(images_BCHW, scale):
        assert images_BCHW.dtype == torch.uint8
        assert images_BCHW.shape[1:] == (3, 6, 8)
        clock[0] += cost(len(images_BCHW)) * scale + 60 * ((len(images_BCHW), scale) not in met)
        met.add((len(images_BCHW), scale))

    return BatchFinder(lambda: predict, (6, 8), scales, torch.get_num_threads())


def test_it_grows_while_it_pays_and_every_scale_is_passed(clock):
    seen = set()
    found = finder(clock, lambda count: max(12, 3 * count), scales=(0.5, 2.0), seen=seen).find(64)
    assert found == {
        "batch_size": 4,
        "seconds_per_image": {"1": 30.0, "2": 15.0, "4": 7.5, "8": 7.5},
        "stopped_by": "no faster",
    }
    assert seen == {(count, scale) for count in (1, 2, 4, 8) for scale in (0.5, 2.0)}


def test_gains_within_the_noise_take_no_more_memory(clock):
    assert finder(clock, lambda count: count * (1 - 0.02 * (count > 1))).find(64)["batch_size"] == 1
    assert finder(clock, lambda count: count * (1 - 0.05 * (count > 1))).find(64)["batch_size"] == 2


def test_there_are_no_more_images(clock):
    found = finder(clock, lambda count: 1.0).find(5)
    assert (found["batch_size"], found["stopped_by"]) == (4, "no more images")
    assert finder(clock, lambda count: 1.0).find(1)["batch_size"] == 1


def test_memory_that_runs_out_stops_it_but_not_at_a_single_image(clock):
    def lacking(limit):
        def cost(count):
            if count >= limit:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return 1.0

        return cost

    found = finder(clock, lacking(8)).find(64)
    assert (found["batch_size"], found["stopped_by"]) == (4, "out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        finder(clock, lacking(1)).find(64)

    def broken(count):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        finder(clock, broken).find(64)


def test_it_stops_before_twice_as_many_images_could_take_half_of_the_memory(clock, monkeypatch):
    taken = [100]
    monkeypatch.setattr(batch_finder, "_free", lambda cuda: 1000)
    monkeypatch.setattr(batch_finder, "_taken", lambda cuda: taken[0])

    def cost(count):
        taken[0] = max(taken[0], 100 + 70 * count)  # 8 images would take 560 of 1000
        return 1.0

    found = finder(clock, cost).find(64)
    assert (found["batch_size"], found["stopped_by"]) == (4, "memory")


def test_free_and_taken_memory_are_read_from_the_machine(monkeypatch):
    monkeypatch.undo()
    before, free = batch_finder._taken(False), batch_finder._free(False)
    held = torch.ones(2**24)  # 64 MiB
    assert batch_finder._taken(False) - before < 2**31
    assert free > 2**20
    assert held.numel() * 4 < batch_finder._taken(False)
