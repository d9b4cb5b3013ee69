"""Which mask belongs to which image: by name, without the suffixes that tools add to masks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets.files.layout import Part
from benchmarks.datasets.files.listing import FORMAT, LOSSLESS, READ, Listing, list_images, named
from querying.base.errors import UserError


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images by their name below the folder, without file type, each with its mask or None; `said` of what was left
    out or recognised."""

    of: Mapping[str, tuple[Path, Path | None]]
    said: tuple[str, ...]


def find_pairs(part: Part, mask_suffix: str | None = None, image_suffix: str = "") -> Pairs:
    """Pair IMAGES/a/b.jpg with MASKS/a/b.png, or with MASKS/a/b_mask.png where `mask_suffix` is `_mask`.

    Without `mask_suffix` one that all masks have is found.  `image_suffix` is taken off the images' names before they
    are compared.  UserError names an image or mask that can not be read, a mask without an image, and two files of one
    name.
    """
    images, masks = list_images(part.images), Listing() if part.masks is None else list_images(part.masks, LOSSLESS)
    if part.masks is not None and part.masks != part.images and part.masks.is_relative_to(part.images):
        images.images = [path for path in images.images if not path.is_relative_to(part.masks)]
    if part.masks == part.images:  # both kinds in one folder: only the suffix tells them apart
        if not mask_suffix:
            raise UserError(f"{part.images}: images and masks in one folder need --mask-suffix, such as _mask")
        images.images = [path for path in images.images if not path.stem.endswith(mask_suffix)]
        masks.images = [path for path in masks.images if path.stem.endswith(mask_suffix)]
        masks.left_out = {}
    refuse_formats(images, READ)
    said = images.notes()
    others: list[Path] = []
    if mask_suffix:
        others = [path for path in masks.images if not path.stem.endswith(mask_suffix)]
        masks.left_out.pop(FORMAT, None)
        masks.images = [path for path in masks.images if path.stem.endswith(mask_suffix)]
    refuse_formats(masks, LOSSLESS)
    said += masks.notes() + ([f"left out: {named(others, why=f'no {mask_suffix} in the name')}"] if others else [])
    image_of, mask_of = by_stem(part.images, images.images), by_stem(part.masks or part.images, masks.images)
    key_of = {_key(stem.removesuffix(image_suffix)): stem for stem in image_of}
    if mask_suffix is None:
        mask_suffix = _common_suffix(mask_of, key_of, part)
        if mask_suffix:
            said.append(f"masks are called NAME{mask_suffix}, as {next(iter(mask_of.values()))}")
    mask_of = {stem.removesuffix(mask_suffix): path for stem, path in mask_of.items()}
    found = {key_of[key]: path for stem, path in mask_of.items() if (key := _key(stem)) in key_of}
    lost = [path for stem, path in mask_of.items() if _key(stem) not in key_of]
    if lost:
        raise _lost(lost, part, image_of)
    return Pairs({stem: (path, found.get(stem)) for stem, path in image_of.items()}, tuple(said))


def by_stem(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their path below `folder` without suffix.  Two of one name are a UserError: skipping would hide one."""
    found: dict[str, Path] = {}
    keys: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if (twin := keys.setdefault(_key(stem), path)) != path:
            raise UserError(f"{path}: {twin} has the same name without suffix")
        found[stem] = path
    return found


def _key(stem: str) -> str:
    """macOS writes accents apart from their letters, other systems do not: it is the same name."""
    return unicodedata.normalize("NFC", stem)


def refuse_formats(found: Listing, suffixes: Sequence[str]) -> None:
    """UserError where there are images of another format: to leave them out would make another data set."""
    if paths := found.left_out.get(FORMAT):
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        raise UserError(f"{paths[0]}{more}: must be one of {', '.join(suffixes)}: convert, move or remove it")


def _common_suffix(mask_of: Mapping[str, Path], key_of: Mapping[str, str], part: Part) -> str:
    """The one suffix that makes every mask's name an image's; nothing where names are equal or none fits."""
    lost = [_key(stem) for stem in mask_of if _key(stem) not in key_of]
    if not lost:
        return ""
    fits = None
    for stem in lost:
        here = {stem[gap.start() :] for gap in re.finditer(r"[-_. ]", stem) if stem[: gap.start()] in key_of}
        fits = here if fits is None else fits & here
        if not fits:
            return ""
    assert fits is not None
    if len(lost) < len(mask_of) or len(fits) > 1:
        shown = " or ".join(sorted(fits))
        raise UserError(
            f"{part.masks}: {len(lost)} of {len(mask_of)} masks have names that end with {shown}:"
            f" say which masks count: --mask-suffix {shown.split(' ')[0]}, or --mask-suffix '' for equal names"
        )
    return fits.pop()


def _lost(lost: Sequence[Path], part: Part, image_of: Mapping[str, Path]) -> UserError:
    folded = {path.stem.lower(): path for path in image_of.values()}
    near = next((folded[path.stem.lower()] for path in lost if path.stem.lower() in folded), None)
    hint = (
        f"; {near} differs in case or folder"
        if near
        else "; --mask-suffix, --images and --masks say how they are called"
    )
    relative = lost[0].relative_to(part.masks or part.images).with_suffix("")
    return UserError(
        f"{lost[0]}: there is no image {part.images / relative}.png or .jpg for this mask"
        f"{f' (and {len(lost) - 1} more)' if len(lost) > 1 else ''}{hint}"
    )
