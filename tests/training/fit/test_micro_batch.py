"""A step in parts is the step at once: terms and gradients of methods without and with ignored pixels, and on ranks."""

import multiprocessing
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from querying.dataset.label_values import IGNORE
from tests.small import small_run
from tests.training.fit.test_resume import outcome
from tests.training.tiny import batch, method, step
from training.batches.batch import Batch
from training.fit.loop import Training
from training.settings.training import ReCoSettings


class Alone(Training):
    """The part of a training that computes a step's gradient, around a method and a context that are given."""

    def __init__(self, trained, context):
        self.model, self.context, self.total, self.in_bf16 = trained, context, 4, False
        self.job = Job(context.train)
        self.worker = Machine()


class Machine:
    device = torch.device("cpu")


class Job:
    def __init__(self, train):
        self.train = train


def sample(known=4, pool=3):
    """Images of which each has another number of known pixels, the second none."""
    one = batch(pool=known + pool - 2, seed=5)
    image, target = torch.cat([one.image, one.image_u]), torch.cat([one.target, one.target_u])
    for number, share in enumerate(torch.linspace(0.1, 0.9, len(target))):
        target[number][torch.rand(8, 8, generator=torch.Generator().manual_seed(number)) < share] = IGNORE
    target[1] = IGNORE
    return Batch(image[:known], target[:known], image[known:], target[known:])


def gradient(name, one, most, **settings):
    context = step(reco=ReCoSettings(weight=0.0), methods=settings.pop("methods", None), micro_batch=most, **settings)
    trained = method(name, context)
    terms = Alone(trained, context).backward(one, 1)
    return terms, {key: parameter.grad for key, parameter in trained.named_parameters()}


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("supervised", {}),
        ("supervised", {"normalise": "all"}),
        *(("self_training", {"methods": {"self_training": {"mean": mean}}}) for mean in ("all", "known", "apart")),
        ("self_training", {"methods": {"self_training": {"mean": "apart"}}, "normalise": "all"}),
    ],
)
def test_parts_add_up_to_the_whole(name, settings, most):
    whole, part = (gradient(name, sample(), count, **dict(settings)) for count in (None, most))
    assert list(whole[0]) == list(part[0])
    for key, value in whole[0].items():
        torch.testing.assert_close(part[0][key], value, rtol=1e-5, atol=1e-7)
    assert any(grad.abs().max() > 1e-3 for grad in whole[1].values())
    for key, expected in whole[1].items():
        torch.testing.assert_close(part[1][key], expected, rtol=1e-4, atol=1e-6)


def test_parts_are_at_most_so_large_nearly_equal_and_in_order():
    one = sample(known=4, pool=3)
    for most, sizes in ((1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 2, 2]), (4, [4, 3]), (6, [4, 3]), (7, [7]), (9, [7])):
        parts = one.parts(most)
        assert [len(part.image) + len(part.image_u) for part in parts] == sizes
        for name in ("image", "target", "image_u", "target_u"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(one, name))


def test_a_training_in_parts_runs_and_repeats(toy_data, tmp_path):
    """BatchNorm looks at a part, so that it is another training than the whole one."""
    words = ("cycles=0", "train.epochs=1", "train.method=supervised", "reco.weight=0", "teacher.batch_size=4")
    for name in ("one", "two"):
        small_run(toy_data.root, tmp_path / name, *words, "train.micro_batch=2")
    small_run(toy_data.root, tmp_path / "whole", *words)
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    assert outcome(tmp_path / "one")[0] != outcome(tmp_path / "whole")[0]


def as_rank(rank, folder):
    from training.fit.ray_trainer import _distributed, _mean

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    one = sample(known=4, pool=2)
    own = Batch(one.image[rank::2], one.target[rank::2], one.image_u[rank::2], one.target_u[rank::2])
    context = step(reco=ReCoSettings(weight=0.0), micro_batch=1)._replace(mean_count=_mean)
    trained = method("self_training", context)
    Alone(_distributed(trained), context).backward(own, 1)
    save_file({name: parameter.grad for name, parameter in trained.named_parameters()}, f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow  # starts two processes that import torch
def test_two_ranks_in_parts_have_the_gradient_of_all_images_together(tmp_path):
    """Each has three parts; ranks know other numbers of pixels, and join their gradients with the last part."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=as_rank, args=(rank, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(200)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    expected = gradient("self_training", sample(known=4, pool=2), None)[1]
    for key, whole in expected.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], whole, rtol=1e-4, atol=1e-6)


def test_gradients_are_joined_with_the_last_part_alone():
    class Joined(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.apart, self.seen = inner, False, []

        @contextmanager
        def no_sync(self):
            self.apart = True
            yield
            self.apart = False

        def forward(self, *given):
            self.seen.append(self.apart)
            return self.inner(*given)

    for most, expected in ((None, [False]), (3, [True, True, False]), (7, [False])):
        context = step(reco=ReCoSettings(weight=0.0), micro_batch=most)
        joined = Joined(method("supervised", context))
        Alone(joined, context).backward(sample(), 1)
        assert joined.seen == expected
