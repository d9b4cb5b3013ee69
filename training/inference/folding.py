"""Networks for inference: BatchNorm multiplied into the convolution before it, activations applied by the convolution.

Both save passes over memory, and change the function by rounding at most.  Shape suffix: O = output channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.kernels.activations import ACTIVATIONS
from training.network.decoder import UpsampleConcatConv

PROBE = 64
"""Side of the image that shows which module reads which convolution."""


@torch.no_grad()
def fold_batch_norm(model: nn.Module, apart: nn.Module | None = None) -> None:
    """Fold, in place, every BatchNorm of a network in evaluation mode, but for those of its part `apart`; an activation
    that timm joins to it stays.

    Pairs are found by running the network once, not by names or by the order of modules.  ValueError in training mode,
    or where a BatchNorm does not read a convolution of its own.
    """
    if model.training:
        raise ValueError("BatchNorm can only be folded in evaluation mode")
    pairs, left = _fed_by_a_convolution(model, nn.BatchNorm2d, apart), _modules(apart)
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.BatchNorm2d) or norm in left:
            continue
        if norm not in pairs:
            raise ValueError(f"{name}: it does not follow a convolution of its own")
        conv = pairs[norm]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_O = (norm.running_var.double() + norm.eps).rsqrt() * norm.weight.double()
        shift_O = norm.bias.double() - norm.running_mean.double() * scale_O
        if conv.bias is not None:
            shift_O = shift_O + conv.bias.double() * scale_O
        conv.bias = _constant(shift_O, conv.weight)
        conv.weight = _constant(conv.weight.double() * scale_O.view(-1, 1, 1, 1), conv.weight)
        _replace(model, name, getattr(norm, "act", nn.Identity()))


def fuse_activations(model: nn.Module, apart: nn.Module | None = None) -> None:
    """Let plain convolutions, but for those of the part `apart`, apply the ReLU or ReLU6 that reads them; float32 on a
    CPU with oneDNN, else nothing.

    Inference only: the fused operation has no gradient.
    """
    weight = next(model.parameters())
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not known:
        return
    pairs = {act: conv for kind in ACTIVATIONS for act, conv in _fed_by_a_convolution(model, kind, apart).items()}
    names = {module: name for name, module in model.named_modules()}
    for act, conv in pairs.items():
        if not isinstance(conv, UpsampleConcatConv):
            _replace(model, names[conv], ConvAct(conv, act))
            _replace(model, names[act], nn.Identity())


class ConvAct(nn.Module):
    """A convolution and the activation after it in one pass."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.kind, self.limits = ACTIVATIONS[type(act)]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        conv = self.conv
        place = (conv.padding, conv.stride, conv.dilation, conv.groups)
        # What TorchInductor calls for a frozen network; torch has no public name for it.
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_BCHW, conv.weight, conv.bias, *place, self.kind, self.limits, ""
        )
        return fused


def round_to_bf16(model: nn.Module, exact: Mapping[str, torch.dtype]) -> None:
    """Round a network's weights to bfloat16, in place, but for the parts named in `exact`: these compute in
    float32 and hand on the type that is given."""
    parts = {name: model.get_submodule(name) for name in exact}
    for name in exact:
        _replace(model, name, nn.Identity())
    model.to(torch.bfloat16)
    for name, part in parts.items():
        _replace(model, name, _Exact(part, exact[name]))


class _Exact(nn.Module):
    def __init__(self, part: nn.Module, out: torch.dtype) -> None:
        super().__init__()
        self.part, self.out = part.float(), out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.part(x_BCHW.float()).to(self.out)  # type: ignore[no-any-return]


def _constant(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, by)


def _modules(part: nn.Module | None) -> set[nn.Module]:
    return set(part.modules()) if part is not None else set()


def _fed_by_a_convolution(
    model: nn.Module, kind: type[nn.Module], apart: nn.Module | None = None
) -> dict[nn.Module, nn.Conv2d]:
    """Modules of a kind, outside `apart`, -> the convolution whose output they read, where no other module of it or of
    this kind does."""
    made: dict[int, tuple[Tensor, int, nn.Conv2d]] = {}  # holds the tensors, or an id could be given twice
    readers: dict[int, list[nn.Module]] = {}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for given in inputs:
            # Another version is another value: an activation or a sum has been computed in place.
            if id(given) in made and made[id(given)][1] == given._version:
                readers.setdefault(id(given), []).append(module)

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (output, output._version, module)

    hooks, left = [], _modules(apart)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, kind)) and module not in left:
            hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    weight = next(model.parameters())
    try:
        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode have no version
            model(torch.zeros(1, 3, PROBE, PROBE, dtype=weight.dtype, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    single = {place: found[0] for place, found in readers.items() if len(found) == 1}
    return {module: made[place][2] for place, module in single.items() if isinstance(module, kind)}
