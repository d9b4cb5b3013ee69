import pytest
import torch

from training.fit.optim import poly_lr, set_lr


def test_poly_starts_at_the_base_ends_at_zero_and_matches_its_closed_form():
    assert poly_lr(0, total=50, base=0.01) == 0.01
    assert poly_lr(50, total=50, base=0.01) == 0.0
    assert poly_lr(25, total=50, base=0.01) == pytest.approx(0.01 * 0.5**0.9)
    assert poly_lr(10, total=40, base=2.0, power=2) == pytest.approx(2.0 * 0.75**2)


def test_poly_with_power_one_is_a_straight_line():
    assert [poly_lr(s, total=4, base=4.0, power=1) for s in range(5)] == [4.0, 3.0, 2.0, 1.0, 0.0]


def test_every_group_keeps_its_ratio_to_the_base():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in (1.0, 10.0)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_lr(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.2]
