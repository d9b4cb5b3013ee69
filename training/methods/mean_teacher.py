"""Mean Teacher (Tarvainen & Valpola 2017; for segmentation French et al. 2020): be consistent with your own average.

L = CE(f(x_l), y) + w(t) * mean (p_student - p_teacher)^2 over labelled and pool images.  The two see different noise:
the student strong augmentation of the pool and dropout, the teacher the weak view.  The teacher averages parameters
and buffers, runs in evaluation mode, and is what is deployed.  (The version that CPS compares with gives both the same
input, without ramp, and deploys the student.)
"""

import torch

from querying.dataset.label_values import IGNORE
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method, NewNetwork
from training.method_parts.parts import MethodContext, Parts, pixel_mean, ramp_up, supervise
from training.method_parts.teacher import Teacher
from training.network.deeplab import normalise
from training.network.segmenter import Segmenter
from training.settings.methods import MeanTeacherSettings


class MeanTeacher(Method):
    strong_views = 1

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        self.teacher = Teacher(self.network)
        self.decay = context.methods.mean_teacher.decay

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings: MeanTeacherSettings = context.methods.mean_teacher
        size = batch.target.shape[1:]
        weak = torch.cat([batch.image, batch.image_u])
        noisy = torch.cat([batch.image, batch.strong_u[0]])
        seen_BHW = torch.cat([batch.target != IGNORE, batch.seen_u[1]])

        logits = full_size(self.network(normalise(noisy)).logits, size, context.align_corners)
        taught = full_size(self.teacher(normalise(weak)).logits, size, context.align_corners)
        apart_BHW = (wide(logits).softmax(1) - wide(taught).softmax(1)).square().mean(1)

        weight = settings.weight * ramp_up(context.done, settings.ramp)
        return {
            "ce": supervise(logits[: len(batch.image)], batch.target, context),
            "consistency": weight * pixel_mean(apart_BHW, seen_BHW, seen_BHW, context),
        }

    def after_step(self, number: int) -> None:
        self.teacher.follow(self.network, number, self.decay)

    def deployed(self) -> Segmenter:
        return self.teacher.network
