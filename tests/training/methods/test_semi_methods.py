"""Each method's loss against its equation in NumPy, in float64, on networks that look at single pixels."""

import numpy as np
import pytest
import torch
from torch import nn

from querying.dataset.label_values import IGNORE
from tests.training.tiny import CLASSES, TinyNet, batch, method, step
from training.method_parts.mixing import boxes, mix
from training.method_parts.parts import ramp_up
from training.method_parts.teacher import Teacher
from training.network.deeplab import normalise


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def probabilities(network, image):
    with torch.no_grad():
        return softmax(network(normalise(image)).logits.double().numpy())


def cost(p, label):
    """-log p[label] for each pixel; (B, H, W)."""
    return -np.log(np.take_along_axis(p, label[:, None].astype(int), 1)[:, 0])


def mean_over(values, mask):
    return values[mask].sum() / max(1, mask.sum())


def pixelwise(name, here):
    return method(name, here, stride=1)


def labelled(one):
    target = one.target.clone()
    target[0, :3] = IGNORE
    return one._replace(target=target)


def test_mean_teacher_is_cross_entropy_and_the_weighted_squared_difference():
    one, here = labelled(batch(pool=2, views=1)), step(methods={"mean_teacher": {"weight": 7, "ramp": 0.5}}, done=0.25)
    trained = pixelwise("mean_teacher", here)
    with torch.no_grad():
        for p in trained.teacher.parameters():
            p.add_(0.1)
    found = trained(one, here)

    known = (one.target != IGNORE).numpy()
    p_l = probabilities(trained.network, one.image)
    target = np.where(known, one.target.numpy(), 0)
    assert found["ce"].item() == pytest.approx(mean_over(cost(p_l, target), known), rel=1e-5)

    student = np.concatenate([p_l, probabilities(trained.network, one.strong_u[0])])
    teacher = probabilities(trained.teacher.network, torch.cat([one.image, one.image_u]))
    seen = np.concatenate([known, one.seen_u[1].numpy()])  # not the weak view's: the student is asked what it sees
    apart = mean_over(((student - teacher) ** 2).mean(1), seen)
    weight = 7 * np.exp(-5 * (1 - 0.25 / 0.5) ** 2)
    assert found["consistency"].item() == pytest.approx(weight * apart, rel=1e-4)


def test_the_teacher_is_what_is_deployed_and_the_students_average():
    here = step(methods={"mean_teacher": {"decay": 0.75}})
    trained = pixelwise("mean_teacher", here)
    assert trained.deployed() is trained.teacher.network
    expected = trained.network.head.weight.detach().double().numpy().copy()
    for number, keep in enumerate([0.0, 0.5, 2 / 3, 0.75, 0.75]):  # min(1 - 1 / (number + 1), 0.75)
        with torch.no_grad():
            trained.network.head.weight.add_(number + 1.0)
        trained.after_step(number)
        expected = keep * expected + (1 - keep) * trained.network.head.weight.detach().double().numpy()
        np.testing.assert_allclose(trained.teacher.network.head.weight.numpy(), expected, rtol=1e-5)


def test_a_teacher_averages_batchnorms_statistics_and_never_trains():
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    teacher = Teacher(student)
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    before = {k: v.clone() for k, v in teacher.network.state_dict().items()}
    student(torch.randn(2, 3, 5, 5) + 3)
    teacher(torch.randn(2, 3, 5, 5))
    assert all(torch.equal(v, before[k]) for k, v in teacher.network.state_dict().items())  # its own pass moves nothing
    teacher.follow(student, 9, 0.9)
    for name in ("1.running_mean", "1.running_var"):
        expected = 0.9 * before[name].double() + 0.1 * student.state_dict()[name].double()
        torch.testing.assert_close(teacher.network.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-7)
    assert teacher.network.state_dict()["1.num_batches_tracked"] == 1


@pytest.mark.parametrize(
    ("ramp", "done", "weight"), [(0.0, 0.0, 6.0), (0.4, 0.1, 6 * np.exp(-2.8125)), (0.4, 0.4, 6.0)]
)
def test_cps_crosses_the_labels_of_both_networks_on_all_images(ramp, done, weight):
    one, here = labelled(batch(pool=2)), step(methods={"cps": {"weight": 6, "ramp": ramp}}, done=done)
    trained = pixelwise("cps", here)
    found = trained(one, here)
    images = torch.cat([one.image, one.image_u])
    p1, p2 = (probabilities(network, images) for network in (trained.network, trained.second))
    known = (one.target != IGNORE).numpy()
    target = np.where(known, one.target.numpy(), 0)
    expected = mean_over(cost(p1[:2], target), known) + mean_over(cost(p2[:2], target), known)
    assert found["ce"].item() == pytest.approx(expected, rel=1e-5)
    seen = np.concatenate([known, one.seen_u[0].numpy()])
    cross = mean_over(cost(p1, p2.argmax(1)), seen) + mean_over(cost(p2, p1.argmax(1)), seen)
    assert found["cross"].item() == pytest.approx(weight * cross, rel=1e-5)


def test_cps_with_cutmix_mixes_images_and_the_other_networks_labels_alike():
    one, here = batch(pool=2), step(methods={"cps": {"weight": 5, "cutmix": True}})
    trained = pixelwise("cps", here)
    found = trained(one, here)
    mask = boxes((2, 8, 8), count=3, area=(0.25, 0.5), generator=torch.Generator().manual_seed(0)).numpy()
    assert mask.any()
    assert not mask.all()
    mixed = np.where(mask[:, None], one.image_u.numpy()[::-1], one.image_u.numpy())
    seen = np.where(mask, one.seen_u[0].numpy()[::-1], one.seen_u[0].numpy())
    labels, learned = [], []
    for network in (trained.network, trained.second):
        label = probabilities(network, one.image_u).argmax(1)
        labels.append(np.where(mask, label[::-1], label))
        learned.append(probabilities(network, torch.from_numpy(mixed)))
    cross = mean_over(cost(learned[0], labels[1]), seen) + mean_over(cost(learned[1], labels[0]), seen)
    assert found["cross"].item() == pytest.approx(5 * cross, rel=1e-5)


def test_each_network_of_cps_learns_from_the_other_and_not_from_itself():
    """A label carries no gradient: moving network 2's logits without moving its argmax leaves network 1's gradient."""
    one, gradients = batch(pool=2), []
    for scale in (1.0, 2.0):
        here = step()
        trained = pixelwise("cps", here)
        with torch.no_grad():
            trained.second.head.weight.mul_(scale)
            trained.second.head.bias.mul_(scale)
        trained(one, here)["cross"].backward()
        gradients.append(trained.network.head.weight.grad)
    torch.testing.assert_close(*gradients)


def test_unimatch_adds_up_its_four_views():
    """An unsure pixel costs nothing but is counted.  Without dropout fp says what the weak view says."""
    one = labelled(batch(pool=3, views=2))
    here = step(methods={"unimatch": {"threshold": 0.42, "cutmix": 1.0, "feature_dropout": 0.0}})
    trained = pixelwise("unimatch", here)
    found = trained(one, here)
    known = (one.target != IGNORE).numpy()
    target = np.where(known, one.target.numpy(), 0)
    ce = mean_over(cost(probabilities(trained.network, one.image), target), known)
    assert found["ce"].item() == pytest.approx(ce / 2, rel=1e-5)

    p_w = probabilities(trained.network, one.image_u)
    label, sure = p_w.argmax(1), p_w.max(1) >= 0.42
    assert 0 < sure.mean() < 1
    seen = one.seen_u.numpy()

    def learn(p, label, sure, seen):
        return cost(p, label)[sure & seen].sum() / seen.sum()

    g = torch.Generator().manual_seed(0)
    strong = 0.0
    for view in range(2):
        mask = boxes((3, 8, 8), area=(0.02, 0.4), aspect=1 / 0.3, generator=g).numpy()

        def mixed(own, mask=mask):
            other = np.roll(own, 1, axis=0)
            return np.where(mask if own.ndim == 3 else mask[:, None], other, own)

        p = probabilities(trained.network, torch.from_numpy(mixed(one.strong_u[view].numpy())))
        strong += 0.25 * learn(p, mixed(label), mixed(sure), mixed(seen[1 + view]))
    assert found["strong"].item() == pytest.approx(strong / 2, rel=1e-5)
    assert found["features"].item() == pytest.approx(0.5 * learn(p_w, label, sure, seen[0]) / 2, rel=1e-5)


def test_unimatchs_feature_view_alone_has_whole_channels_dropped():
    here = step()
    trained = method("unimatch", here)
    heard = []
    trained.network.head.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    trained(batch(pool=2, views=2), here)
    undisturbed, dropped = heard[0][2:4], heard[0][4:]
    lost = (dropped == 0).all(dim=(2, 3)) & (undisturbed != 0).any(dim=(2, 3))
    assert 0 < lost.sum() < lost.numel()
    kept = ~(dropped == 0).all(dim=(2, 3))
    torch.testing.assert_close(dropped[kept], 2 * undisturbed[kept])


@pytest.mark.parametrize(("count", "aspect"), [(1, None), (3, None), (1, 1 / 0.3)])
def test_boxes_cover_what_was_asked_and_lie_inside(count, aspect):
    g = torch.Generator().manual_seed(1)
    masks = boxes((300, 40, 60), count=count, area=(0.25, 0.5), aspect=aspect, generator=g)
    share = masks.float().mean((1, 2))
    assert share.max() < 0.53
    if count == 1:
        assert share.min() > 0.22
        for mask in masks[:20]:  # a rectangle: its rows and columns span exactly what is True
            assert mask.sum() == mask.any(1).sum() * mask.any(0).sum()
    assert masks.any(0).float().mean() > 0.98  # every place but a corner is reached


def test_boxes_come_with_their_probability_and_from_the_generator_alone():
    def draw(probability, seed):
        g = torch.Generator().manual_seed(seed)
        return boxes((400, 6, 8), area=(0.5, 0.5), probability=probability, generator=g)

    assert not draw(0.0, 0).any()
    assert 0.4 < draw(0.5, 0).any((1, 2)).float().mean() < 0.6
    assert torch.equal(draw(0.5, 3), draw(0.5, 3))
    assert not torch.equal(draw(0.5, 3), draw(0.5, 4))


def test_cutmix_takes_another_image_never_its_own():
    own = torch.arange(3).view(3, 1, 1).expand(3, 4, 4)
    assert mix(own, torch.ones(3, 4, 4, dtype=torch.bool))[:, 0, 0].tolist() == [2, 0, 1]
    with pytest.raises(AssertionError, match="another image"):
        mix(own[:1], torch.ones(1, 4, 4, dtype=torch.bool))


def test_a_ramp_begins_at_exp_minus_5_and_ends_at_1():
    assert ramp_up(0.0, 0.1) == pytest.approx(np.exp(-5))
    assert ramp_up(0.05, 0.1) == pytest.approx(np.exp(-1.25))
    assert ramp_up(0.1, 0.1) == ramp_up(0.9, 0.1) == ramp_up(0.0, 0.0) == 1.0


def test_the_tiny_network_has_all_classes_and_looks_at_single_pixels():
    assert TinyNet(stride=1)(torch.zeros(1, 3, 8, 8)).logits.shape == (1, CLASSES, 8, 8)
