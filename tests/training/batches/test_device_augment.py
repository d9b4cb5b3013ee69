"""What a device makes of a batch is what the CPU's augmentation makes of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st

from querying.dataset.label_values import IGNORE
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from tests.training.batches.test_augment import photo, rng
from tests.training.batches.test_dataset import query
from training.batches.augment_cpu import with_look
from training.batches.augment_gpu import apply_looks, gaussian_blur, with_looks
from training.batches.strong_view import Look, draw_look
from training.batches.training_data import TrainingData
from training.settings.training import AugmentSettings

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
    ),
]


def tensor(image_HWC):
    return torch.from_numpy(image_HWC).permute(2, 0, 1)


def rows(looks):
    return torch.tensor([look.row() for look in looks], dtype=torch.float64)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_look_survives_its_row(seed):
    look = draw_look((40, 56), AugmentSettings(cutout_size=9), rng(seed))
    assert Look.of_row(rows([look])[0].tolist()) == look


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_blur_is_the_same_bit_for_bit(device, autocast):
    noise = rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    noise[:20] = 255  # in bfloat16 the blur of a white pixel would be black
    sigmas = [0.25, 0.31, 0.9, 1.25]
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        found = gaussian_blur(torch.stack([tensor(noise)] * 4).to(device), sigmas).cpu()
    for sigma, image_CHW in zip(sigmas, found, strict=True):
        assert torch.equal(image_CHW, tensor(with_look(noise, Look(sigma=sigma))))


@pytest.mark.parametrize("device", DEVICES)
@given(seed=st.integers(0, 2**32 - 1))
@hypothesis_settings(deadline=None, max_examples=60)
def test_any_look_is_the_same_but_for_rounding(device, seed):
    settings = AugmentSettings(cutout_size=9, blur=0.3, colour=0.9, greyscale=0.3)
    images = [photo(seed=number) for number in range(3)]
    looks = [draw_look((40, 56), settings, rng(seed + number)) for number in range(3)]
    before = torch.stack([tensor(image) for image in images]).to(device)
    found = apply_looks(before.clone(), rows(looks)).cpu().int()
    wanted = torch.stack([tensor(with_look(*pair)) for pair in zip(images, looks, strict=True)]).int()
    apart = (found - wanted).abs()
    # A level of one operation can be several after the next: contrast and saturation multiply by up to 1.8 each.
    assert apart.max() <= 3
    assert (apart > 0).float().mean() < 0.02
    for image, look in zip(found, looks, strict=True):
        assert (image[(slice(None), *look.box)] == 0).all()


def test_images_without_a_look_are_untouched():
    images = torch.stack([tensor(photo())] * 2)
    kept = images.clone()
    found = apply_looks(images, rows([Look(), Look(hole=(0, 4, 3, 9))]))
    assert torch.equal(found[0], kept[0])
    assert torch.equal(images, kept)
    assert (found[1][:, 0:4, 3:9] == 0).all()
    assert torch.equal(found[1][:, 4:], kept[1][:, 4:])


@pytest.mark.parametrize("views", [None, 0, 1, 2])
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_the_same_wherever_its_looks_are_made(toy_data, tmp_path, device, views):
    grid, ledger = RegionGrid(48, 64, 16), Ledger(tmp_path / "ledger")
    oracle = SimulatedOracle(toy_data, grid)
    ids = oracle.answerable()
    ledger.append(0, oracle.annotate(0, query(*[(ids[0], region) for region in range(grid.num_regions)])))
    ledger.append(1, oracle.annotate(1, query(*[(image_id, 5) for image_id in ids[1:9]])))

    def batch(looks_apart):
        data = TrainingData(
            toy_data, ledger, 1, grid, (), augment=AugmentSettings(cutout_size=10), crop=(40, 48), seed=0,
            views=views, looks_apart=looks_apart,
        )  # fmt: skip
        if views is None:  # pseudo-labels of class 3 everywhere
            data.pseudo = {image_id: _Scalar(np.full((48, 64), 3, np.uint8)) for image_id in ids[1:]}
            data.pool = ids[1:]
        return data.batch(2, 0, 1, labelled=1, unlabelled=8)

    wanted, apart = batch(False), batch(True)
    assert wanted.looks.numel() == 0
    assert (apart.looks.shape[:2] == (1 if views is None else views, 8)) or views == 0
    found = with_looks(apart.to(torch.device(device)))
    for name in ("image", "target", "target_u", "seen_u", "image_u", "strong_u"):
        own, other = getattr(found, name).cpu(), getattr(wanted, name)
        assert own.shape == other.shape, name
        assert (own.int() - other.int()).abs().float().sum() <= 0.02 * own.numel(), name
    assert torch.equal(found.target_u.cpu(), wanted.target_u)
    assert torch.equal(found.seen_u.cpu(), wanted.seen_u)
    assert (found.target_u != IGNORE).any()
    if views is None:
        assert not torch.equal(apart.image_u, wanted.image_u)
    else:
        assert torch.equal(apart.image_u, wanted.image_u)


class _Scalar:
    def __init__(self, label_HW):
        from querying.dataset.shards import encode_label

        self.data = encode_label(label_HW)

    def as_py(self):
        return self.data
