"""EquAL's training (Golestaneh & Kitani 2020): an image and its mirror image are to be predicted alike.

L = CE(p(x_l), y) + CE(p(x_u), bought cells) + w * mean ||p(x) - mirror(p(mirror(x)))||^2 over labelled and pool
images; both predictions learn.  The second term is a mean over the bought cells of the pool images, which pass the
network anyway, times `train.unlabelled_weight`: among the labelled images they would take the places of images that are
known whole (docs/decisions.md, 26).

One pass holds the images and their mirror images, so it costs twice as much as the same batch of another method.  The
squared Euclidean distance of probabilities (a sum over the classes, in [0, 2]) and its weight are our reading of
"pixel-wise self-consistency"; the paper's own could not be looked up.  The acquisition is `equal`.
"""

import torch

from querying.labels import IGNORE
from training.batch import Batch
from training.methods.method import Method
from training.methods.parts import Parts, Step, classify, pixel_mean, supervise
from training.model import normalise
from training.upsampled import full_size


class EquAL(Method):
    on_the_fly = True
    cells_in_pool = True

    def forward(self, batch: Batch, step: Step) -> Parts:
        image = normalise(torch.cat([batch.image, batch.image_u]))
        seen_BHW = torch.cat([batch.target != IGNORE, batch.seen_u[0]])
        logits, mirrored = self.network(torch.cat([image, image.flip(3)])).logits.chunk(2)
        p, p_back = (full_size(z, batch.target.shape[1:]).float().softmax(1) for z in (logits, mirrored.flip(3)))
        apart_BHW = (p - p_back).square().sum(1)
        known = len(batch.image)
        return {
            "ce": supervise(logits[:known], batch.target, step),
            "ce_u": step.train.unlabelled_weight * classify(logits[known:], batch.target_u, step),
            "consistency": step.methods.equal.weight * pixel_mean(apart_BHW, seen_BHW, seen_BHW, step),
        }
