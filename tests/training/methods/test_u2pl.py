"""U2PL against its equations in NumPy, in float64."""

import numpy as np
import pytest
import torch

from querying.dataset.label_values import IGNORE
from tests.training.tiny import SMALL_U2PL, batch, method, step
from training.method_parts.mixing import boxes
from training.methods.u2pl import entropy, negatives
from training.network.deeplab import normalise
from training.settings.methods import U2PLSettings


def outputs(network, image):
    with torch.no_grad():
        logits, embedding = network(normalise(image))
    e = np.exp(logits.double().numpy())
    return e / e.sum(1, keepdims=True), embedding.double().numpy()


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def pixels(maps):
    return np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])


def test_the_loss_is_the_papers():
    """Networks at full resolution; the teacher is moved away from the student, half of the training is over."""
    one = batch(pool=2)
    one.target[0, :2] = IGNORE
    here = step(methods={"u2pl": {**SMALL_U2PL, "cutmix": 1.0, "unreliable": 0.4, "weight": 2.0}}, done=0.5)
    trained = method("u2pl", here, stride=1)
    with torch.no_grad():
        for p in trained.teacher.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    found = trained(one, here)

    g = torch.Generator().manual_seed(0)
    mask = boxes((2, 8, 8), area=(0.5, 0.5), probability=1.0, generator=g).numpy()
    label_u = outputs(trained.teacher.network, one.image_u)[0].argmax(1)
    label_u = np.where(mask, label_u[::-1], label_u)
    seen = np.where(mask, one.seen_u[0].numpy()[::-1], one.seen_u[0].numpy())
    image = one.image_u.numpy()
    images = torch.cat([one.image, torch.from_numpy(np.where(mask[:, None], image[::-1], image))])
    p_t, key = outputs(trained.teacher.network, images)
    p_s, embed = outputs(trained.network, images)

    h = -(p_t[2:] * np.log(p_t[2:])).sum(1)
    bound = np.percentile(h[seen], 100 - 40 * (1 - 0.5))
    reliable, unsure = seen & (h < bound), seen & (h >= bound)
    cost = -np.log(np.take_along_axis(p_s[2:], label_u[:, None], 1)[:, 0])
    expected = 2.0 * (reliable.size / reliable.sum()) * cost[reliable].mean()
    assert found["reliable"].item() == pytest.approx(expected, rel=1e-4)

    truth = np.concatenate([one.target.numpy().ravel(), np.full(128, IGNORE)])
    label = np.concatenate([one.target.numpy().ravel(), np.where(reliable, label_u, IGNORE).ravel()])
    unsure = np.concatenate([np.zeros(128, bool), unsure.ravel()])
    p_PC, key_PD, embed_PD = pixels(p_t), pixels(key), pixels(embed)
    rank = (-p_PC).argsort(1).argsort(1)
    draws, memory = [], {}
    for c in range(3):
        mine = [
            k for k in range(256) if (truth[k] not in (IGNORE, c) and rank[k, c] < 2) or (unsure[k] and rank[k, c] >= 2)
        ]
        memory[c] = np.zeros((40, 4))
        for number, k in enumerate(mine):
            memory[c][number % 40] = key_PD[k]
        draws.append(min(40, len(mine)))
    anchors = [[k for k in range(256) if label[k] == c and p_PC[k, c] > 0.3] for c in range(3)]
    assert all(draws)
    assert all(anchors)
    u_a, u_m = torch.rand(3, 5, generator=g).numpy(), torch.rand(3, 5, 6, generator=g).numpy()
    total = 0.0
    for c in range(3):
        positive = unit(key_PD[anchors[c]].mean(0))
        for a in range(5):
            query = unit(embed_PD[anchors[c][int(u_a[c, a] * np.float32(len(anchors[c])))]])
            others = unit(memory[c][[int(u * np.float32(draws[c])) for u in u_m[c, a]]])
            e = np.exp(np.concatenate([[query @ positive], others @ query]) / 0.5)
            total -= np.log(e[0] / e.sum()) / 5
    assert found["contrast"].item() == pytest.approx(total / len(set(label) - {IGNORE}), rel=1e-4)


def test_entropy_is_finite_for_a_certain_pixel():
    assert entropy(torch.tensor([[200.0, -200.0, 0.0]])[..., None, None]).item() == 0.0
    assert entropy(torch.zeros(1, 3, 1, 1)).item() == pytest.approx(np.log(3))


def test_negatives_of_labelled_and_of_unreliable_pixels():
    """Ranks are 0 1 2 3.  Labelled as class 1: not 0, which ranks among the first two.  Unsure: not 2, the third."""
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).expand(3, 4)
    settings = U2PLSettings(low_rank=2, high_rank=3)
    found = negatives(p, torch.tensor([1, IGNORE, IGNORE]), torch.tensor([False, True, False]), settings)
    assert found.int().tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_a_class_that_is_absent_from_the_batch_keeps_its_own_memory():
    """Rows of the memory are classes, not positions among the classes present."""
    trained = method("u2pl", step(methods={"u2pl": SMALL_U2PL}))
    keys = torch.arange(1.0, 9.0).view(2, 4)
    trained.remember(keys, torch.tensor([[False, False, True], [False, False, True]]))
    assert trained.entered.tolist() == [0, 0, 2]
    assert torch.equal(trained.memory[2, :2], keys)
    assert not trained.memory[:2].any()


def test_the_oldest_leave_the_memory():
    trained = method("u2pl", step(methods={"u2pl": {**SMALL_U2PL, "memory": 3}}))

    def push(*numbers):
        keys = torch.tensor(numbers, dtype=torch.float32).view(-1, 1).expand(-1, 4)
        trained.remember(keys, torch.tensor([[True, False, False]] * len(numbers)))
        return sorted(trained.memory[0, :, 0].tolist())

    assert push(1, 2) == [0, 1, 2]
    assert push(3, 4) == [2, 3, 4]
    assert push(5, 6, 7, 8, 9) == [7, 8, 9]
    assert push(10) == [8, 9, 10]


def test_the_contrast_moves_the_students_anchors_alone():
    here = step(methods={"u2pl": SMALL_U2PL})
    trained = method("u2pl", here, stride=1)
    trained(batch(pool=2), here)["contrast"].backward()
    assert trained.network.embed.weight.grad.abs().sum() > 0
    assert trained.network.head.weight.grad is None
    assert all(p.grad is None for p in trained.teacher.parameters())
    assert not trained.memory.requires_grad


def test_a_class_without_anchors_adds_zero_and_is_counted():
    """Two classes with a loss are a third less each where a third class is present but never confident."""
    trained = method("u2pl", step(methods={"u2pl": SMALL_U2PL}))
    g = torch.Generator().manual_seed(0)
    embed, key = torch.randn(30, 4, generator=g), torch.randn(30, 4, generator=g)
    trained.remember(key, torch.ones(30, 3, dtype=torch.bool))
    label = torch.arange(30) % 3
    p = torch.full((30, 3), 0.3)  # not above
    p[label < 2] = 0.4

    def loss(label):
        return trained.contrast(
            embed, key, p, label, U2PLSettings(**SMALL_U2PL), torch.Generator().manual_seed(1)
        ).item()

    assert loss(label) == pytest.approx(2 / 3 * loss(label.where(label < 2, IGNORE)))
