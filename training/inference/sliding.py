"""Sliding-window inference: the network sees windows of the size that it was trained on, and overlaps are averaged.

Shape suffixes: B = images, C = classes, H and W = pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.settings import unscaled

Predict = Callable[[Tensor, float], Tensor]
"""(images (B, 3, H, W), scale) -> logits at any resolution."""


def starts(extent: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every `stride`, the last one shifted back to end at the border."""
    last = max(0, extent - window)
    return [*range(0, last, stride), last]


def probabilities(predict: Predict, images_BCHW: Tensor, *, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Mean over the windows that see a pixel of the softmax at full resolution; float32 (B, C, H, W).

    No window is cut off at the border and none is padded; an image smaller than a window is one window.
    """
    height, width = images_BCHW.shape[2:]
    tall, wide = min(window[0], height), min(window[1], width)
    align_corners = bool(getattr(predict, "align_corners", False))
    total, seen_HW = None, torch.zeros(height, width)
    for top in starts(height, tall, stride[0]):
        for left in starts(width, wide, stride[1]):
            place = (slice(top, top + tall), slice(left, left + wide))
            logits_BChw = predict(images_BCHW[:, :, *place], 1.0)
            full = F.interpolate(logits_BChw.float(), (tall, wide), mode="bilinear", align_corners=align_corners)
            full = full.softmax(1)
            if total is None:
                total = full.new_zeros(len(full), full.shape[1], height, width)
                seen_HW = seen_HW.to(full.device)
            total[:, :, *place] += full
            seen_HW[place] += 1
    assert total is not None
    return total.div_(seen_HW)


class Windowed:
    """A network that looks at windows, in the place of one that looks at whole images: (uint8 images (B, 3, H, W),
    scale) -> logarithms of `probabilities`, float32 (B, C, H, W).

    At every scale the network sees windows of about the same size, so that they show the less of an image the larger it
    is made.  Where one takes in the whole image, the result differs from the logits by a number for each pixel, which a
    softmax does not see.
    """

    def __init__(self, load: Callable[[], Predict], window: tuple[int, int], stride: tuple[int, int]) -> None:
        self.predict, self.window, self.stride = load(), window, stride
        self.align_corners = bool(getattr(self.predict, "align_corners", False))
        self.device = getattr(self.predict, "device", torch.device("cpu"))

    @torch.inference_mode()
    def __call__(self, images_BCHW: Tensor, scale: float = 1.0) -> Tensor:
        def scaled(part_BCHW: Tensor, _: float) -> Tensor:
            return self.predict(part_BCHW, scale)

        scaled.align_corners = self.align_corners  # type: ignore[attr-defined]
        window, stride = unscaled(self.window, scale), unscaled(self.stride, scale)
        p_BCHW = probabilities(scaled, images_BCHW, window=window, stride=stride)
        return p_BCHW.clamp_min_(torch.finfo(p_BCHW.dtype).tiny).log_()
