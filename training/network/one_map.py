"""Networks whose decoder joins all of the encoder's maps into one, which one head classifies: DPT, a linear head, an
MLP over the levels.

Shape suffixes: B = images, C = channels of a map of the encoder, D = channels of the joined map, h and w = cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from training.network.dpt import DPT, DPTHead
from training.network.linear_head import JoinedMaps, LinearHead, MixedMaps
from training.network.segmenter import Output, Segmenter, Widths

if TYPE_CHECKING:
    from training.settings.training import ModelSettings


class OneMapNetwork(Segmenter):
    """Built by `training.network.deeplab.build_model`.

    Its logits have as many cells as the joined map.  With `dpt` these are 8 for a plain transformer's patch along a
    side, and stride 2 behind an encoder whose first map has stride 4; with `mlp` the first map's stride; with `linear`
    the last one's.  Dropout is of the joined map, and so are the extras, the core-set's features and CCT's
    disturbances.  The representation head has the form of the class head and reads the same map.
    """

    def __init__(
        self, settings: ModelSettings, num_classes: int, *, embedding: bool, modules: Path | None = None
    ) -> None:
        super().__init__(settings, modules)
        channels: tuple[int, ...] = self.encoder.channels  # type: ignore[assignment]
        own = (4, settings.output_stride)  # of an encoder of the user's own
        strides: tuple[int, ...] = own if settings.own_encoder else self.encoder.strides  # type: ignore[assignment]
        self.join: DPT | JoinedMaps | MixedMaps
        if settings.decoder == "dpt":
            self.join = DPT(channels, strides)
        elif settings.decoder == "mlp":
            self.join = MixedMaps(channels, settings.decoder_channels, align_corners=settings.align_corners)
        else:
            self.join = JoinedMaps(channels, strides)
        self.dropout = nn.Dropout(settings.dropout)
        head = DPTHead if settings.decoder == "dpt" else LinearHead
        self.class_head = head(self.join.channels, num_classes)
        # A head that no loss uses would stall distributed training, so it exists only on request.
        self.embedding_head = head(self.join.channels, settings.embedding_dim) if embedding else None

    def neck(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """The joined map alone, (B, D, h, w)."""
        return (self.dropout(self.join(*maps)),)

    def heads(self, *features: Tensor) -> Output:
        (joined,) = features
        embedding = None if self.embedding_head is None else self.embedding_head(joined)
        return Output(self.class_head(joined), embedding)

    @property
    def last_dropout(self) -> nn.Module:
        return self.dropout

    def widths(self) -> Widths:
        embedding = 0 if self.embedding_head is None else self.embedding_head.out.out_channels
        return Widths(self.class_head.out.out_channels, self.join.channels, embedding, doublings=0)

    @property
    def unfolded(self) -> nn.Module | None:
        return self.join if isinstance(self.join, JoinedMaps) else None
