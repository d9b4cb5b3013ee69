"""Which file the first weights are in.  Imports nothing heavy: a wrong path is found before torch is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from querying.base.errors import UserError

HUB_FILE = "model.safetensors"
"""What a folder of huggingface's hub (a snapshot, or what its website gives) calls its weights."""
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".tar")


def weight_file(path: Path, backbone: str, said: str | None = None) -> Path:
    """The file itself, or the one of this encoder in a folder: `<backbone>*.safetensors`, else `model.safetensors`,
    whose `config.json` names it.  UserError, one line, where there is none or more than one, or it holds pickles; it
    has the path as it was `said`."""
    where = f"model.weights={said or path}"
    if path.suffix in PICKLES:
        raise UserError(
            f"{where}: {path.suffix} files can run code when they are read: convert it once to"
            " safetensors, as docs/use/encoders.md shows"
        )
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"{where}: no such file (or `imagenet`, or `none`)")
        return path
    files = [file for file in sorted(path.glob(f"{backbone}*.safetensors")) if _is_of(file.stem, backbone)]
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise UserError(f"{where}: {len(files)} files are of {backbone} ({names}): name one of them")
    if files:
        return files[0]
    if (path / HUB_FILE).is_file():
        return _hub_file(path, backbone)
    pickled = next((file for file in sorted(path.iterdir()) if file.suffix in PICKLES), None)
    instead = f", but {pickled.name}, which has to be converted to safetensors" if pickled else ""
    raise UserError(f"{where}: no {backbone}*.safetensors and no {HUB_FILE} in this folder{instead}")


def _is_of(stem: str, backbone: str) -> bool:
    """Not so resnet50d's file where resnet50's is looked for."""
    return not stem[len(backbone) :][:1].isalnum()


def _hub_file(folder: Path, backbone: str) -> Path:
    config = folder / "config.json"
    try:
        found = json.loads(config.read_text())["architecture"]
    except FileNotFoundError:
        return folder / HUB_FILE  # its keys are compared when it is read
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config}: names no architecture of timm ({type(error).__name__})") from None
    if found != backbone.split(".")[0]:
        raise UserError(f"{config}: these are weights of {str(found)[:80]!r}, model.backbone={backbone}")
    return folder / HUB_FILE
