"""Label Studio's JSON export, from a file that nobody has checked: an answer for each annotation that was submitted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from benchmarks.datasets.files.image_files import opened, raw_mode
from benchmarks.formats.canvas import Bool, Canvas, polygon
from benchmarks.formats.dropped import DRAFTS, EMPTY, NOT_OURS, OWN_FRAMES, RELATIONS, SKIPPED, UNANSWERED, Dropped
from benchmarks.formats.json_items import items
from benchmarks.formats.labels import FRAME, label_id, label_ids, other_size, pre_label, shown
from benchmarks.formats.labelstudio_out import result_id
from benchmarks.formats.rle import decode
from orchestrator.annotation.answer import Answer
from orchestrator.annotation.package import AskedImage, Package
from querying.base.errors import UserError

LONGEST = 30 * 86_400.0
"""Seconds that an answer may have taken; more is not known to be true."""
_MOST_POINTS = 100_000
_FARTHEST = 1000.0
"""Percent of the image's side that a point may lie beside it; what is beside it is not painted."""
_SHAPES = ("brushlabels", "bitmasklabels", "polygonlabels")
_HINT = "export the project as JSON (not JSON-MIN, not the tasks.json that was made for Label Studio)"


def read(package: Package, path: Path, dropped: Dropped) -> Iterator[Answer]:
    """Every submitted annotation as an answer, in the file's order.  UserError names the task; `dropped` counts the
    rest."""
    of = {one.image_id: one for one in package.images}
    for number, task in enumerate(items(path, "task")):
        where = _where(path, number, task)
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict):
            raise UserError(f"{where}: has no data; {_HINT}")
        if "query_id" not in data:
            dropped[NOT_OURS] += 1
            continue
        one = _asked(package, data, of, where)
        yield from _answers(package, one, task, f"{where} (image {shown(one.image_id)})", dropped)


def _where(path: Path, number: int, task: Any) -> str:
    own = task.get("id") if isinstance(task, dict) else None
    return f"{path}: task {own}" if type(own) is int and abs(own) < 10**12 else f"{path}: task number {number}"


def _asked(package: Package, data: dict[str, Any], of: dict[str, AskedImage], where: str) -> AskedImage:
    query_id, image_id = data["query_id"], data.get("image_id")
    if query_id != package.query_id:
        if not isinstance(query_id, str):
            raise UserError(f"{where}: data.query_id is {shown(query_id)}, not the text that was exported")
        raise UserError(
            f"{where}: is of another query ({shown(query_id[:20])}) than this package ({package.query_id[:20]}):"
            f" of another run or an older cycle; export the project of cycle {package.cycle}'s package alone"
        )
    if not isinstance(image_id, str) or image_id not in of:
        raise UserError(f"{where}: data.image_id {shown(image_id)} is no image of this package; leave the task out")
    return of[image_id]


def _answers(package: Package, one: AskedImage, task: dict[str, Any], where: str, dropped: Dropped) -> Iterator[Answer]:
    annotations, drafts = task.get("annotations"), task.get("drafts")
    if not isinstance(annotations, list):
        raise UserError(f"{where}: has no list of annotations; {_HINT}")
    dropped[DRAFTS] += len(drafts) if isinstance(drafts, list) else 0
    dropped[UNANSWERED] += not annotations
    for place, annotation in enumerate(annotations):
        here = f"{where}: annotation {place}"
        if not isinstance(annotation, dict):
            raise UserError(f"{here}: is {shown(annotation)}, not a mapping; {_HINT}")
        if annotation.get("was_cancelled"):
            dropped[SKIPPED] += 1
            continue
        if not isinstance(annotation.get("result"), list):
            raise UserError(f"{here}: has no list of results; {_HINT}")
        canvas = _painted(package, one, annotation["result"], here, dropped)
        if not canvas.painted_HW.any():
            dropped[EMPTY] += 1
            continue
        yield Answer(
            one.image_id, _annotator(annotation.get("completed_by")), _unique_id(one, annotation),
            _seconds(annotation.get("lead_time")), _updated(annotation), canvas.label_HW, canvas.painted_HW,
            canvas.ambiguous, task["data"].get("pre") is not False,
        )  # fmt: skip


def _painted(package: Package, one: AskedImage, results: list[Any], where: str, dropped: Dropped) -> Canvas:
    canvas, known = Canvas(*one.size), label_ids(package)
    pre_HW, frames = None, {f"t{one.rank}q{box[0]}" for box in one.boxes}
    for place, result in enumerate(results):
        if not isinstance(result, dict):
            raise UserError(f"{where}: result {place}: is {shown(result)}, not a mapping; {_HINT}")
        here, kind = f"{where}: result {shown(result.get('id', place))}", result.get("type")
        if kind == "relation":
            dropped[RELATIONS] += 1
            continue
        value = result.get("value")
        if not isinstance(value, dict):
            raise UserError(f"{here}: has no value; {_HINT}")
        if kind == "rectanglelabels" and value.get("rectanglelabels") == [FRAME]:
            dropped[OWN_FRAMES] += result.get("id") not in frames
            continue
        if kind not in _SHAPES:
            raise UserError(
                f"{here}: is of kind {shown(kind)}, which is not read; paint with the labels of label_config.xml"
            )
        _check_size(one, result, here)
        names = value.get(kind)
        if not isinstance(names, list) or len(names) != 1:
            raise UserError(f"{here}: has {shown(names)} as its label, where one was expected; give it one")
        label = label_id(names[0], known, here)
        now_HW = _mask(one, kind, value, here)
        before_HW = None
        if result.get("id") == result_id(one, label):
            pre_HW = pre_label(package, one) if pre_HW is None else pre_HW
            before_HW = pre_HW == label
        canvas.add(label, now_HW, before_HW)
    return canvas


def _check_size(one: AskedImage, result: dict[str, Any], where: str) -> None:
    if other := other_size(one, result.get("original_width"), result.get("original_height")):
        raise UserError(f"{where}: was painted on {other}")
    rotation = result.get("image_rotation", 0)
    if isinstance(rotation, bool) or rotation != 0:
        raise UserError(f"{where}: the image was rotated by {shown(rotation)}; paint it again unrotated")


def _mask(one: AskedImage, kind: str, value: dict[str, Any], where: str) -> Bool:
    if kind == "polygonlabels":
        return _polygon(one, value, where)
    if kind == "bitmasklabels":
        return _bitmask(one, value.get("imageDataURL"), where)
    if value.get("format") != "rle":
        raise UserError(f"{where}: a brush of format {shown(value.get('format'))}, where rle was expected; {_HINT}")
    try:
        return decode(value.get("rle"), *one.size)
    except ValueError as error:
        raise UserError(f"{where}: its rle is damaged: {error}; paint it again, or leave the task out") from None


def _polygon(one: AskedImage, value: dict[str, Any], where: str) -> Bool:
    points = value.get("points")
    if not isinstance(points, list) or not 3 <= len(points) <= _MOST_POINTS:
        found = f"{len(points)} points" if isinstance(points, list) else shown(points)
        raise UserError(f"{where}: a polygon of {found}, where 3 to {_MOST_POINTS} were expected; draw it again")
    if value.get("closed") is False:
        raise UserError(f"{where}: a polygon that is not closed; close it")
    (height, width), pixels = one.size, []
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(_is_near(part) for part in point):
            raise UserError(f"{where}: a polygon's point is {shown(point)}, where x and y in percent were expected")
        pixels.append((point[0] * width / 100, point[1] * height / 100))
    return polygon(pixels, height, width)


def _is_near(part: Any) -> bool:
    return type(part) in (int, float) and -_FARTHEST <= part <= 100 + _FARTHEST


def _bitmask(one: AskedImage, url: Any, where: str) -> Bool:
    head, most = "data:image/png;base64,", 8 * math.prod(one.size) + 2**16
    if not isinstance(url, str) or not url.startswith(head):
        raise UserError(f"{where}: its imageDataURL does not begin with {head}; paint it again, or leave the task out")
    if len(url) > most:
        raise UserError(f"{where}: its PNG has {len(url)} characters, more than {most} for the image's size")
    try:
        data = base64.b64decode(url[len(head) :], validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{where}: its imageDataURL is not base64; paint it again, or leave the task out") from None
    with opened(Path(where), data) as image:
        if not isinstance(image, PngImageFile) or image.mode != "RGBA" or raw_mode(image) != "RGBA":
            raise UserError(f"{where}: its picture is not a PNG with 8 bits of red, green, blue and alpha")
        if other := other_size(one, image.width, image.height):
            raise UserError(f"{where}: its PNG has {other}")
        return np.array(image)[..., 3] >= 128


def _annotator(who: Any) -> str:
    """An address where the file has it, else the number of the user; "" where it says neither."""
    if isinstance(who, dict):
        who = next((who[key] for key in ("email", "username", "id") if who.get(key)), None)
    if isinstance(who, str) and who.isprintable() and len(who) <= 200:
        return who.strip()
    return str(who) if type(who) is int and 0 <= who < 10**12 else ""


def _unique_id(one: AskedImage, annotation: dict[str, Any]) -> str:
    """Label Studio's own, or what stands in the annotation."""
    found = annotation.get("unique_id")
    if isinstance(found, str) and found.isprintable() and 0 < len(found) <= 200:
        return found
    text = json.dumps([one.image_id, annotation.get("id"), annotation["result"]], sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _seconds(found: Any) -> float | None:
    known = type(found) in (int, float) and 0 <= found <= LONGEST
    return float(found) if known else None


def _updated(annotation: dict[str, Any]) -> str:
    """ISO time in UTC, of one form, so that texts compare as times."""
    for key in ("updated_at", "created_at"):
        try:
            found = datetime.fromisoformat(annotation.get(key, ""))
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
            return found.astimezone(UTC).isoformat(timespec="microseconds")
        except (TypeError, ValueError, OverflowError):
            continue
    return ""
