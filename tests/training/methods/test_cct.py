"""CCT against its equation in NumPy, and each disturbance against its definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from querying.dataset.label_values import IGNORE
from tests.training.tiny import batch, method, step
from training.methods.cct import AuxiliaryDecoder, adversarial, disturb
from training.network.deeplab import normalise
from training.settings.methods import CCTSettings


def features(seed=0):
    return torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(seed)).relu()


def test_the_loss_is_cross_entropy_and_the_mean_squared_difference_of_all_decoders():
    """Undisturbed features (sizes 0), so the decoders' predictions can be asked for again."""
    calm = {"noise": 2, "noise_size": 0, "dropout": 1, "dropout_rate": 0, "drop": 0, "vat": 0, "weight": 30, "ramp": 1}
    one, here = batch(pool=2), step(methods={"cct": calm}, done=0.5)
    one.target[0, :2] = IGNORE
    trained = method("cct", here, stride=1)
    assert len(trained.decoders) == 3
    found = trained(one, here)

    def p(logits):
        e = np.exp(logits.detach().double().numpy())
        return e / e.sum(1, keepdims=True)

    known, target = (one.target != IGNORE).numpy(), one.target.numpy().astype(int)
    p_l = p(trained.network(normalise(one.image)).logits)
    cost = -np.log(np.take_along_axis(p_l, np.where(known, target, 0)[:, None], 1)[:, 0])
    assert found["ce"].item() == pytest.approx(cost[known].mean(), rel=1e-5)

    deep = trained.network.encode(normalise(one.image_u))[1]
    main = p(trained.network(normalise(one.image_u)).logits)
    apart = [((p(d(deep, main.shape[2:])) - main) ** 2).mean(1) for d in trained.decoders]
    weight = 30 * np.exp(-5 * 0.5**2)
    expected = weight * np.mean(apart, 0)[one.seen_u[0].numpy()].mean()
    assert found["consistency"].item() == pytest.approx(expected, rel=1e-4)


def test_consistency_moves_decoders_and_encoder_but_not_the_main_head():
    here = step()
    trained = method("cct", here)
    trained(batch(pool=2), here)["consistency"].backward()
    assert all(p.grad is not None for p in trained.decoders.parameters())
    assert trained.network.low.weight.grad.abs().sum() > 0
    assert trained.network.head.weight.grad is None


def test_noise_is_proportional_and_bounded():
    x = features()
    found = disturb("noise", x, AuxiliaryDecoder(8, 3), CCTSettings(), torch.Generator().manual_seed(0))
    ratio = (found / x)[x > 0]
    assert 0.7 <= ratio.min() < 0.75
    assert 1.25 < ratio.max() <= 1.3
    assert not found[x == 0].any()


def test_dropout_takes_whole_channels_and_keeps_the_mean():
    x = features() + 1
    found = disturb("dropout", x, AuxiliaryDecoder(8, 3), CCTSettings(), torch.Generator().manual_seed(0))
    gone = (found == 0).all(dim=(2, 3))
    assert 0 < gone.sum() < gone.numel()
    torch.testing.assert_close(found[~gone], 2 * x[~gone])


def test_the_strongest_places_are_dropped():
    x, settings = features(), CCTSettings(drop_above=(0.8, 0.8))
    found = disturb("drop", x, AuxiliaryDecoder(8, 3), settings, torch.Generator().manual_seed(0))
    strength = x.mean(1)
    dropped = strength >= 0.8 * strength.amax((1, 2), keepdim=True)
    assert dropped.any(dim=2).any(dim=1).all()
    assert torch.equal(found, x * ~dropped[:, None])


def test_the_adversarial_direction_has_its_length_and_beats_random_ones():
    x = features()
    torch.manual_seed(0)
    decoder, settings = AuxiliaryDecoder(8, 3), CCTSettings(vat_size=0.5)
    for p in decoder.parameters():
        torch.nn.init.normal_(p)
    size = torch.Size((12, 16))

    def change(direction):
        p, log_q = decoder(x, size).softmax(1), decoder(x + direction, size).log_softmax(1)
        return F.kl_div(log_q, p, reduction="sum").item()

    def random():
        first = torch.rand(x.shape) - 0.5
        return first, 0.5 * F.normalize(first.flatten(1), dim=1).view_as(x)

    found = [adversarial(x, decoder, settings, random()[0]) for _ in range(5)]
    assert all(torch.allclose(r.flatten(1).norm(dim=1), torch.tensor(0.5)) for r in found)
    others = [change(random()[1]) for _ in range(20)]
    assert np.mean([change(r) for r in found]) > 2 * max(others)
    assert all(p.grad is None for p in decoder.parameters())


def test_no_decoder_is_refused():
    with pytest.raises(ValueError, match="no decoder to be consistent"):
        CCTSettings(noise=0, dropout=0, drop=0, vat=0)
