"""Positions of plain vision transformers, learned on one grid and used on another: derived a second time by hand.

timm's settings are those of DINOv2's authors but for the antialiasing: bicubic, corners not aligned, the class token's
position kept.
"""

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from querying.base.errors import UserError
from training.network.deeplab import build_model
from training.network.first_weights import load_backbone
from training.settings.training import ModelSettings

VITS = {"vit_tiny_patch16_224": (16, 14), "vit_small_patch14_dinov2": (14, 37)}
"""Pixels of a patch, and the side of the table of positions."""


def network(name, seed=0):
    torch.manual_seed(seed)
    stride, _ = VITS[name]
    settings = ModelSettings(encoder=name, decoder="linear", output_stride=stride, weights="none", embedding_dim=6)
    return build_model(settings, 3, embedding=False).eval()


def on_grid(table_1ND, side, rows, columns):
    """The first position is the class token's; the others lie in rows."""
    assert table_1ND.shape[1] == 1 + side * side
    first, grid = table_1ND[:, :1], table_1ND[0, 1:].reshape(side, side, -1).permute(2, 0, 1)
    found = F.interpolate(grid[None], (rows, columns), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, found[0].flatten(1).T[None]], dim=1)


def renormalised(image_BCHW, name):
    """From ImageNet's mean and deviation to those that timm's weights have seen."""
    cfg = timm.get_pretrained_cfg(name)
    mean, std, wanted, by = (
        torch.tensor(one).view(1, 3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), cfg.mean, cfg.std)
    )
    return (image_BCHW * std + mean - wanted) / by


@pytest.mark.parametrize("name", VITS)
@torch.inference_mode()
def test_an_image_of_another_size_has_the_positions_of_the_table_brought_to_its_grid(name):
    patch, side = VITS[name]
    encoder = network(name).encoder
    vit = encoder.net.model
    vit.pos_embed.normal_(generator=torch.Generator().manual_seed(1))  # first values are too small to be seen
    image = torch.randn(1, 3, 2 * patch + 3, 5 * patch, generator=torch.Generator().manual_seed(2))
    padded = renormalised(F.pad(image, (0, 0, 0, patch - 3)), name)  # with the mean colour
    patches = F.conv2d(padded, vit.patch_embed.proj.weight, vit.patch_embed.proj.bias, stride=patch)
    assert patches.shape[2:] == (3, 5)
    x_1ND = torch.cat([vit.cls_token, patches.flatten(2).transpose(1, 2)], dim=1)
    x_1ND = x_1ND + on_grid(vit.pos_embed, side, 3, 5)
    expected = []
    for number, block in enumerate(vit.blocks, 1):
        x_1ND = block(x_1ND)
        if number in (3, 6, 9, 12):
            expected.append(vit.norm(x_1ND)[:, 1:].transpose(1, 2).reshape(1, -1, 3, 5))
    found = encoder(image)
    assert len(found) == 4
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", [9, 20])
def test_a_weight_file_of_another_grid_is_brought_to_the_networks(tmp_path, other):
    name, (patch, side) = "vit_tiny_patch16_224", VITS["vit_tiny_patch16_224"]
    torch.manual_seed(3)
    state = timm.create_model(name, img_size=patch * other).state_dict()
    state["pos_embed"].normal_(generator=torch.Generator().manual_seed(4))
    save_file(state, tmp_path / f"{name}.safetensors")
    model = network(name)
    load_backbone(model, tmp_path)
    found = model.encoder.state_dict()
    torch.testing.assert_close(found["net.model.pos_embed"], on_grid(state["pos_embed"], other, side, side))
    assert torch.equal(found["net.model.blocks.3.attn.qkv.weight"], state["blocks.3.attn.qkv.weight"])
    del state["pos_embed"]
    save_file(state, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=r"pos_embed of vit_tiny_patch16_224 is missing"):
        load_backbone(model, tmp_path)
