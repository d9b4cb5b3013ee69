"""AEL against its equations in NumPy, in float64, and what each of its draws may move."""

import numpy as np
import pytest
import torch

from querying.dataset.label_values import IGNORE
from tests.training.tiny import TinyNet, batch, method, step, total
from training.method_parts.mixing import boxes, component, mix, span
from training.methods import ael
from training.methods.ael import copies, cuts
from training.network.deeplab import normalise
from training.settings.methods import AELSettings, MethodSettings, check_method
from training.settings.training import TrainSettings

NO_CLASS_KNOWN = torch.full((3,), 1 / 3)


def probabilities(network, image):
    with torch.no_grad():
        e = np.exp(network(normalise(torch.as_tensor(image))).logits.double().numpy())
    return e / e.sum(1, keepdims=True)


def of_label(p, label):
    return np.take_along_axis(p, label[:, None].astype(int), 1)[:, 0]


def connected(mask, first):
    """Flood fill over 4 neighbours."""
    found, todo = np.zeros_like(mask), [first]
    while todo:
        y, x = todo.pop()
        if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not found[y, x]:
            found[y, x] = True
            todo += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return found


def moved_teacher(trained, image):
    """Away from the student, and to where it sees every class in the images."""
    with torch.no_grad():
        for p in trained.teacher.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        trained.teacher.network.head.bias -= trained.teacher(normalise(image)).logits.mean((0, 2, 3))
    return trained


def with_bank(trained, *confidence):
    trained.confidence.copy_(torch.tensor(confidence))
    trained.sightings.fill_(5)
    return trained


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_papers(seed):
    """Networks at full resolution; the teacher is moved away from the student, and the bank has seen five steps."""
    one = batch(pool=3, seed=seed)
    one.target[0, :2] = IGNORE
    settings = {"copy_paste": 0.7, "pasted": 2, "cutmix": 0.8, "component": 0.1, "threshold": 0.4, "weight": 2.0}
    here = step(methods={"ael": {**settings, "focus": 1.5, "held": 0.2}})
    trained = with_bank(moved_teacher(method("ael", here, stride=1), one.image_u), 0.2, 0.5, 0.8)
    found = trained(one, here)

    g = torch.Generator().manual_seed(0)
    bank = np.array([0.2, 0.5, 0.8])
    wanted = torch.from_numpy(np.exp(1 - bank) / np.exp(1 - bank).sum()).float()
    drawn = torch.multinomial(wanted, 4, replacement=True, generator=g).view(2, 2).numpy()
    use = torch.rand(2, 1, 1, generator=g).numpy() < 0.7
    image, target = one.image.numpy(), one.target.numpy()
    paste = use & np.stack([np.isin(target[1 - b], drawn[b]) for b in range(2)])
    image = np.where(paste[:, None], image[::-1], image)
    target = np.where(paste, target[::-1], target)

    p_t = probabilities(trained.teacher.network, one.image_u)
    label, sure, seen = p_t.argmax(1), p_t.max(1), one.seen_u[0].numpy()
    cut_class = torch.multinomial(wanted, 3, replacement=True, generator=g).numpy()
    shows = [[(label[d] == cut_class[b]) & seen[d] for d in range(3)] for b in range(3)]
    holders = [[d for d in range(3) if d != b and shows[b][d].sum() >= 0.2 * 64] for b in range(3)]
    candidates = [holders[b] or [d for d in range(3) if d != b] for b in range(3)]
    allowed = torch.tensor([[float(d in candidates[b]) for d in range(3)] for b in range(3)])
    donor = torch.multinomial(allowed, 1, generator=g).flatten().numpy()
    noise = torch.rand(3, 8, 8, generator=g).numpy()
    anywhere = boxes((3, 8, 8), area=(0.5, 0.5), generator=g).numpy()
    use = torch.rand(3, 1, 1, generator=g).numpy() < 0.8
    box = np.zeros((3, 8, 8), bool)
    for b in range(3):
        mask = shows[b][donor[b]]
        part = connected(mask, np.unravel_index(np.where(mask, noise[b], -1).argmax(), (8, 8)))
        if part.sum() > 0.1 * 64:
            y, x = part.nonzero()
            box[b, y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        else:
            box[b] = anywhere[b]
    box &= use
    assert box.any()
    assert len(set(label.ravel())) == 3
    image_u = np.where(box[:, None], one.image_u.numpy()[donor], one.image_u.numpy())
    label, sure, seen = (np.where(box, own[donor], own) for own in (label, sure, seen))

    known = target != IGNORE
    p_l = of_label(probabilities(trained.network, image), np.where(known, target, 0))
    assert found["ce"].item() == pytest.approx(-np.log(p_l)[known].mean(), rel=1e-5)
    for c in set(target[known]):
        bank[c] = 5 / 6 * bank[c] + 1 / 6 * p_l[target == c].mean()
    np.testing.assert_allclose(trained.confidence.numpy(), bank, rtol=1e-5)
    rate = (1 - bank) / (1 - bank).max()
    sampled = seen & (torch.rand(3, 8, 8, generator=g).numpy() < rate[label])
    weight = sampled * sure**1.5
    cost = -np.log(of_label(probabilities(trained.network, image_u), label)) * (sure >= 0.4)
    assert found["equalised"].item() == pytest.approx(2 * (weight * cost).sum() / weight.sum(), rel=1e-4)


def test_the_pools_loss_moves_the_student_alone():
    here = step()
    one = batch(pool=2)
    trained = moved_teacher(method("ael", here), one.image_u)
    trained(one, here)["equalised"].backward()
    moved = {name for name, p in trained.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    trained_ones = {name for name, p in trained.named_parameters() if name.startswith("network.")}
    assert moved == trained_ones
    assert not trained.confidence.requires_grad


class Counting(TinyNet):
    """With statistics, as BatchNorm has them."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.register_buffer("mean", torch.zeros(2))


def test_the_teacher_averages_parameters_and_buffers_with_a_ramp_and_is_deployed():
    trained = method("ael", step(methods={"ael": {"decay": 0.6}}), Counting)
    assert trained.deployed() is trained.teacher.network
    weight, mean = trained.network.head.weight.detach().numpy().copy(), np.zeros(2)
    for number, keep in enumerate([0.0, 0.5, 0.6, 0.6]):
        with torch.no_grad():
            trained.network.head.weight.add_(number + 1.0)
            trained.network.mean.add_(number + 2.0)
        trained.after_step(number)
        weight = keep * weight + (1 - keep) * trained.network.head.weight.detach().numpy()
        mean = keep * mean + (1 - keep) * trained.network.mean.numpy()
        np.testing.assert_allclose(trained.deployed().head.weight.numpy(), weight, rtol=1e-5)
        np.testing.assert_allclose(trained.deployed().mean.numpy(), mean, rtol=1e-5)


def logits_of(*p):
    """(1, 3, 1, pixels)"""
    return torch.tensor(p).log().T[None, :, None]


def test_the_bank_averages_a_classs_first_values_then_moves_slowly_and_not_without_the_class():
    here = step(methods={"ael": {"momentum": 0.6}})
    trained = method("ael", here)
    logits = logits_of([0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.1, 0.7], [0.0001, 0.0001, 0.9998])

    def see(*target):
        trained.observe(logits, torch.tensor(target, dtype=torch.uint8)[None, None], here)
        return trained.confidence.tolist()

    assert trained.confidence.tolist() == [0, 0, 0]
    assert see(0, 0, 2, IGNORE) == pytest.approx([0.6, 0, 0.7])
    assert see(IGNORE, 0, 0, IGNORE) == pytest.approx([(0.6 + 0.45) / 2, 0, 0.7])  # 1/2, then at most 0.6 is kept
    assert see(0, IGNORE, IGNORE, IGNORE) == pytest.approx([0.6 * 0.525 + 0.4 * 0.5, 0, 0.7])
    assert see(0, IGNORE, IGNORE, IGNORE) == pytest.approx([0.6 * 0.515 + 0.4 * 0.5, 0, 0.7])
    before = trained.confidence.tolist()
    assert see(*[IGNORE] * 4) == before
    assert trained.sightings.tolist() == [4, 0, 1]


def test_the_banks_mean_is_that_of_all_workers():
    """Rank 0 shows class 0 three times, rank 1 once and alone class 1; both banks are that of the whole batch."""
    logits = logits_of([0.5, 0.3, 0.2], [0.7, 0.1, 0.2], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3])
    target = torch.tensor([[[0, 0, 0, 1, 0]]], dtype=torch.uint8)
    ranks = [(logits[..., :3], target[..., :3]), (logits[..., 3:], target[..., 3:])]
    sums = []
    for rank in ranks:
        method("ael", step()).observe(*rank, step()._replace(mean_count=lambda n: sums.append(n) or n))
    whole = method("ael", step())
    whole.observe(logits, target, step())
    for rank in ranks:
        part = method("ael", step())
        part.observe(*rank, step()._replace(mean_count=lambda n: (sums[0] + sums[1]) / 2))
        torch.testing.assert_close(part.confidence, whole.confidence)
        assert part.sightings.tolist() == [1, 1, 0]


def test_the_worst_class_that_was_shown_is_always_learned_and_so_is_one_that_never_was():
    trained = method("ael", step())
    assert trained.rate().tolist() == [1, 1, 1]
    trained.confidence.copy_(torch.tensor([0.9, 0.5, 0.0]))
    trained.sightings.copy_(torch.tensor([3, 3, 0]))
    assert trained.rate().tolist() == pytest.approx([0.2, 1, 1])
    assert with_bank(trained, 1.0, 1.0, 1.0).rate().tolist() == [0, 0, 0]  # nothing to learn, and no NaN


def test_pixels_are_learned_as_often_as_their_class_is_sampled(monkeypatch):
    """Classes at rates 0.2, 0.5 and 1; standard deviations of the shares are below 0.01."""
    kept = []

    def watch(cost, chosen, counted, step):
        kept.append((chosen, counted))
        return cost.sum() * 0

    monkeypatch.setattr(ael, "pixel_mean", watch)
    one, here = batch(pool=2), step(methods={"ael": {"cutmix": 0.0, "momentum": 0.999999}})
    image_u = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    one = one._replace(image=image_u, target=torch.full((2, 128, 128), IGNORE, dtype=torch.uint8), image_u=image_u)
    one = one._replace(seen_u=torch.ones(1, 2, 128, 128, dtype=torch.bool))
    trained = with_bank(moved_teacher(method("ael", here, stride=1), image_u), 0.9, 0.75, 0.5)
    trained(one, here)
    [(chosen, weight)] = kept
    label = probabilities(trained.teacher.network, image_u).argmax(1)
    shares = [chosen.numpy()[label == c].mean() for c in range(3)]
    assert all((label == c).sum() > 3000 for c in range(3))
    assert shares == pytest.approx([0.2, 0.5, 1.0], abs=0.03)
    assert torch.equal(weight > 0, chosen)


def test_copy_paste_moves_image_and_target_together_and_never_the_unknown(monkeypatch):
    """Image 0 has values below 100; a pixel that is not 255 has its class in its value."""
    learned = []
    supervise = ael.supervise
    monkeypatch.setattr(ael, "supervise", lambda *a: learned.append(a[1]) or supervise(*a))
    g = torch.Generator().manual_seed(4)
    target = torch.randint(0, 4, (2, 8, 8), generator=g)
    own = torch.tensor([10, 110]).view(2, 1, 1)
    image = (own + target).to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)
    target = torch.where(target == 3, IGNORE, target).to(torch.uint8)
    one = batch(pool=2)._replace(image=image, target=target)

    pasted = 0
    for seed in range(10):
        here = step(methods={"ael": {"pasted": 1}})._replace(generator=torch.Generator().manual_seed(seed))
        trained = method("ael", here, stride=1)
        heard = []
        trained.network.register_forward_pre_hook(lambda module, inputs, heard=heard: heard.append(inputs[0]))
        trained(one, here)
        every = normalise(torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(-1, 3, -1, -1))[0, 0, 0]
        value = (heard[0][:2, :1] - every.view(1, -1, 1, 1)).abs().argmin(1)
        assert torch.equal(torch.where(learned[-1] == IGNORE, 3, learned[-1]), (value % 100) - 10)
        foreign = (value >= 100) != (own >= 100)
        assert not (learned[-1][foreign] == IGNORE).any()
        for b in range(2):  # all of one class of the other image, or nothing
            classes = set(learned[-1][b][foreign[b]].tolist())
            assert len(classes) <= 1
            assert all(torch.equal(foreign[b], target[1 - b] == c) for c in classes)
            pasted += len(classes)
    assert 4 <= pasted <= 16


def test_copies_prefer_unknown_classes_and_come_with_their_probability():
    target = torch.tensor([0, 1, 2, IGNORE], dtype=torch.uint8).view(1, 1, 4).expand(4000, 1, 4)
    wanted = torch.tensor([0.6, 0.3, 0.1])
    g = torch.Generator().manual_seed(0)
    found = copies(target, wanted, AELSettings(copy_paste=0.5, pasted=1), g).float().mean(0)[0]
    assert found.tolist() == pytest.approx([0.3, 0.15, 0.05, 0], abs=0.03)
    assert not copies(target, wanted, AELSettings(copy_paste=0), g).any()
    three = copies(target, wanted, AELSettings(copy_paste=1, pasted=3), g).float().mean(0)[0]
    assert three.tolist() == pytest.approx([1 - 0.4**3, 1 - 0.7**3, 1 - 0.9**3, 0], abs=0.03)


def test_a_box_surrounds_one_part_of_the_drawn_class_in_another_image_that_shows_it():
    """Class 2 is in image 1 alone, in two places, and once more where image 1 is not seen; all others ask for it."""
    label, seen = torch.zeros(4, 20, 20, dtype=torch.int64), torch.ones(4, 20, 20, dtype=torch.bool)
    label[1, 2:5, 3:9] = label[1, 12:16, 10:12] = label[1, 18:20] = 2
    label[3, 0, :3] = 2  # less than the share that is held
    seen[1, 18:20] = False
    only_2 = torch.tensor([0.0, 0.0, 1.0])
    places = [torch.zeros(20, 20, dtype=torch.bool) for _ in range(2)]
    places[0][2:5, 3:9] = places[1][12:16, 10:12] = True
    count = [0, 0]
    for seed in range(50):
        box, donor = cuts(label, seen, only_2, AELSettings(), torch.Generator().manual_seed(seed))
        assert donor[[0, 2, 3]].tolist() == [1, 1, 1]
        assert donor[1] != 1
        for b in (0, 2, 3):
            [which] = [n for n, place in enumerate(places) if torch.equal(box[b], place)]
            count[which] += 1
    assert count[0] / 150 == pytest.approx(18 / 26, abs=0.12)  # as their areas


def test_a_box_is_anywhere_where_no_other_image_shows_enough_of_the_class():
    label, seen = torch.zeros(3, 20, 20, dtype=torch.int64), torch.ones(3, 20, 20, dtype=torch.bool)
    label[:, 0, :2] = 2  # two pixels are the share above which a part must be
    donors = set()
    for seed in range(30):
        box, donor = cuts(
            label, seen, torch.tensor([0.0, 0.0, 1.0]), AELSettings(), torch.Generator().manual_seed(seed)
        )
        assert (donor != torch.arange(3)).all()
        donors |= set(zip(range(3), donor.tolist(), strict=True))
        assert box.float().mean((1, 2)).tolist() == pytest.approx([0.5] * 3, abs=0.06)
    assert len(donors) == 6
    none = cuts(label, seen, NO_CLASS_KNOWN, AELSettings(cutmix=0), torch.Generator())[0]
    assert not none.any()


def test_mix_takes_the_image_that_is_named():
    own = torch.arange(3).view(3, 1, 1).expand(3, 4, 4)
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[:, :2] = True
    mixed = mix(own, mask, torch.tensor([2, 2, 0]))
    assert mixed[:, 0, 0].tolist() == [2, 2, 0]
    assert torch.equal(mixed[:, 2:], own[:, 2:])


def test_a_component_is_what_a_flood_fill_finds():
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(40, 9, 14, generator=g) < 0.6
    masks[0] = False
    masks[1] = True
    found = component(masks, generator=g, pieces=60).numpy()
    assert not found[0].any()
    assert found[1].all()
    for part, mask in zip(found[1:], masks.numpy()[1:], strict=True):
        assert part.any()
        assert (part == connected(mask, tuple(np.argwhere(part)[0]))).all()


def test_a_span_closes_gaps():
    rows = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]], dtype=torch.bool)
    assert span(rows).int().tolist() == [[0, 1, 1, 1, 0], [0] * 5, [1] * 5]


def test_without_a_known_or_a_class_nothing_is_nan():
    one, here = batch(pool=2), step()
    for target in (torch.full_like(one.target, IGNORE), torch.zeros_like(one.target)):
        trained = method("ael", here)
        for _ in range(3):
            loss = total(trained(one._replace(target=target), here))
            loss.backward()
            assert loss.isfinite()
            assert all(p.grad.isfinite().all() for p in trained.network.parameters() if p.grad is not None)
        assert trained.confidence.isfinite().all()
        assert (trained.sightings > 0).tolist() == [bool((target == c).any()) for c in range(3)]


@pytest.mark.parametrize(("key", "message"), [("batch_size", "labelled"), ("batch_size_unlabelled", "pool images")])
def test_each_worker_needs_two_images_of_each_kind(key, message):
    sizes = {"batch_size": 4, "batch_size_unlabelled": 4, "workers": 2}
    check_method(TrainSettings(method="ael", **sizes), MethodSettings(), cycles=0, queried=0)
    with pytest.raises(ValueError, match=f"2 {message}.*train.{key}$"):
        check_method(TrainSettings(method="ael", **{**sizes, key: 2}), MethodSettings(), cycles=0, queried=0)
