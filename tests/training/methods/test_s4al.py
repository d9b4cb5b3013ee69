"""S4AL against its equations in NumPy, in float64; what is mixed, from where, and when."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.recipes.catalogue import find
from querying.base.errors import Interrupted, UserError
from querying.base.files import read_json
from querying.dataset.label_values import IGNORE
from tests.small import small_run
from tests.training.tiny import TinyNet, batch, method, step, total
from training.methods.s4al import Labelled, consistency, frequent_and_rare, half_of_the_classes
from training.network.deeplab import normalise
from training.settings.methods import MethodSettings, check_method
from training.settings.systems import S4ALSettings
from training.settings.training import TrainSettings

PASTED = {"frequent": (0, 1), "rare": (2,), "frequent_pasted": 1, "rare_pasted": 1}


def probabilities(network, image):
    with torch.no_grad():
        e = np.exp(network(normalise(torch.as_tensor(np.ascontiguousarray(image)))).logits.double().numpy())
    return e / e.sum(1, keepdims=True)


def cost(p, label):
    return -np.log(np.take_along_axis(p, label[:, None].astype(int), 1)[:, 0])


def moved_teacher(trained, image):
    """Away from the student, sure of some pixels, and to where it sees every class in the images."""
    with torch.no_grad():
        for p in trained.teacher.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        trained.teacher.network.head.bias -= trained.teacher(normalise(image)).logits.mean((0, 2, 3))
        trained.teacher.network.head.weight.mul_(4)
        trained.teacher.network.head.bias.mul_(4)
    return trained


def with_cells(pool, seed=0):
    """A batch in which a cell of each pool image is bought; its truth is one of the classes that colours do not say."""
    one = batch(pool=pool, views=1, seed=seed)
    one.target[0, :2] = IGNORE
    target_u = torch.full((pool, 8, 8), IGNORE, dtype=torch.uint8)
    for b in range(pool):
        target_u[b, 2:6, 2:5] = (b + seed) % 3
    return one._replace(target_u=target_u)


def draws(here):
    """(B, C): the order in which a row's classes are drawn."""
    return lambda rows: torch.rand(rows, 3, generator=here.generator).numpy()


def mixed(kept, own, other):
    return np.where(kept if own.ndim == 3 else kept[:, None], own, other)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_papers(seed):
    """Networks at full resolution; the teacher is moved away from the student; epoch 50 of 100 in cycle 1."""
    one, pool = with_cells(3, seed), 3
    here = step(methods={"s4al": {**PASTED, "threshold": 0.6, "weight": 2.0}}, done=0.5)._replace(cycle=1)
    trained = moved_teacher(method("s4al", here, stride=1), one.image_u)
    found = trained(one, here)

    again = step()
    draw = draws(again)
    p_t = probabilities(trained.teacher.network, one.image_u)
    label, sure = p_t.argmax(1), p_t.max(1)
    bought = one.target_u.numpy() != IGNORE
    assert (label != one.target_u.numpy())[bought].any()
    label[bought], sure[bought] = one.target_u.numpy()[bought], 1.0
    image, seen = one.strong_u[0].numpy(), one.seen_u[1].numpy()

    def learn(kept, other):
        image_m, label_m, sure_m, seen_m = (mixed(kept, v, v[other]) for v in (image, label, sure, seen))
        ce = cost(probabilities(trained.network, image_m), label_m)
        loss = 0.0
        for b in range(pool):
            share = (sure_m[b][seen_m[b]] >= 0.6).mean()
            assert 0 < share < 1
            loss += share * (sure_m[b] * ce[b])[seen_m[b]].sum()
        return 2.0 * loss / seen_m.sum()

    order = draw(pool)
    own = np.zeros_like(seen)
    for b in range(pool):
        shown = [c for c in range(3) if ((label[b] == c) & seen[b]).any()]
        chosen = sorted(shown, key=lambda c: order[b, c])[: len(shown) // 2]
        own[b] = np.isin(label[b], chosen) & seen[b]
    assert own.any()
    assert found["mixed"].item() == pytest.approx(learn(own, [1, 2, 0]), rel=1e-4)

    frequent = draw(pool)
    kept = np.zeros_like(seen)
    for b in range(pool):
        d = (b - 1) % pool
        classes = [min((0, 1), key=lambda c: frequent[d, c]), 2]
        kept[b] = ~(np.isin(label[d], classes) & seen[d])
    assert found["replayed"].item() == pytest.approx(learn(kept, [2, 0, 1]), rel=1e-4)

    known = one.target.numpy() != IGNORE
    ce = cost(probabilities(trained.network, one.image), np.where(known, one.target.numpy(), 0))
    assert found["ce"].item() == pytest.approx(ce[known].mean(), rel=1e-5)


def test_the_cold_start_learns_labels_alone_and_more():
    one, here = with_cells(2), step(methods={"s4al": {"cold_weight": 1.5}}, done=0.0999)
    trained = method("s4al", here, stride=1)
    found = trained(one, here)
    known = one.target.numpy() != IGNORE
    ce = cost(probabilities(trained.network, one.image), np.where(known, one.target.numpy(), 0))
    assert found["ce"].item() == pytest.approx(1.5 * ce[known].mean(), rel=1e-5)
    assert found["mixed"].item() == found["replayed"].item() == 0
    total(found).backward()
    assert all(p.grad is not None for p in trained.network.parameters() if p is not trained.network.embed)


@pytest.mark.parametrize(("epoch", "cycle", "expected"), [
    (9, 1, (False, False)), (10, 0, (True, False)), (29, 1, (True, False)), (30, 0, (True, False)),
    (30, 1, (True, True)), (99, 2, (True, True)),
])  # fmt: skip
def test_the_pool_comes_from_epoch_10_on_and_pasted_classes_from_30_after_a_query(epoch, cycle, expected):
    """`done` is what training/fit/job.py gives: the epoch's first step over all, which rounds."""
    for steps in (1, 7, 50, 300):
        here = step(methods={"s4al": PASTED}, done=epoch * steps / (100 * steps))._replace(cycle=cycle)
        one = with_cells(2)
        trained = moved_teacher(method("s4al", here, stride=1), one.image_u)
        found = trained(one._replace(target_u=torch.zeros_like(one.target_u)), here)  # all bought: all sure
        assert (found["mixed"].item() > 0, found["replayed"].item() > 0) == expected


def test_epochs_of_a_longer_training_are_its_own():
    for done, pool in ((0.049, False), (0.05, True)):  # 200 epochs
        here = step(methods={"s4al": PASTED}, done=done, epochs=200)
        found = method("s4al", here)(with_cells(2)._replace(target_u=torch.zeros(2, 8, 8, dtype=torch.uint8)), here)
        assert (found["mixed"].item() > 0) == pool


def test_a_cold_start_ends_with_its_last_epoch_although_the_share_of_steps_rounds():
    one = with_cells(2)._replace(target_u=torch.zeros(2, 8, 8, dtype=torch.uint8))
    shares = [(epochs, epochs * 7 / 700) for epochs in range(1, 60)]
    assert any(done * 100 < epochs for epochs, done in shares)
    for epochs, done in shares:
        here = step(methods={"s4al": {"cold_start": epochs}}, done=done)
        assert method("s4al", here)(one, here)["mixed"].item() > 0


def test_nothing_is_pasted_without_rare_classes():
    here = step(methods={"s4al": {"frequent": (0, 1)}}, done=0.9)._replace(cycle=1)
    assert method("s4al", here)(with_cells(2), here)["replayed"].item() == 0


def test_bought_pixels_are_the_truth_and_sure_whatever_the_teacher_says():
    one, here = with_cells(3), step()
    trained = moved_teacher(method("s4al", here, stride=1), one.image_u)
    taught = trained.taught(one)
    bought = one.target_u != IGNORE
    assert torch.equal(taught.label[bought], one.target_u[bought].long())
    assert (taught.sure[bought] == 1).all()
    p = probabilities(trained.teacher.network, one.image_u)
    assert np.array_equal(taught.label[~bought].numpy(), p.argmax(1)[~bought.numpy()])
    np.testing.assert_allclose(taught.sure[~bought].numpy(), p.max(1)[~bought.numpy()], rtol=1e-5)
    assert torch.equal(taught.image, one.strong_u[0])  # labels of the weak view, for the strong one
    assert torch.equal(taught.seen, one.seen_u[1])


def test_an_image_counts_by_its_share_of_sure_pixels_and_a_pixel_by_its_confidence():
    """Uniform logits cost ln 3 each.  Image 0: one of two seen pixels is sure; image 1: none is, so it only counts."""
    sure = torch.tensor([[[0.97, 0.5, 1.0]], [[0.96, 0.96, 0.96]]])
    seen = torch.tensor([[[True, True, False]], [[True, True, True]]])
    taught = Labelled(torch.zeros(2, 3, 1, 3), torch.zeros(2, 1, 3, dtype=torch.int64), sure, seen)
    found = consistency(torch.zeros(2, 3, 1, 3), taught, S4ALSettings(), step())
    assert found.item() == pytest.approx(np.log(3) * 0.5 * (0.97 + 0.5) / 5, rel=1e-6)
    two_ranks = step()._replace(mean_count=lambda n: (n + 15) / 2)
    assert consistency(torch.zeros(2, 3, 1, 3), taught, S4ALSettings(), two_ranks).item() == pytest.approx(
        found.item() / 2, rel=1e-6
    )


@pytest.mark.parametrize(("classes", "kept"), [((4,), 0), ((1, 4), 1), ((0, 1, 4), 1), ((0, 1, 3, 4), 2)])
def test_classmix_keeps_half_of_the_classes_that_are_seen_each_as_often(classes, kept):
    """Class 2 is in the image, but not seen."""
    label = torch.tensor([*classes, 2]).view(1, 1, -1).expand(3000, 1, -1)
    seen = label != 2
    found = half_of_the_classes(label, seen, 5, torch.Generator().manual_seed(0))
    assert (found.sum((1, 2)) == kept).all()
    assert not found[~seen].any()
    assert found[:, 0, :-1].float().mean(0).tolist() == pytest.approx([kept / len(classes)] * len(classes), abs=0.04)


def test_frequent_and_rare_classes_are_drawn_apart_without_replacement_each_as_often():
    settings = S4ALSettings(frequent=(0, 1, 3, 4, 5), rare=(2, 6, 7, 8, 9, 10), rare_pasted=2)
    drawn = frequent_and_rare(4000, 12, settings, torch.Generator().manual_seed(0))
    assert (drawn[:, list(settings.frequent)].sum(1) == 3).all()
    assert (drawn[:, list(settings.rare)].sum(1) == 2).all()
    expected = [3 / 5 if c in settings.frequent else 2 / 6 if c in settings.rare else 0 for c in range(12)]
    assert drawn.float().mean(0).tolist() == pytest.approx(expected, abs=0.04)
    only_rare = frequent_and_rare(50, 3, S4ALSettings(rare=(2,)), torch.Generator())
    assert only_rare.tolist() == [[False, False, True]] * 50  # fewer classes than are to be drawn: all of them


def test_both_of_the_pools_losses_move_the_student_alone():
    here = step(methods={"s4al": {**PASTED, "threshold": 0.5}}, done=0.5)._replace(cycle=1)
    for part in ("mixed", "replayed"):
        one = with_cells(2)
        trained = moved_teacher(method("s4al", here), one.image_u)
        trained(one, here)[part].backward()
        moved = {name for name, p in trained.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moved == {name for name, p in trained.named_parameters() if name.startswith("network.")}


class Counting(TinyNet):
    """With statistics, as BatchNorm has them."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.register_buffer("mean", torch.zeros(2))


def test_the_teacher_averages_parameters_and_buffers_and_is_deployed():
    trained = method("s4al", step(methods={"s4al": {"decay": 0.6}}), Counting)
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


def test_what_can_not_be_is_refused():
    with pytest.raises(UserError, match=r"methods\.s4al: class 3 is to be pasted, but the data have 3 classes"):
        method("s4al", step(methods={"s4al": {"rare": (2, 3)}}))
    with pytest.raises(ValueError, match="class 2 is both frequent and rare"):
        S4ALSettings(frequent=(1, 2), rare=(2,))
    with pytest.raises(
        ValueError, match=r"first 10 epochs \(methods.s4al.cold_start\): 10 \(train.epochs\) are too few"
    ):
        check_method(TrainSettings(method="s4al", epochs=10), MethodSettings(), cycles=1, queried=4)
    check_method(TrainSettings(method="s4al", epochs=11), MethodSettings(), cycles=1, queried=4)
    with pytest.raises(ValueError, match=r"10 \(train.last_epochs\) are too few"):
        check_method(TrainSettings(method="s4al", epochs=11, last_epochs=10), MethodSettings(), cycles=1, queried=4)
    with pytest.raises(ValueError, match=r"2 labelled images per worker \(cold start\): train.batch_size$"):
        check_method(TrainSettings(method="s4al", epochs=11, batch_size=1), MethodSettings(), cycles=1, queried=4)
    with pytest.raises(ValueError, match=r"2 pool images per worker.*train.batch_size_unlabelled$"):
        check_method(TrainSettings(method="s4al", batch_size_unlabelled=1), MethodSettings(), cycles=1, queried=4)


def test_recipes_have_the_published_protocol():
    for name, steps, share, cycles in (("camvid_s4al", 50, 0.08, 2), ("cityscapes_s4al", 100, 0.035, 5)):
        found = find(name)
        first, last = found.train_at(0, last=False), found.train_at(cycles, last=True)
        assert (found.cycles, found.initial.fraction, found.query.per_image) == (cycles, share, 4)
        assert (first.method, first.epochs, last.epochs, first.steps_per_epoch) == ("s4al", 100, 200, steps)
        assert (first.lr, first.head_lr_scale, first.weight_decay) == (0.01, 1, 5e-4)
        assert (first.batch_size, first.batch_size_unlabelled, found.reco.weight) == (4, 4, 0)
        assert (found.query.acquisition, found.query.scales, found.query.exclude_border) == ("entropy", (1.0,), False)
        classes = sorted(found.methods.s4al.frequent + found.methods.s4al.rare)
        assert classes == list(range(11 if name == "camvid_s4al" else 19))
    ours, theirs = find("camvid_cpu_s4al"), find("camvid_cpu")
    assert (ours.initial, ours.cycles, ours.query.per_image) == (theirs.initial, theirs.cycles, theirs.query.per_image)
    assert ours.train == theirs.train.model_copy(update={"method": "s4al", "batch_size": 4})


RUN = (
    "train.method=s4al", "train.epochs=2", "reco.weight=0", "query.scales=[1.0]", "methods.s4al.cold_start=1",
    "methods.s4al.replay_from=1", "methods.s4al.frequent=[0,1]", "methods.s4al.rare=[2,3]",
)  # fmt: skip


def test_a_run_with_a_query_replays_in_its_second_training_and_resumes_there(toy_data, tmp_path, monkeypatch):
    small_run(toy_data.root, tmp_path / "calm", *RUN)
    metas = [read_json(tmp_path / f"calm/cycle-00{k}/checkpoint/meta.json") for k in (0, 1)]
    histories = [meta["history"] for meta in metas]
    assert metas[0]["labelled_images"] == metas[1]["labelled_images"]  # bought cells are in the pool's images alone
    assert [epoch["train/mixed"] > 0 for epoch in histories[1]] == [False, True]
    assert [epoch["train/replayed"] > 0 for epoch in histories[0] + histories[1]] == [False] * 3 + [True]

    asked = itertools.count(1)
    monkeypatch.setattr("training.fit.loop.stop_file", lambda work: SimpleNamespace(exists=lambda: next(asked) == 7))
    with pytest.raises(Interrupted, match="stopped after step 3,"):
        small_run(toy_data.root, tmp_path / "run", *RUN)
    assert (tmp_path / "run/cycle-000/checkpoint/model.safetensors").exists()
    monkeypatch.undo()
    small_run(toy_data.root, tmp_path / "run", *RUN)
    for cycle in ("cycle-000", "cycle-001"):
        weights = [(tmp_path / run / cycle / "checkpoint/model.safetensors").read_bytes() for run in ("calm", "run")]
        assert weights[0] == weights[1]
