"""Validated settings of the query.  Imports nothing heavy: a wrong key must be found before torch is loaded."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from querying.base.own_code import IMPORT_PATH


class Settings(BaseModel):
    """Frozen, complete, and strict about names: a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python would take true for 1, and 1 for true."""
        wants_bool = cls.model_fields[info.field_name or ""].annotation is bool
        given = value if isinstance(value, (list, tuple)) else [value]
        if not wants_bool and any(isinstance(one, bool) for one in given):
            raise ValueError("true and false are no values of this key")
        if wants_bool and isinstance(value, (int, float)) and not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value


def scaled_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """Height and width of an image of `size` at one of `query.scales`."""
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


DIFFICULTY_NAMES = ("deal_ds", "deal_de")
"""Acquisitions that read the difficulty branch, which `train.method=deal` trains."""
ACQUISITION_NAMES = (
    "entropy", "least_confidence", "margin", "random", "bald", "flip", "flip_entropy", "equal", "coreset",
    *DIFFICULTY_NAMES,
)  # fmt: skip
Unit = Literal["cell", "image", "pixel"]
Extra = Literal["classes", "mixtures", "features"]
"""Files beside the scores: see `querying.scoring.extra_files`."""
EXTRAS: tuple[Extra, ...] = ("classes", "mixtures", "features")


WHOLE_IMAGES = ("bald", "coreset", *DIFFICULTY_NAMES)
"""Acquisitions that need more of the network than its logits."""
Window = tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]]
Stride = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


def check_stride(window: Window | None, stride: Stride | None) -> None:
    """ValueError where windows would leave pixels unseen."""
    if stride is None:
        return
    if window is None:
        raise ValueError("stride needs a window")
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError("the stride is larger than the window, which would leave pixels unseen")


def unscaled(window: Window, scale: float) -> Window:
    """What a window of an image at this scale shows of the image itself."""
    return math.ceil(window[0] / scale), math.ceil(window[1] / scale)


def stride_of(window: Window, stride: Stride | None) -> Stride:
    """The stride, by default two thirds of the window (CPS, U2PL, UniMatch)."""
    return stride or (math.ceil(window[0] * 2 / 3), math.ceil(window[1] * 2 / 3))


class QuerySettings(Settings):
    acquisition: str = Field("entropy", examples=list(ACQUISITION_NAMES))
    """Per-pixel score of which a region's is the mean: one of ACQUISITION_NAMES, or a function of the user's own as
    `package.module:function`.  `coreset` looks at whole images."""
    passes: int = Field(10, ge=2)
    """Dropout passes of `bald`."""
    levels: int = Field(8, ge=2)
    """Bins of difficulty in `deal_de`'s histogram (published: 8 to 10)."""
    unit: Unit = "cell"
    """What is bought: regions, whole images, or single pixels (PixelPick), which are regions of size 1."""
    region_size: int = Field(30, ge=1)
    """Side of a square region in pixels, not the image's: 30 asks for 30x30 pixels at a time, and an image of 360x480
    has 12 x 16 such regions."""
    per_image: int = Field(4, ge=0)
    """Regions or pixels to buy per pool image and cycle; 0 asks nothing (self-training only).  Not of unit `image`."""
    images: int = Field(0, ge=0)
    """Whole images to buy per cycle; of unit `image` alone."""
    top_share: float = Field(0.05, gt=0, le=1)
    """Unit `pixel`: pixels are drawn at random from this share of an image's pixels, the best that can be bought."""
    select: Literal["per_image", "global", "class_balanced", "diverse"] = "per_image"
    """`per_image`: the best regions of each image (the paper); `global`: as many in total, wherever they are;
    `class_balanced`: so, but a region counts the less the more regions are predicted to be of its class; `diverse`: as
    many of the `candidates` times as many best, far from each other in what they are predicted to be."""
    candidates: int = Field(4, ge=1)
    """Candidates of select `diverse`: so many times as many as are bought."""
    threshold: float = Field(0.7, gt=0, le=1)
    """Confidence from which a prediction becomes a pseudo-label."""
    class_share: float | None = Field(None, gt=0, le=1)
    """Thresholds by class (CBST, Zou et al. 2018): each so low that this share of the pixels predicted as the class
    reaches it, and at most `threshold`; a pixel gets the class whose probability is the largest multiple of its
    threshold.  Rare classes, of which a network is seldom sure, then stay among the pseudo-labels.  The pool passes the
    network once more.  null: one threshold for all (the paper)."""
    scales: tuple[Annotated[float, Field(ge=0.1, le=4)], ...] = Field((0.5, 1.0, 2.0), min_length=1)
    """Image scales whose logits are averaged for scoring and pseudo-labels."""
    window: Window | None = None
    """Height and width of a sliding window in which the network looks at an image when it scores and pseudo-labels, at
    every scale; default: the whole image at once.  Averaged are the probabilities of the windows that see a pixel.  Not
    with `bald`, `coreset` and DEAL's acquisitions, whose further passes look at whole images."""
    stride: Stride | None = None
    """Between these windows; default: two thirds of the window."""
    exclude_border: bool = True
    """Leave the outermost ring of regions out of the query."""
    batch_size: int | Literal["auto"] = 4
    """Images per forward pass when scoring and evaluating: a number from 1, or `auto`, the fastest that memory allows:
    tried on the machine that scores, before the first pass, and kept in `batch_size.json` of the run, since another one
    may change the last bits of a score.  Val is looked at during training with 4 at a time then."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network when it scores and pseudo-labels; evaluation is always float32.  bf16 changes some 0.3 %
    of the labels, and pays only on a GPU or a processor with AVX-512 BF16 or AMX."""
    actors: int = Field(1, ge=1)
    """Scorer actors (Ray back end)."""
    threads: int = Field(2, ge=1)
    """CPU threads of one scorer; part of the result, since another number changes the last bits."""

    @field_validator("acquisition")
    @classmethod
    def _known_acquisition(cls, value: str) -> str:
        if value in ACQUISITION_NAMES or IMPORT_PATH.fullmatch(value):
            return value
        names = ", ".join(repr(name) for name in ACQUISITION_NAMES)
        raise PydanticCustomError("literal_error", f"Input should be {names} or package.module:function")

    @field_validator("batch_size", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, (int, float)) and value == value // 1 and value >= 1):
            raise ValueError("expected a number from 1, or auto")
        return value

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        if self.unit != "cell" and self.select != "per_image":
            raise ValueError(f"query.select={self.select} is of regions: query.unit={self.unit} needs select=per_image")
        if self.unit == "image":
            if not self.images:
                raise ValueError("query.unit=image needs query.images: how many whole images to buy per cycle")
            if self.region_size == 1:
                raise ValueError("query.unit=image with query.region_size=1: the ledger would hold a row per pixel")
        elif self.images:
            raise ValueError(f"query.images={self.images} is of whole images: it needs query.unit=image")
        elif self.acquisition == "coreset":
            raise ValueError(
                "query.acquisition=coreset chooses whole images: it needs query.unit=image, query.images=N"
            )
        if self.unit == "pixel" and self.region_size != 1:
            raise ValueError(f"query.unit=pixel needs query.region_size=1, not {self.region_size}")
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        check_stride(self.window, self.stride)
        if self.window and self.acquisition in WHOLE_IMAGES:
            raise ValueError(
                f"query.window with query.acquisition={self.acquisition}, which looks at whole images: set"
                " query.window=null"
            )
        return self

    @property
    def images_at_once(self) -> int:
        """`batch_size`, where it is to be found its default."""
        return 4 if self.batch_size == "auto" else self.batch_size

    @property
    def buys_parts(self) -> bool:
        """Whether images become known in part."""
        return self.unit != "image" and self.asked > 0

    @property
    def asked(self) -> int:
        """What a cycle asks for (whole images, or regions per image); 0 where it asks nothing."""
        return self.images if self.unit == "image" else self.per_image

    @property
    def leaves_border_out(self) -> bool:
        """A whole image has its border."""
        return self.exclude_border and self.unit != "image"

    @property
    def extra(self) -> Extra | None:
        """What the choice needs beside the scores."""
        if self.acquisition == "coreset":
            return "features"
        if self.select == "class_balanced":
            return "classes"
        return "mixtures" if self.select == "diverse" else None
