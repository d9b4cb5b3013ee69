"""`--peer NAME=PATH`: time a checkout of a peer that the user has made, beside ours, in the same turns.

Nothing of a peer is kept here.  An adapter is a function that takes the folder and gives the forms to time; to add one,
write it and list it in PEERS.

reco  lorenmt/reco: `compute_reco_loss` of its module_list.py, on the same embedding, labels and probabilities.
s4al  aneesh3108/S4AL: the network of its networks/ folder (MobileNetV2, random weights), forward, as it scores.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.performance.result import Result, found
from benchmarks.performance.timing import interleaved, milliseconds
from querying.base.errors import UserError

Forms = dict[str, Callable[[], object]]


def parse_peer(words: str) -> tuple[str, Path]:
    """`NAME=PATH`; UserError where it is not, the name is unknown, or the folder does not exist."""
    name, equals, path = words.partition("=")
    if not equals or not path:
        raise UserError(f"--peer {words}: give it as NAME=PATH")
    if name not in PEERS:
        raise UserError(f"--peer {name}: no such peer; known are {', '.join(PEERS)}")
    if not Path(path).is_dir():
        raise UserError(f"--peer {name}: {path} is not a folder")
    return name, Path(path)


def time_peer(name: str, folder: Path, *, rounds: int = 3, threads: int = 2) -> Result:
    """Ours over the peer's, in images or steps a second."""
    torch.set_num_threads(threads)
    what, make = PEERS[name]
    seconds = interleaved(make(folder), rounds)
    return found(
        f"peer_{name}", what, f"{folder}, {threads} threads", seconds["peer"] / seconds["ours"],
        ms=milliseconds(seconds),
    )  # fmt: skip


def reco_forms(folder: Path, size: tuple[int, int] = (90, 120)) -> Forms:
    """Forward and backward pass of the loss over 6 images at `size`, 11 classes, 256 channels."""
    from training.losses.reco import reco_loss
    from training.settings.training import ReCoSettings

    peer_loss = part_of(load(folder, "module_list.py"), "compute_reco_loss", folder)
    settings, generator = ReCoSettings(), torch.Generator().manual_seed(0)
    embed = torch.randn(6, 256, *size, generator=generator).requires_grad_()
    coarse = torch.randint(11, (6, 3, 4), generator=generator)
    label = coarse.repeat_interleave(-(-size[0] // 3), 1).repeat_interleave(-(-size[1] // 4), 2)
    label = label[:, : size[0], : size[1]]
    prob = torch.rand(6, 11, *size, generator=generator)
    one_hot = torch.nn.functional.one_hot(label, 11).permute(0, 3, 1, 2)
    own = prob.gather(1, label.unsqueeze(1))[:, 0]

    def ours() -> None:
        loss = reco_loss(
            embed, label, own, temperature=settings.temperature, queries=settings.queries,
            negatives=settings.negatives, hard_threshold=settings.hard_threshold, generator=generator,
        )  # fmt: skip
        torch.autograd.grad(loss, embed)

    def peer() -> None:
        loss = peer_loss(
            embed, one_hot, torch.ones(6, 1, *size), prob, strong_threshold=settings.hard_threshold,
            temp=settings.temperature, num_queries=settings.queries, num_negatives=settings.negatives,
        )  # fmt: skip
        torch.autograd.grad(loss, embed)

    return {"ours": ours, "peer": peer}


def s4al_forms(folder: Path, size: tuple[int, int] = (360, 480)) -> Forms:
    """The scoring forward pass of 4 images, float32: ours as it scores, the peer's network as it stands."""
    from benchmarks.performance.subject import trained
    from training.inference.predictor import Predictor
    from training.network.deeplab import normalise

    # It imports a module that newer versions of torchvision no longer have, for a download that is not wanted here.
    gone = types.ModuleType("torchvision.models.utils")
    gone.load_state_dict_from_url = None  # type: ignore[attr-defined]
    sys.modules.setdefault(gone.__name__, gone)
    make = part_of(load(folder, "networks/__init__.py"), "get_deeplab", folder)
    network = make(backbone="mbv2", num_classes=11, pretrained_flag=False).eval()
    images = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8)
    ready = normalise(images).contiguous()
    with tempfile.TemporaryDirectory() as checkpoint:
        predict = Predictor(trained(Path(checkpoint)), "cpu")

    @torch.inference_mode()
    def peer() -> object:
        return network(ready)

    return {"ours": lambda: predict(images, 1.0), "peer": peer}


def load(folder: Path, name: str) -> types.ModuleType:
    """A module of a checkout, under a name of its own; UserError where it is not there or can not be imported."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: does not exist, so {folder} is not a checkout of this peer")
    is_package = path.name == "__init__.py"
    spec = importlib.util.spec_from_file_location(
        f"peer_{path.parent.name if is_package else path.stem}", path,
        submodule_search_locations=[str(path.parent)] if is_package else None,
    )  # fmt: skip
    assert spec, path
    assert spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[spec.name]
        raise UserError(f"{path}: can not be imported: {error}") from error
    return module


def part_of(module: types.ModuleType, name: str, folder: Path) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{module.__file__}: has no {name}, so {folder} is not a checkout of this peer")
    return found


PEERS: dict[str, tuple[str, Callable[[Path], Forms]]] = {
    "reco": ("ReCo, forward and backward, over lorenmt/reco", reco_forms),
    "s4al": ("scoring forward, fp32, over the network of aneesh3108/S4AL", s4al_forms),
}
