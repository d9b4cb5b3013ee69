"""DPT, the linear head and the MLP over the encoder's levels, each beside a second derivation in NumPy and float64."""

import numpy as np
import pytest
import torch
from torch import nn

from training.network.dpt import DPT, DPTHead, dpt_widths
from training.network.linear_head import JoinedMaps, LinearHead, MixedMaps


def convolve(x, state, name, stride=1):
    """A 3x3 or 1x1 convolution that keeps the size (before the stride), as a sum over its taps."""
    weight = state[f"{name}.weight"]
    margin = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    rows, columns = x.shape[2:]
    total = np.zeros((len(x), len(weight), rows, columns))
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            part = padded[:, :, row : row + rows, column : column + columns]
            total += np.einsum("bchw,oc->bohw", part, weight[:, :, row, column])
    bias = state.get(f"{name}.bias")
    return total[:, :, ::stride, ::stride] + (0 if bias is None else bias[:, None, None])


def enlarge(x, state, name):
    """A transposed convolution whose stride is its size: every cell becomes a block of its own."""
    weight = state[f"{name}.weight"]
    side = weight.shape[2]
    blocks = np.einsum("bchw,coij->bohiwj", x, weight)
    batch, channels, rows, _, columns, _ = blocks.shape
    return blocks.reshape(batch, channels, rows * side, columns * side) + state[f"{name}.bias"][:, None, None]


def stretch(x, size, *, corners=True):
    """Bilinear interpolation, each output from its two neighbours along an axis."""
    for axis, after in zip((2, 3), size, strict=True):
        before, place = x.shape[axis], np.arange(after)
        if corners:
            at = place * (before - 1) / max(after - 1, 1)
        else:
            at = np.clip((place + 0.5) * before / after - 0.5, 0, before - 1)
        low = np.minimum(at.astype(int), max(before - 2, 0))
        high, share = np.minimum(low + 1, before - 1), at - low
        shape = [1] * 4
        shape[axis] = after
        x = np.take(x, low, axis) * (1 - share.reshape(shape)) + np.take(x, high, axis) * share.reshape(shape)
    return x


def relu(x):
    return np.maximum(x, 0)


def residual(x, state, name):
    return x + convolve(relu(convolve(relu(x), state, f"{name}.conv1")), state, f"{name}.conv2")


def fused(levels, state):
    """From the coarsest level to the finest."""
    levels = [convolve(level, state, f"reduce.{number}") for number, level in enumerate(levels)]
    x = residual(levels[3], state, "fuse.3.refine")
    x = convolve(stretch(x, levels[2].shape[2:]), state, "fuse.3.out")
    for number, size in ((2, levels[1].shape[2:]), (1, levels[0].shape[2:]), (0, None)):
        x = residual(x + residual(levels[number], state, f"fuse.{number}.join"), state, f"fuse.{number}.refine")
        x = stretch(x, size or [2 * side for side in x.shape[2:]])
        x = convolve(x, state, f"fuse.{number}.out")
    return x


def plain_pyramid(maps, state):
    first, second, third, fourth = (convolve(x, state, f"reassemble.{number}.0") for number, x in enumerate(maps))
    return [
        enlarge(first, state, "reassemble.0.1"),
        enlarge(second, state, "reassemble.1.1"),
        third,
        convolve(fourth, state, "reassemble.3.1", stride=2),
    ]


def numbers(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def some_maps(channels, sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, count, *size, generator=g, dtype=torch.float64)
        for count, size in zip(channels, sizes, strict=True)
    ]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (1, 2)])
def test_dpt_on_a_plain_transformer_is_its_second_derivation(grid):
    decoder = DPT((24,) * 4, (14,) * 4).double()
    maps = some_maps((24,) * 4, [grid] * 4)
    found = decoder(*maps).detach().numpy()
    state = numbers(decoder)
    assert found.shape == (2, decoder.channels, 8 * grid[0], 8 * grid[1])
    np.testing.assert_allclose(found, fused(plain_pyramid([x.numpy() for x in maps], state), state), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [[(8, 12), (4, 6), (2, 3), (1, 2)], [(9, 13), (5, 7), (3, 4), (2, 2)]])
def test_dpt_on_a_pyramid_takes_its_levels_as_they_are(sizes):
    channels = (6, 8, 12, 48)
    decoder = DPT(channels, (4, 8, 16, 32)).double()
    maps = some_maps(channels, sizes)
    found = decoder(*maps).detach().numpy()
    assert found.shape == (2, 8, 2 * sizes[0][0], 2 * sizes[0][1])
    np.testing.assert_allclose(found, fused([x.numpy() for x in maps], numbers(decoder)), rtol=0, atol=1e-12)


def test_the_classifier_of_dpt_is_its_second_derivation():
    head = DPTHead(8, 3).double()
    x, state = some_maps((8,), [(5, 7)])[0], numbers(head)
    expected = convolve(relu(convolve(x.numpy(), state, "conv")), state, "out")
    np.testing.assert_allclose(head(x).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_every_parameter_of_dpt_has_a_gradient_and_its_input_stays_as_it_was():
    for channels, strides, sizes in (
        ((24,) * 4, (14,) * 4, [(2, 3)] * 4),
        ((8, 8, 16, 24), (4, 8, 16, 32), [(8, 8), (4, 4), (2, 2), (1, 1)]),
    ):
        decoder = DPT(channels, strides).double()
        maps = some_maps(channels, sizes)
        before = [x.clone() for x in maps]
        decoder(*maps).sum().backward()
        assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []
        assert all(torch.equal(*pair) for pair in zip(maps, before, strict=True))


@pytest.mark.parametrize(
    ("dimension", "levels", "channels"),
    [
        (384, (48, 96, 192, 384), 64),
        (768, (96, 192, 384, 768), 128),
        (1024, (256, 512, 1024, 1024), 256),
        (1536, (1536,) * 4, 384),
        (192, (24, 48, 96, 192), 32),
        (32, (8, 8, 16, 32), 8),
    ],
)
def test_widths_are_those_that_are_published_and_follow_one_rule_elsewhere(dimension, levels, channels):
    assert dpt_widths(dimension) == (levels, channels)


@pytest.mark.parametrize(("dimension", "millions"), [(384, 2.7), (768, 10.9)])
def test_a_decoder_has_as_many_parameters_as_the_authors_say(dimension, millions):
    """With the residual unit that their coarsest level has and does not use."""
    parts = nn.ModuleList([DPT((dimension,) * 4, (14,) * 4), DPTHead(dimension // 6, 19)])
    count = sum(parameter.numel() for parameter in parts.parameters())
    assert not any(f"0.reduce.{level}.bias" in parts.state_dict() for level in range(4))
    unused = 2 * (9 * (dimension // 6) ** 2 + dimension // 6)
    assert round((count + unused) / 1e6, 1) == millions


def normalised(x, state, name, *, training):
    """BatchNorm by its definition."""
    axes = (0, 2, 3)
    mean, var = x.mean(axes), x.var(axes)
    if not training:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / np.sqrt(var + 1e-5)
    return x * scale[:, None, None] + (state[f"{name}.bias"] - mean * scale)[:, None, None]


def disturbed(module):
    """Other numbers in BatchNorm than those that change nothing."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return module


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_the_linear_head_is_a_batch_norm_and_a_matrix(plain, training):
    channels = (5, 5, 5, 5) if plain else (3, 4, 5, 6)
    strides = (14,) * 4 if plain else (4, 8, 16, 32)
    sizes = [(3, 4)] * 4 if plain else [(24, 32), (12, 16), (6, 8), (3, 4)]
    joined = disturbed(JoinedMaps(channels, strides)).double().train(training)
    head = LinearHead(joined.channels, 3).double()
    state, matrix, maps = numbers(joined), numbers(head), some_maps(channels, sizes)
    state = {name: value.copy() for name, value in state.items()}
    found = head(joined(*maps)).detach().numpy()
    x = np.concatenate([one.numpy() for one in (maps if plain else maps[-1:])], axis=1)
    assert joined.channels == x.shape[1]
    x = normalised(x, state, "bn", training=training)
    expected = np.einsum("bchw,oc->bohw", x, matrix["out.weight"][..., 0, 0]) + matrix["out.bias"][:, None, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("corners", [True, False])
def test_the_mlp_over_the_levels_is_its_second_derivation(corners):
    channels, sizes = (3, 4, 5, 6), [(9, 13), (5, 7), (3, 4), (2, 2)]
    mixed = disturbed(MixedMaps(channels, 8, align_corners=corners)).double().eval()
    maps, state = some_maps(channels, sizes), numbers(mixed)
    levels = [
        stretch(convolve(x.numpy(), state, f"project.{number}"), sizes[0], corners=corners)
        for number, x in enumerate(maps)
    ]
    x = normalised(convolve(np.concatenate(levels[::-1], axis=1), state, "mix"), state, "bn", training=False)
    found = mixed(*maps).detach().numpy()
    assert found.shape == (2, mixed.channels, *sizes[0])
    np.testing.assert_allclose(found, relu(x), rtol=0, atol=1e-12)
