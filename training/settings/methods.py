"""Settings of the semi-supervised methods; defaults are those that their authors published for Cityscapes.

Network, optimiser, number of steps, augmentation and evaluation are the recipe's, the same for every method.
Imports nothing heavy (see querying/settings.py).
"""

from typing import Literal

from pydantic import Field, model_validator

from querying.settings import Settings
from training.settings.systems import DEALSettings, EquALSettings, S4ALSettings, Share
from training.settings.training import ModelSettings, ReCoSettings, TrainSettings
from training.settings.traits import traits_of


class Area(Settings):
    """Boxes that are cut out of one image and pasted into another (CutMix)."""

    low: float = Field(gt=0, le=1)
    """Least share of the image."""
    high: float = Field(gt=0, le=1)
    """Share of the image that the boxes cover together, at least and at most."""

    @model_validator(mode="after")
    def _ordered(self) -> "Area":
        if self.low > self.high:
            raise ValueError("low is larger than high")
        return self


class MeanTeacherSettings(Settings):
    decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged teacher: how much of it a step keeps."""
    weight: float = Field(100.0, ge=0)
    """Weight of the squared difference of probabilities, a mean over pixels and classes."""
    ramp: Share = 0.1
    """Share of the steps over which the weight grows to its value."""


class CPSSettings(Settings):
    weight: float = Field(6.0, ge=0)
    """Published: 6 on Cityscapes, 5 with CutMix; 1.5 on VOC."""
    ramp: Share = 0.0
    """Share of the steps over which the weight grows to its value.  0, as published, gives it from the start: from
    fresh heads both networks then soon agree on one class everywhere.  With a weight of 6 labels free a class again
    only where OHEM (`train.ohem=0.7`) counts less than a sixth of the pixels (docs/how_it_works/fidelity.md), so that
    a ramp is needed until most are right (ours; `s4al splits` has 0.4)."""
    passes: Literal["separate", "joint"] = "separate"
    """Labelled and pool images pass a network one after the other, so that BatchNorm normalises each by its own
    statistics (the authors' code), or in one batch (ours)."""
    cutmix: bool = False
    """Learn the pool alone, on images that are mixed by boxes (CPS + CutMix)."""
    boxes: int = Field(3, ge=1)
    """Boxes of each mixed image."""
    area: Area = Area(low=0.25, high=0.5)


class CCTSettings(Settings):
    """As published for VOC: there are no settings for Cityscapes."""

    weight: float = Field(30.0, ge=0)
    """Weight of the squared difference of probabilities, a mean over pixels and classes."""
    ramp: Share = 0.1
    """Share of the steps over which the weight grows to its value."""
    noise: int = Field(6, ge=0)
    """Decoders whose features are multiplied by 1 + U(-noise_size, noise_size); likewise the counts below."""
    noise_size: float = Field(0.3, ge=0)
    """Half the width of the noise."""
    dropout: int = Field(6, ge=0)
    """Whole channels dropped."""
    dropout_rate: float = Field(0.5, ge=0, lt=1)
    """Share of the channels that are dropped."""
    drop: int = Field(6, ge=0)
    """The places dropped whose mean feature is at least U(drop_above) times the largest."""
    drop_above: tuple[Share, Share] = (0.7, 0.9)
    """Least and largest share of the strongest feature from which places are dropped."""
    vat: int = Field(2, ge=0)
    """Adversarial direction."""
    vat_size: float = Field(2.0, gt=0)
    """Length of the adversarial direction, of each image."""
    vat_probe: float = Field(0.1, gt=0)
    """Length at which the direction is probed (published: 1e-6, which float32 can not resolve)."""
    decoder: Literal["relu", "linear"] = "relu"
    """What stands before each doubling of an auxiliary decoder.  `relu`: a ReLU, and first weights that are equal for
    the four pixels of a place (ICNR), as in the authors' code; `linear`: nothing, and PyTorch's first weights (ours).
    """

    @model_validator(mode="after")
    def _some(self) -> "CCTSettings":
        if not self.noise + self.dropout + self.drop + self.vat:
            raise ValueError("noise, dropout, drop and vat are all 0: there is no decoder to be consistent")
        return self


class UniMatchSettings(Settings):
    threshold: Share = 0.0
    """Confidence below which a pseudo-label is not learned; published: 0 on Cityscapes, 0.95 on VOC."""
    cutmix: Share = 0.5
    """Probability that a strong view gets a box of another image."""
    area: Area = Area(low=0.02, high=0.4)
    feature_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of the channels that the feature view drops."""


class UniMatchV2Settings(Settings):
    decay: float = Field(0.996, ge=0, lt=1)
    """Decay of the averaged teacher: how much of it a step keeps."""
    threshold: Share = 0.95
    """Confidence of the teacher below which a pseudo-label is not learned."""
    cutmix: Share = 0.5
    """Probability that a strong view gets a box of another image."""
    area: Area = Area(low=0.02, high=0.4)
    whole: Share = 0.5
    """Share of the pairs of strong views, rounded down, that keep all channels of the encoder's features; in the others
    each view has the channels that the other has not."""


class U2PLSettings(Settings):
    decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged teacher: how much of it a step keeps."""
    weight: float = Field(1.0, ge=0)
    """Weight of the reliable pixels' cross entropy."""
    unreliable: Share = 0.2
    """Share of the pool's pixels that are not learned at the start; it falls to 0 linearly."""
    cutmix: Share = 0.5
    """Probability that a pool image gets a box, half its area, of another one."""
    contrast: float = Field(0.1, gt=0)
    """Weight of the contrast (the paper's; the code's default is one over the number of GPUs)."""
    temperature: float = Field(0.5, gt=0)
    """Temperature of the contrast: what cosine similarities are divided by."""
    anchors: int = Field(50, ge=1)
    """Per class and step (the code: 256)."""
    negatives: int = Field(50, ge=1)
    """Per anchor."""
    confident: Share = 0.3
    """The teacher's probability of an anchor's class is above it."""
    low_rank: int = Field(3, ge=1)
    """Labelled pixels of other classes that rank the class below this become negatives."""
    high_rank: int = Field(20, ge=1)
    """Rank of a class among a pixel's probabilities, from 0: likely below `low_rank`, no negative from `high_rank`
    on."""
    memory: int = Field(30_000, ge=1)
    """Embeddings kept per class (the code: 50,000 for class 0); they are in every saved state, 4 bytes a number."""


class AELSettings(Settings):
    decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the averaged teacher: how much of it a step keeps."""
    momentum: float = Field(0.999, ge=0, lt=1)
    """Momentum of the bank of confidences; a class's first values are averaged until there are 1 / (1 - momentum)."""
    weight: float = Field(1.0, ge=0)
    """Weight of the pool's cross entropy."""
    focus: float = Field(2.0, ge=0)
    """Power of the teacher's confidence that weighs a pixel."""
    threshold: Share = 0.0
    """Confidence below which a pseudo-label is not learned; published: 0 on Cityscapes, 0.7 on VOC."""
    copy_paste: Share = 0.5
    """Probability that a labelled image gets pixels of another one."""
    pasted: int = Field(3, ge=1)
    """Draws of a class to paste; one may come twice, or not be in the other image."""
    cutmix: Share = 1.0
    """Probability that a pool image gets a box of another one."""
    held: Share = 0.01
    """Share of an image that a class has at least, for it to be cut out of this one rather than any other."""
    component: Share = 0.005
    """Share of an image that a connected part of the class is above, for the box to be around it."""


class SelfTrainingSettings(Settings):
    mean: Literal["all", "known", "apart"] = "all"
    """Cross entropy of a student.  `all`: one mean over all pixels of labelled and pool images together, ignored ones
    count in the denominator (the authors' code of S4AL+); `known`: the same over the known pixels (that of ST++);
    `apart`: the sum of two means, one over the labelled images and one over the pool, as `train.normalise` says
    (ours)."""


class STPlusPlusSettings(Settings):
    reliable: float = Field(0.5, gt=0, lt=1)
    """Share of the pool's images that the first student learns, rounded down; the others wait for its labels."""


class MethodSettings(Settings):
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    st_plus_plus: STPlusPlusSettings = STPlusPlusSettings()
    u2pl: U2PLSettings = U2PLSettings()
    cct: CCTSettings = CCTSettings()
    mean_teacher: MeanTeacherSettings = MeanTeacherSettings()
    cps: CPSSettings = CPSSettings()
    unimatch: UniMatchSettings = UniMatchSettings()
    unimatch_v2: UniMatchV2Settings = UniMatchV2Settings()
    ael: AELSettings = AELSettings()
    s4al: S4ALSettings = S4ALSettings()
    equal: EquALSettings = EquALSettings()
    deal: DEALSettings = DEALSettings()


def check_method(train: TrainSettings, methods: MethodSettings, cycles: int, queried: int) -> None:
    """ValueError where a method can not label the pool as it is meant to; `queried` is what a cycle asks per image."""
    traits = traits_of(train.method)
    if traits.cycles not in (None, cycles):
        raise ValueError(
            f"train.method={train.method} trains a teacher and two students: it needs cycles={traits.cycles},"
            f" not {cycles}"
        )
    if queried and not traits.queries:
        raise ValueError(
            f"train.method={train.method} asks nothing: it needs query.per_image=0 (query.images=0 for whole images)"
        )
    if train.pool_labels == "truth" and traits.pool != "pseudo":
        raise ValueError(f"train.pool_labels=truth needs train.method=self_training or st++, not {train.method}")
    if traits.pool == "pseudo" and train.ohem is not None and methods.self_training.mean != "apart":
        raise ValueError("train.ohem is a mean of its own: it needs methods.self_training.mean=apart")
    if not traits.labels_pool:
        return
    if cycles and not queried:
        raise ValueError(
            f"train.method={train.method} labels the pool while it trains: without a query it needs cycles=0"
        )
    if train.method == "u2pl" and train.workers > 1:
        raise ValueError("train.method=u2pl keeps one memory of negatives: it needs train.workers=1")
    if train.method == "ael" and train.batch_size // train.workers < 2:
        raise ValueError("train.method=ael needs at least 2 labelled images per worker (copy-paste): train.batch_size")
    epochs = min(train.epochs, train.last_epochs or train.epochs)
    if train.method == "s4al" and epochs <= methods.s4al.cold_start:
        raise ValueError(
            f"train.method=s4al learns nothing of the pool in the first {methods.s4al.cold_start} epochs"
            f" (methods.s4al.cold_start): {epochs} (train.{'epochs' if epochs == train.epochs else 'last_epochs'})"
            " are too few"
        )
    if train.method == "s4al" and methods.s4al.cold_start and train.batch_size // train.workers < 2:
        raise ValueError("train.method=s4al needs at least 2 labelled images per worker (cold start): train.batch_size")
    if train.method == "cps" and methods.cps.passes == "separate":
        for key in ("batch_size", "batch_size_unlabelled"):
            if getattr(train, key) // train.workers < 2:
                raise ValueError(f"methods.cps.passes=separate needs at least 2 images per worker: train.{key}")
    mixes = traits.mixes or (train.method == "cps" and methods.cps.cutmix)
    if train.batch_size_unlabelled // train.workers < 1 + mixes:
        needed = "2 pool images per worker (CutMix)" if mixes else "a pool image per worker"
        raise ValueError(f"train.method={train.method} needs at least {needed} in a step: train.batch_size_unlabelled")


def check_parts(train: TrainSettings, model: ModelSettings, reco: ReCoSettings, images: int) -> None:
    """ValueError where a step of so many `images` a worker can not be computed in parts of `train.micro_batch`."""
    if train.micro_batch is None:
        return
    if not traits_of(train.method).divisible:
        raise ValueError(f"train.method={train.method} needs a step's images together: it needs train.micro_batch=null")
    for key, there in (("reco.weight=0", reco.weight), ("train.ohem=null", train.ohem)):
        if there:
            raise ValueError(f"train.micro_batch needs {key}, whose pixels are chosen among all of a step's")
    if model.decoder in ("plus", "none") and images // -(-images // train.micro_batch) < 2:
        raise ValueError(
            f"train.micro_batch={train.micro_batch} leaves a single image of {images} in a part, and BatchNorm of the"
            " image pool needs 2"
        )


def check_network(train: TrainSettings, model: ModelSettings, reco: ReCoSettings) -> None:
    """ValueError where a loss needs a head that the network has not."""
    if model.decoder == "none" and reco.weight:
        raise ValueError("model.decoder=none has no representation head: it needs reco.weight=0")
    if model.decoder == "none" and train.method == "u2pl":
        raise ValueError("train.method=u2pl needs a representation head: model.decoder=none has none")
    if train.method == "unimatch_v2" and model.decoder in ("plus", "none") and train.batch_size // train.workers < 2:
        raise ValueError(
            f"train.method=unimatch_v2 passes the labelled images alone, and BatchNorm of model.decoder={model.decoder}"
            " needs 2 of them per worker: train.batch_size"
        )
