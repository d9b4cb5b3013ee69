"""Validated settings of network and training.  Imports nothing heavy (see querying/settings.py)."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from querying.base.own_code import IMPORT_PATH
from querying.settings import Settings, Stride, Window, check_stride, stride_of
from training.settings.traits import TRAITS, is_method

BACKBONES = ("mobilenetv2_100", "resnet50", "resnet101s")
"""Encoders of the shipped recipes, whose last bits are older than the other ones of timm."""
TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
"""timm's name of a network, and of its weights behind a point; whether there is such a one is known to timm."""
VAL_SPLIT = "val"
"""What is looked at during training, where anything is."""
Probability = Annotated[float, Field(ge=0, le=1)]


def one_word(keys: Any) -> Any:
    """The keys of `model` with `encoder` under its older word `backbone`; ValueError where both say something else."""
    if not isinstance(keys, dict) or "encoder" not in keys:
        return keys
    rest = {key: value for key, value in keys.items() if key != "encoder"}
    if rest.setdefault("backbone", keys["encoder"]) != keys["encoder"]:
        raise ValueError(
            f"encoder={keys['encoder']} and backbone={rest['backbone']} are two words for one key: give one of them"
        )
    return rest


class ModelSettings(Settings):
    backbone: str = Field("mobilenetv2_100", examples=list(BACKBONES))
    """The encoder: any network of timm that gives feature maps (`resnet101s` has the deep stem of CPS and U2PL; a name
    of weights may follow, as in `convnext_tiny.in12k_ft_in1k`), or a function of the user's own that builds one, as
    `package.module:function`.  `model.encoder` is another word for this key."""
    output_stride: Literal[8, 14, 16, 32] = 16
    """Pixels of the image for one of the encoder's last map: 8, 16 or 32 where timm can dilate the network, else the
    stride that it has."""
    decoder: Literal["plus", "none", "dpt", "linear", "mlp"] = "plus"
    """`plus`: DeepLabv3+; `none`: DeepLabv3, which classifies ASPP's map at the output stride (EquAL) and has no
    representation head; `dpt`: that of dense prediction transformers, widths by the encoder (UniMatch V2 on DINOv2);
    `linear`: BatchNorm and a 1x1 convolution of the last map, for a plain vision transformer of four joined depths;
    `mlp`: SegFormer's, over four levels.  The last three read four maps of timm's encoders."""
    weights: str = "imagenet"
    """`imagenet` (download), `none`, or a safetensors file or a folder that holds `<backbone>*.safetensors`; an encoder
    of the user's own takes `none` or a file."""
    aspp_channels: int = Field(256, ge=8)
    """Channels of each branch of ASPP, and of what it gives."""
    decoder_channels: int = Field(256, ge=8)
    """Channels of the 3x3 convolutions of `plus`, and of the joined map of `mlp`."""
    low_level_channels: int = Field(48, ge=8)
    """Channels to which the encoder's map at stride 4 is reduced."""
    embedding_dim: int = Field(256, ge=2)
    """Channels of the representation that ReCo contrasts."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """After the ASPP projection; of the joined map with the decoders `dpt`, `linear` and `mlp`."""
    class_head: Literal["plain", "deal"] = "plain"
    """`deal` (the authors' code of DEAL): a second 3x3 convolution, and dropout of 0.5 and 0.2 behind the two; needs
    `decoder=plus`."""
    head_init: Literal["ours", "kaiming", "pytorch"] = "ours"
    """First weights outside the encoder: Kaiming normal, but a deviation of 0.01 in the class head's last layer (ours);
    `kaiming` there, too (code of DEAL and CPS); PyTorch's own (code of S4AL+ and S4AL)."""
    dilation: Literal["stages", "last"] = "stages"
    """Dilation of MobileNetV2 at output stride 16: of all blocks behind the stride that is left out (timm, ours), or of
    the last block alone (code of S4AL+ and DEAL).  Other encoders and strides are the same with either."""
    align_corners: bool = False
    """Bilinear upsampling of features and logits puts the corners' centres on each other (code of S4AL+, S4AL, DEAL and
    CPS), or the corners (ours)."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth, linear over the encoder's blocks."""

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        if TIMM_NAME.fullmatch(value) or IMPORT_PATH.fullmatch(value):
            return value
        raise PydanticCustomError(
            "literal_error", "Input should be the name of a timm network or package.module:function"
        )

    @model_validator(mode="before")
    @classmethod
    def _two_words(cls, keys: Any) -> Any:
        return one_word(keys)

    @model_validator(mode="after")
    def _fits(self) -> "ModelSettings":
        if self.own_encoder and self.weights == "imagenet":
            raise ValueError(
                f"weights=imagenet is of timm's encoders: backbone={self.backbone} needs weights=none or a safetensors"
                " file with its names"
            )
        if self.backbone in BACKBONES and self.output_stride == 14:
            raise ValueError(f"output_stride=14 is of vision transformers: backbone={self.backbone} takes 8, 16 or 32")
        if self.class_head == "deal" and self.decoder != "plus":
            raise ValueError(f"class_head=deal is of decoder=plus: decoder={self.decoder} has no such head")
        if self.own_encoder and self.decoder == "dpt":
            raise ValueError(
                f"decoder=dpt reads four maps, of which an encoder of your own gives two: backbone={self.backbone}"
                " takes decoder=plus, linear or mlp"
            )
        return self

    @property
    def own_encoder(self) -> bool:
        """Whether the encoder is the user's own."""
        return ":" in self.backbone


class ReCoSettings(Settings):
    """Regional contrast (Liu et al. 2021); `weight` 0 builds no representation head."""

    weight: float = Field(1.0, ge=0)
    """Weight of the contrast beside cross entropy."""
    temperature: float = Field(0.5, gt=0)
    """Temperature: what cosine similarities are divided by."""
    queries: int = Field(128, ge=1)
    """Pixels of each class that are contrasted in a step."""
    negatives: int = Field(256, ge=1)
    """Pixels of other classes for each query."""
    hard_threshold: float = Field(0.95, gt=0, le=1)
    """Queries are pixels whose own class has less than this probability."""


class AugmentSettings(Settings):
    scale_min: float = Field(0.5, gt=0.05, le=4)
    """Images are scaled by a factor between this one ..."""
    scale_max: float = Field(2.0, gt=0.05, le=4)
    """... and this one, then cropped."""
    flip: Probability = 0.5
    """Probability of a mirrored image."""
    blur: Probability = 0.5
    """Probability that a strong view is blurred; otherwise its colours may change."""
    blur_sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.25, 1.25)
    """Least and largest standard deviation of the blur in pixels."""
    colour: Probability = 0.5
    """Probability that the colours of a view that is not blurred change by `jitter`."""
    jitter: tuple[
        Annotated[float, Field(ge=0, le=1)],
        Annotated[float, Field(ge=0, le=1)],
        Annotated[float, Field(ge=0, le=1)],
        Annotated[float, Field(ge=0, le=0.5)],
    ] = (0.8, 0.8, 0.8, 0.2)
    """Brightness, contrast, saturation, hue, as in torchvision's ColorJitter."""
    greyscale: Probability = 0.75
    """Probability that a view whose colours change becomes grey, too."""
    cutout: Probability = 0.5
    """Probability that a strong view gets a hole, which is not learned."""
    sized_for: int | None = Field(None, ge=16)
    """Height of the images that `blur_sigma` and `cutout_size` are meant for; both are scaled to that of the data, and
    `greyscale`, too, where it is lower, since small images have less but colour to tell classes apart.  360 is the
    paper's CamVid.  null: pixels as they are given."""
    cutout_size: int = Field(50, ge=1)
    """Side of the CutOut hole in pixels."""
    colour_labelled: Probability = 0.0
    """Probability that a labelled image's colours change by `jitter`, too (code of S4AL: 0.5; S4AL+ and ours: 0)."""
    padding: Literal["corner", "centre", "reflect"] = "corner"
    """Padding of an image that is scaled to less than the crop: black at the bottom and right (ours), black on all
    sides (code of S4AL+), or its mirror image at the bottom and right (code of S4AL).  Padding is never learned."""

    def at(self, height: int) -> "AugmentSettings":
        """These for images so high: see `sized_for`."""
        if self.sized_for is None:
            return self
        low, high, scale = *self.blur_sigma, height / self.sized_for
        return self.model_copy(
            update={
                "blur_sigma": (low * scale, high * scale),
                "cutout_size": max(1, round(self.cutout_size * scale)),
                "greyscale": self.greyscale * min(1.0, scale),
            }
        )

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentSettings":
        if self.scale_min > self.scale_max:
            raise ValueError("scale_min is larger than scale_max")
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise ValueError("blur_sigma is not ordered")
        return self


class TrainSettings(Settings):
    method: str = Field("self_training", examples=list(TRAITS))
    """`self_training` is supervised in cycle 0, where nothing is pseudo-labelled yet, `st++` is too, and then
    self-training on the most reliable images first; `supervised` and `deal` learn what people labelled alone, with
    `teacher`'s keys in cycle 0; all others label the pool while they train, and need no cycle before.  A method of
    your own is `package.module:Class`."""
    epochs: int = Field(100, ge=1)
    """Epochs of a training; the rates fall over them."""
    last_epochs: int | None = Field(None, ge=1)
    """Epochs of the last cycle, where it is to be longer."""
    steps_per_epoch: int = Field(100, ge=1)
    """Optimiser steps of an epoch, whatever the number of images."""
    start: Literal["imagenet", "previous"] = "imagenet"
    """What the network of a cycle after the first begins with: `imagenet`, its encoder's first weights and fresh heads
    (the paper), or `previous`, the network of the cycle before.  Second networks (`cps`, `equal`) begin afresh.  Beside
    it belongs the control that learns nothing of the pool: `train.method=supervised query.per_image=0`."""
    labelled_draw: Literal["images", "classes"] = "images"
    """What the labelled images of a step are drawn by: `images`, each once a pass (the paper), or `classes`, each class
    once a pass, in a random image that shows it, cropped where it does (rare class sampling of Hoyer et al. 2022 with
    equal chances)."""
    batch_size: int = Field(2, ge=1)
    """Labelled images per step, over all workers."""
    batch_size_unlabelled: int = Field(4, ge=0)
    """Pool images per step, over all workers; `supervised` takes those with a bought cell, `deal` none."""
    micro_batch: int | None = Field(None, ge=1)
    """Most images, per worker, that pass the network at a time: a step's gradient is added up over such parts, for
    less memory.  The loss is that of the whole batch, to rounding, but for what looks at several images: BatchNorm
    takes its statistics of a part; and dropout draws anew.  For cross entropy alone (`supervised`, `self_training`,
    `st++`, without ReCo and OHEM).  null: all at once."""
    lr: float = Field(0.01, gt=0)
    """Learning rate of the backbone; heads get `head_lr_scale` times as much.  Per global batch, whatever the number of
    workers."""
    head_lr_scale: float = Field(10.0, gt=0)
    """Rate of everything but the encoder, as a multiple of `lr`."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Rate of each of the encoder's layers as a multiple of the next one's, by timm's own grouping (`group_matcher`);
    the deepest has this multiple of `lr`.  1: all learn alike."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum (the paper), or AdamW (Loshchilov & Hutter 2019), which transformers need."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decays of the gradient's mean and of its square's."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty of SGD; what AdamW shrinks weights by in a step, times the rate."""
    decayed: Literal["all", "weights"] | None = None
    """What `weight_decay` is of: `all` parameters (S4AL+ with SGD, UniMatch V2 with AdamW), or `weights` alone, not
    biases, norms, positions and class tokens (timm).  null: `all` with SGD, `weights` with AdamW."""
    clip_norm: float | None = Field(None, gt=0)
    """Length to which the gradient of all parameters together is shortened where it is longer; null: never."""
    schedule: Literal["poly", "cosine"] = "poly"
    """How the rates fall over the epochs: by `poly_power`, or as half a cosine to 0."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """First share of the steps, over which the rates rise linearly; they fall over the others."""
    poly_power: float = Field(0.9, ge=0)
    """With schedule `poly`, rates fall as (1 - epoch / epochs) to this power."""
    unlabelled_weight: float = Field(1.0, ge=0)
    """Weight of the cross entropy of pool images beside that of labelled ones."""
    pool_labels: Literal["pseudo", "truth"] = "pseudo"
    """What the pool is learned with: pseudo-labels, or its true labels as a control of a benchmark.  The control shows
    what self-training could bring at most in a schedule; it says nothing of few labels (`s4al headroom`)."""
    normalise: Literal["valid", "all"] = "valid"
    """Cross entropy divided by the known pixels, or by all pixels as the authors' code does."""
    ohem: float | None = Field(None, gt=0, lt=1)
    """Learn only the labelled pixels whose class has at most this probability (CPS, AEL, U2PL, UniMatch: 0.7), ..."""
    ohem_keep: int = Field(100_000, ge=1)
    """... but at least so many of each worker's batch."""
    crop: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] | None = None
    """Height and width of the training crop; default: the size of the data."""
    workers: int = Field(1, ge=1)
    """Ray Train workers; the global batch is divided among them."""
    threads: int = Field(2, ge=1)
    """CPU threads per worker; part of the result, since another number changes the last bits."""
    cuda_graph: bool = True
    """On a GPU, launch the network as one graph where the method and a single worker allow it."""
    kernels: Literal["fast", "plain"] = "fast"
    """`plain` trains, scores and evaluates with PyTorch's own layers and losses in place of our faster forms of the
    same functions: slower, and other last bits; for doubt, debugging and another architecture, in float32."""
    max_failures: int = Field(3, ge=0)
    """Lost workers to recover from before the stage gives up."""
    timeout: int = Field(300, ge=5, le=86_400)
    """Seconds after which a worker that does not answer, keeps the others waiting, or shows no sign of work (scorers)
    counts as lost (Ray back end)."""
    sync_bn: bool = False
    """BatchNorm takes its statistics over all workers (several GPUs)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of training: `auto` is bf16 autocast on a GPU, float32 on a CPU, where bf16 is faster only with AVX-512
    BF16."""
    checkpoint_epochs: int = Field(1, ge=1)
    """Epochs between two resumable checkpoints."""
    validate_epochs: int = Field(0, ge=0)
    """Epochs between two evaluations of the val split during training, the last epoch included; 0 makes none."""

    @model_validator(mode="after")
    def _plain_in_float32(self) -> "TrainSettings":
        if self.kernels == "plain" and self.precision == "bf16":
            raise ValueError(
                "kernels=plain needs precision=fp32 or auto: in bf16 PyTorch's own gradient of dilated depthwise"
                " convolutions is wrong on a CPU"
            )
        return self

    @model_validator(mode="after")
    def _of_the_optimizer(self) -> "TrainSettings":
        other = {"sgd": ("betas",), "adamw": ("momentum", "nesterov")}[self.optimizer]
        unused = [key for key in other if getattr(self, key) != type(self).model_fields[key].default]
        if self.schedule != "poly" and self.poly_power != type(self).model_fields["poly_power"].default:
            raise ValueError(
                f"poly_power is of schedule=poly, not of schedule={self.schedule}: leave it at its default"
            )
        if unused:
            raise ValueError(
                f"{unused[0]} is not of optimizer={self.optimizer}: leave it at its default,"
                f" {type(self).model_fields[unused[0]].default}"
            )
        return self

    @property
    def spares_small(self) -> bool:
        """Whether weight decay leaves biases, norms, positions and tokens alone."""
        return (self.decayed or {"sgd": "all", "adamw": "weights"}[self.optimizer]) == "weights"

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if is_method(value):
            return value
        names = ", ".join(repr(name) for name in TRAITS)
        raise PydanticCustomError("literal_error", f"Input should be {names} or package.module:Class")


class TeacherSettings(Settings):
    """What cycle 0 does differently; unset keys follow `train`."""

    epochs: int | None = Field(None, ge=1)
    """Of the training of cycle 0; null: those of `train`."""
    steps_per_epoch: int | None = Field(None, ge=1)
    """Of the training of cycle 0; null: those of `train`."""
    batch_size: int | None = Field(4, ge=1)
    """Labelled images a step in cycle 0; null: those of `train`."""


class EvaluateSettings(Settings):
    """How the reported mIoU is measured; `miou` is that of the last checkpoint."""

    best_on_val: bool = False
    """Also keep the weights of the epoch with the highest mIoU on val, and report theirs as `best_on_val` beside the
    last ones' (needs `train.validate_epochs`).  The teacher of the next cycle is always the last."""

    window: Window | None = None
    """Height and width of a sliding window; default: the whole image at once."""
    stride: Stride | None = None
    """Between windows; default: two thirds of the window (CPS, U2PL, UniMatch)."""

    @model_validator(mode="after")
    def _covers(self) -> "EvaluateSettings":
        check_stride(self.window, self.stride)
        return self

    def strides(self) -> tuple[int, int]:
        """The stride, with its default; needs a window."""
        assert self.window is not None
        return stride_of(self.window, self.stride)
