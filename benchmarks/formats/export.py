"""`s4al annotate export`: a package in one of the formats, complete or not at all, and always the same bytes."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.formats import cvat, folder, labelstudio_out
from benchmarks.formats.shares import deal, with_pre
from orchestrator.annotation.package import AskedImage, Package
from querying.base.errors import InfrastructureError, UserError
from querying.base.failpoints import failpoint
from querying.base.files import check_folder, flush_below, make_folder, sha256, sync
from querying.base.leftovers import folder_beside, remove_beside

Format = Literal["labelstudio", "cvat", "folder"]
_log = logging.getLogger(__name__)


def export(
    package: Package,
    dst: Path,
    format_: Format,
    *,
    tag: labelstudio_out.Tag = "brush",
    annotators: int = 1,
    shared: float = 0.0,
    pre: float = 1.0,
) -> list[Sequence[AskedImage]]:
    """Write the package into the new folder `dst`, for several annotators into dst/1, dst/2, ...; who gets what.

    A `dst` that already holds just this is left as it is; anything else there is a UserError.  `pre`: the part of the
    images that come with a pre-annotation.
    """
    if annotators > len(package.images):
        raise UserError(f"--annotators {annotators}: there are only {len(package.images)} images to deal")
    target = dst.resolve()
    check_folder(target.parent)
    remove_beside(target, _log.warning)
    lists, chosen = deal(package, annotators, shared), with_pre(package, pre)
    try:
        make_folder(target.parent)
        with folder_beside(target) as staging:
            for place, images in enumerate(lists, 1):
                out = staging / str(place) if annotators > 1 else staging
                out.mkdir(exist_ok=True)
                if format_ == "labelstudio":
                    labelstudio_out.write(package, images, chosen, out, tag, str(place) if annotators > 1 else "")
                else:
                    (cvat if format_ == "cvat" else folder).write(package, images, chosen, out)
            flush_below(staging)
            failpoint("export:written")
            _publish(staging, target, dst)
            failpoint("export:renamed")
            sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InfrastructureError(f"{dst}: {error.strerror}: free some, or use another DST") from error
        if isinstance(error, PermissionError | NotADirectoryError):
            raise UserError(f"{dst}: can not be written: {error.strerror}") from error
        raise
    return list(lists)


def _publish(staging: Path, target: Path, dst: Path) -> None:
    """One rename, which takes the place of nothing but an empty folder."""
    try:
        os.replace(staging, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if (other := _differs(staging, target)) is not None:
            raise UserError(
                f"{dst}: exists, and {other} is not what this export has; use another DST, or remove it first"
            ) from None
        _log.warning("%s is already this export: nothing to do", dst)


def _differs(made: Path, there: Path) -> Path | None:
    """The first path below `there` (or itself) that is not as in `made`; masks that somebody has put there are no
    difference."""
    if not there.is_dir():
        return there
    ours = {path.relative_to(made) for path in made.rglob("*")}
    for path in sorted(ours):
        if (made / path).is_file() and not ((there / path).is_file() and sha256(there / path) == sha256(made / path)):
            return there / path
    theirs = (path.relative_to(there) for path in sorted(there.rglob("*")))
    return next((there / path for path in theirs if path not in ours and folder.MASKS not in path.parts[:2]), None)
