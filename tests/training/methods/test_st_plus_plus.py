import pytest
import torch

from tests.training.tiny import batch, method, step, total


def after(number, train):
    """The network after so many steps of one training."""
    here = step(**train)
    trained = method("st++", here)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    for count in range(number):
        optimizer.zero_grad()
        total(trained(batch(pool=0, seed=count), here)).backward()
        optimizer.step()
        trained.after_step(count)
    return trained


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "kept"), [(1, 7, [3, 5]), (3, 2, [2, 4]), (1, 1, [1]), (2, 1, [1, 2])]
)
def test_the_networks_after_one_and_two_thirds_of_the_steps_are_kept(epochs, steps_per_epoch, kept):
    train = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    found = after(epochs * steps_per_epoch, train).early()
    assert list(found) == kept
    for number, network in found.items():
        expected = after(number, train).network.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_no_other_method_keeps_early_networks():
    assert method("self_training", step()).early() == {}
