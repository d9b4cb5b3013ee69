"""EquAL's and DEAL's losses in our forms against their equations in NumPy, in float64, and where their gradients go.

The authors' forms: tests/training/fidelity.
"""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from querying.base.files import read_json
from querying.dataset.label_values import IGNORE
from tests.small import small_run
from tests.training.methods.test_semi_methods import cost, labelled, mean_over, pixelwise, probabilities
from tests.training.tiny import CLASSES, TinyNet, batch, method, step
from training.inference.predictor import Predictor
from training.network.checkpoint import load_model
from training.network.deeplab import Output, normalise
from training.network.difficulty_branch import DifficultyBranch, attended

EQUAL = {"supervised": "image", "distance": "probabilities", "images": "all"}
DEAL = {"balance": "share", "attention": 1}


class Lopsided(TinyNet):
    """Looks at single pixels, and believes in class 0 the more the further right they are."""

    def heads(self, deep, low):
        logits, embedding = super().heads(deep, low)
        ramp = torch.zeros_like(logits)
        ramp[:, 0] = torch.linspace(-1, 1, logits.shape[3])
        return Output(logits + ramp, embedding)


def supervised_part(trained, one):
    known = (one.target != IGNORE).numpy()
    target = np.where(known, one.target.numpy(), 0)
    return mean_over(cost(probabilities(trained.network, one.image), target), known)


def test_equal_is_cross_entropy_and_the_squared_distance_from_the_mirror_image():
    one, here = labelled(batch(pool=2)), step(methods={"equal": {**EQUAL, "weight": 3}})
    trained = method("equal", here, Lopsided, stride=1)
    found = trained(one, here)
    assert found["ce"].item() == pytest.approx(supervised_part(trained, one), rel=1e-5)
    images = torch.cat([one.image, one.image_u])
    p = probabilities(trained.network, images)
    back = probabilities(trained.network, images.flip(3))[..., ::-1]
    seen = np.concatenate([(one.target != IGNORE).numpy(), one.seen_u[0].numpy()])
    expected = 3 * mean_over(((p - back) ** 2).sum(1), seen)
    assert expected > 0.01
    assert found["consistency"].item() == pytest.approx(expected, rel=1e-4)


def test_equal_learns_the_bought_cells_of_pool_images_as_a_mean_of_their_own():
    one, here = labelled(batch(pool=2)), step(methods={"equal": {**EQUAL, "weight": 3}})
    here = here._replace(train=here.train.model_copy(update={"unlabelled_weight": 0.5}))
    trained = method("equal", here, Lopsided, stride=1)
    nothing = one._replace(target_u=torch.full_like(one.target_u, IGNORE))
    assert trained(nothing, here)["ce_u"].item() == 0
    cells = torch.full_like(one.target_u, IGNORE)
    cells[0, :2, 1:4], cells[1, 3, 0] = 1, 2
    known = (cells != IGNORE).numpy()
    right = cost(probabilities(trained.network, one.image_u), np.where(known, cells.numpy(), 0))
    found = trained(one._replace(target_u=cells), here)
    assert found["ce_u"].item() == pytest.approx(0.5 * mean_over(right, known), rel=1e-5)
    assert found["ce"].item() == pytest.approx(supervised_part(trained, one), rel=1e-5)


def test_a_network_that_turns_with_the_image_is_consistent():
    for settings in ({}, EQUAL):
        here = step(methods={"equal": settings})
        assert pixelwise("equal", here)(batch(pool=2), here)["consistency"].item() == pytest.approx(0.0, abs=1e-10)


def test_both_predictions_of_equal_learn():
    """d/dw of |p(w) - q(w)|^2 with both sides kept; one side alone gives half of it in sum, but not each."""
    one, here = batch(pool=2), step(methods={"equal": EQUAL})
    gradients = []
    for part in ("method", "both", "one side"):
        trained = method("equal", here, Lopsided, stride=1)
        if part == "method":
            loss = trained(one, here)["consistency"]
        else:
            x = normalise(torch.cat([one.image, one.image_u]))
            p, back = trained.network(x).logits.softmax(1), trained.network(x.flip(3)).logits.flip(3).softmax(1)
            back = back.detach() if part == "one side" else back
            seen = torch.cat([one.target != IGNORE, one.seen_u[0]])
            loss = (p - back).square().sum(1)[seen].mean()
        loss.backward()
        gradients.append(trained.network.head.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    assert (gradients[0] - gradients[2]).norm() > 0.1 * gradients[0].norm()


def attention(p):
    """(C, N) -> for each pixel j the sum over i of softmax_i(p_i . p_j) p_i."""
    similar = p.T @ p
    weight = np.exp(similar) / np.exp(similar).sum(0, keepdims=True)  # [i, j]
    return p @ weight


@pytest.mark.parametrize("classes", [7, 8, 16, 19])
def test_attention_never_makes_a_matrix_of_all_pairs(classes):
    """The flash kernel makes none; it refuses what it can not take, instead of leaving it to the plain one."""
    p = torch.rand(1, classes, 6, 5)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = attended(p)
    torch.testing.assert_close(
        found.flatten(2)[0], torch.from_numpy(attention(p.flatten(2)[0].numpy())), rtol=1e-5, atol=1e-6
    )


def set_branch(trained):
    branch = trained.network.difficulty
    with torch.no_grad():
        branch.gamma.fill_(0.7)
        branch.out.weight.copy_(torch.tensor([1.5, -2.0, 0.5]).view(1, 3, 1, 1))
        branch.out.bias.fill_(-0.3)


def test_deal_is_cross_entropy_and_the_weighted_cross_entropy_of_the_error_mask():
    one, here = labelled(batch()), step(methods={"deal": {**DEAL, "weight": 2}})
    trained = pixelwise("deal", here)
    set_branch(trained)
    found = trained(one, here)
    assert found["ce"].item() == pytest.approx(supervised_part(trained, one), rel=1e-5)

    p = probabilities(trained.network, one.image)
    known, target = (one.target != IGNORE).numpy(), one.target.numpy()
    wrong = known & (p.argmax(1) != target)
    assert 0 < wrong.sum() < known.sum() < known.size
    q = np.stack([one_p + 0.7 * attention(one_p.reshape(3, -1)).reshape(one_p.shape) for one_p in p])
    d = 1 / (1 + np.exp(-(np.einsum("c,bchw->bhw", [1.5, -2.0, 0.5], q) - 0.3)))
    right_share, wrong_share = 1 - wrong.sum() / known.sum(), wrong.sum() / known.sum()
    terms = right_share * -np.log(d[wrong]).sum() + wrong_share * -np.log(1 - d[known & ~wrong]).sum()
    assert found["difficulty"].item() == pytest.approx(2 * terms / known.sum(), rel=1e-5)


def test_what_is_wrong_is_a_share_of_all_workers_pixels():
    """The other rank has as many pixels and none is wrong: the mean count of wrong ones is half of this rank's."""
    one, alone = batch(), step(methods={"deal": DEAL})
    trained = pixelwise("deal", alone)
    logits = trained.network(normalise(one.image)).logits
    wrong = logits.argmax(1) != one.target
    d = trained.network.difficulty(logits).sigmoid()[:, 0].double()
    share = wrong.sum().item() / 2 / 128
    expected = -((1 - share) * d[wrong].log().sum() + share * (1 - d[~wrong]).log().sum()) / 128
    halved = alone._replace(mean_count=lambda n: n / 2 if n == wrong.sum() else n)
    assert 0 < wrong.sum() < 128
    assert trained(one, halved)["difficulty"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_network_that_is_right_or_wrong_everywhere_has_nothing_to_tell_apart():
    one, here = batch(), step(methods={"deal": DEAL})
    trained = pixelwise("deal", here)
    label = trained.network(normalise(one.image)).logits.argmax(1).byte()
    for target in (label, (label + 1) % CLASSES):
        assert trained(one._replace(target=target), here)["difficulty"].item() == 0.0


def test_the_difficultys_loss_trains_branch_and_network_and_cross_entropy_the_network_alone():
    one, here = batch(), step()
    trained = method("deal", here)
    set_branch(trained)
    parts = trained(one, here)
    parts["ce"].backward(retain_graph=True)
    assert all(p.grad is None for p in trained.network.difficulty.parameters())
    trained.zero_grad()
    parts["difficulty"].backward()
    assert all(p.grad.abs().sum() > 0 for p in trained.network.difficulty.parameters())
    assert trained.network.low.weight.grad.abs().sum() > 0
    assert trained.network.head.weight.grad.abs().sum() > 0


def test_the_branch_learns_which_predictions_are_wrong():
    """The network is kept: its class-0 pixels are wrong, all others right; d ends up above 1/2 on them alone."""
    one, here = batch(), step(methods={"deal": {"attention": 1}})
    trained = pixelwise("deal", here)
    with torch.no_grad():
        trained.network.head.weight.mul_(20)
    label = trained.network(normalise(one.image)).logits.argmax(1)
    assert 0.05 < (label == 0).float().mean() < 0.95
    one = one._replace(target=torch.where(label == 0, 1, label).byte())
    branch = trained.network.difficulty
    optimizer = torch.optim.SGD(branch.parameters(), lr=1.0, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        trained(one, here)["difficulty"].backward()
        optimizer.step()
    d = branch(trained.network(normalise(one.image)).logits)[:, 0] > 0
    assert (d == (label == 0)).float().mean() > 0.95


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 8, 11, 19])
def test_attention_is_the_softmax_of_dot_products_forward_and_backward(classes):
    p = noise(2, classes, 4, 5).softmax(1).requires_grad_()
    found = attended(p)
    expected = np.stack([attention(one.reshape(classes, -1)) for one in p.detach().numpy()]).reshape(p.shape)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10)
    assert torch.autograd.gradcheck(attended, noise(1, 3, 2, 2).softmax(1).requires_grad_())


def test_attention_turns_with_classes_and_pixels_and_keeps_what_is_the_same_everywhere():
    p = noise(1, 5, 3, 4).softmax(1)
    order, places = [3, 1, 4, 0, 2], torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(attended(p[:, order]), attended(p)[:, order])
    moved = p.flatten(2)[..., places].view_as(p)
    torch.testing.assert_close(attended(moved).flatten(2), attended(p).flatten(2)[..., places])
    flat = p[..., :1, :1].expand(-1, -1, 3, 4)
    torch.testing.assert_close(attended(flat), flat.contiguous())


def test_the_branch_begins_with_the_probabilities_alone_and_looks_at_a_smaller_map():
    branch, logits = DifficultyBranch(4, 0.5).double(), noise(2, 4, 10, 15)
    size = (5, 8)
    p = torch.nn.functional.interpolate(logits, size, mode="bilinear").softmax(1)
    torch.testing.assert_close(branch(logits), branch.out(p))
    other = DifficultyBranch(4, 1.0).double()
    other.load_state_dict(branch.state_dict())  # the checkpoint says how large
    assert torch.equal(other(logits), branch(logits))


def test_the_branch_is_in_single_precision_under_autocast():
    branch, logits = DifficultyBranch(4), noise(1, 4, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = branch(logits)
    assert found.dtype == torch.float32
    assert torch.equal(found, branch(logits.float()))


@pytest.mark.parametrize("acquisition", [pytest.param("deal_ds", marks=pytest.mark.slow), "deal_de"])
def test_a_run_of_deal_keeps_the_branch_asks_by_it_and_trains_on_the_answers(toy_data, tmp_path, acquisition):
    overrides = ("train.method=deal", f"query.acquisition={acquisition}", "reco.weight=0", "train.epochs=1")
    small_run(toy_data.root, tmp_path, *overrides)
    for cycle in (0, 1):
        folder = tmp_path / f"cycle-00{cycle}/checkpoint"
        state, meta = load_model(folder)
        assert meta["method"] == "deal"
        assert state["difficulty.gamma"] != 0
        predict = Predictor(folder, "cpu", precision="bf16")
        logits = predict(torch.zeros(1, 3, 48, 64, dtype=torch.uint8))
        branch = DifficultyBranch(6)
        branch.load_state_dict({k.removeprefix("difficulty."): v for k, v in state.items() if "difficulty" in k})
        assert torch.equal(predict.difficulty(logits), branch(logits))
        assert meta["labelled_images"] == (5 if not cycle else 24)  # every image got a cell
    assert "train/difficulty" in meta["history"][-1]


def test_a_run_of_equal_with_the_published_network(toy_data, tmp_path):
    overrides = ("train.method=equal", "query.acquisition=equal", "reco.weight=0", "model.decoder=none")
    overrides = (*overrides, "train.epochs=1", "train.batch_size_unlabelled=1")
    small_run(toy_data.root, tmp_path, *overrides)
    state, meta = load_model(tmp_path / "cycle-001/checkpoint")
    assert (meta["method"], meta["model"]["decoder"]) == ("equal", "none")
    metas = [read_json(tmp_path / f"cycle-00{cycle}/checkpoint/meta.json") for cycle in (0, 1)]
    assert metas[0]["labelled_images"] == metas[1]["labelled_images"]  # bought cells stay with the pool's images
    assert [meta["pool_images"] > 0 for meta in metas] == [False, True]  # of which alone the cells' images are seen
    assert not [name for name in state if "low_level" in name]
    assert {"train/ce", "train/consistency"} <= set(meta["history"][-1])
    assert Predictor(tmp_path / "cycle-001/checkpoint", "cpu").difficulty is None
