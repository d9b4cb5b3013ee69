"""What a training consists of, made from its job: data, networks and optimiser."""

import itertools
import sys

import numpy as np
import torch

from querying.base.allocator import keep_freed_memory
from querying.base.environment import note_machine
from querying.base.errors import DamagedError
from querying.base.files import sha256
from querying.base.forms import use_plain_forms
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from training.batches.training_data import TrainingData
from training.fit.job import TrainJob
from training.kernels.precision import keep_float32
from training.method_parts.method import Method, NewNetwork
from training.network.deeplab import build_model
from training.network.first_weights import load_backbone, load_previous
from training.network.segmenter import Segmenter
from training.settings.traits import traits_of

SWITCH_S = 0.0005
"""What other threads may keep the one waiting that launches kernels; Python's own 5 ms are a fifth of a step."""


def checked_index(job: TrainJob) -> DataIndex:
    """The data set; DamagedError where it, or the file of first weights, was replaced under the run."""
    index = DataIndex.load(job.data)
    if job.data_sha256 not in (None, index.digest):
        raise DamagedError(f"{index.root}/index.json: was replaced under the run, which is of another data set")
    if job.backbone and job.backbone_sha256 not in (None, sha256(job.backbone)):
        raise DamagedError(f"{job.backbone}: was altered under the run, which began from other weights")
    return index


def prepare_process(job: TrainJob, gpu: bool) -> None:
    torch.set_num_threads(job.train.threads)
    use_plain_forms(job.train.kernels == "plain")
    keep_freed_memory()
    note_machine(job.out, gpu)
    if gpu:
        sys.setswitchinterval(SWITCH_S)
        keep_float32()


def training_data(job: TrainJob, index: DataIndex, kind: type[Method], *, looks_apart: bool) -> TrainingData:
    traits = traits_of(job.train.method)
    return TrainingData(
        index,
        Ledger(job.ledger),
        job.cycle,
        RegionGrid(index.height, index.width, job.region_size),
        job.pseudo if traits.pool == "pseudo" else (),
        augment=job.augment,
        crop=job.train.crop or (index.height, index.width),
        seed=job.seed,
        views=kind.views(job.methods) if traits.labels_pool else None,
        cells_in_pool=traits.cells_in_pool,
        looks_apart=looks_apart,
        by_class=job.train.labelled_draw == "classes",
    )


def new_networks(job: TrainJob, num_classes: int, device: torch.device) -> NewNetwork:
    """Makes networks with the ImageNet encoder and fresh heads from the seed: every cycle starts anew (S4AL+ section
    4.1), and every network of a method with other heads.  Where the job has a `previous` checkpoint, the first network
    is that one (`train.start=previous`)."""
    made = itertools.count()

    def new_network(embedding: bool) -> Segmenter:
        number = next(made)
        entropy = [job.seed, job.cycle, *([0, 0, number] if number else [])]  # a step's seed has four numbers
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
        model = build_model(job.model, num_classes, embedding=embedding, modules=job.modules)
        if job.backbone:
            load_backbone(model, job.backbone)
        if job.previous and not number:
            load_previous(model, job.previous)
        if job.train.sync_bn and device.type == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm  # knows timm's BatchNorm with activation

            model = convert_sync_batchnorm(model)
        return model.to(memory_format=torch.channels_last)

    return new_network
