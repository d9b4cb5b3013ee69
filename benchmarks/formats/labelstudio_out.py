"""A package as a local storage of Label Studio: tasks with images, pre-annotation and frames, and the configuration.

Label Studio checks nothing of what it imports, and does not show what it does not understand; so what is written here
is right by construction.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from benchmarks.formats.canvas import Bool
from benchmarks.formats.labels import FRAME, colours, image_bytes, label_ids, mark, pre_label
from benchmarks.formats.rle import encode
from orchestrator.annotation.package import AskedImage, Package

Tag = Literal["brush", "bitmask"]
ROOT = "label-studio-data"
"""Label Studio serves files below a folder of this name, in the folder where it is started, without being told to."""
WHOLE = -1
"""The region number of a box that is the whole image."""


def write(
    package: Package, images: Sequence[AskedImage], pre: Collection[str], out: Path, tag: Tag, part: str = ""
) -> None:
    """Write README.txt, label_config.xml and label-studio-data/Q/ with tasks.json and images/ into the empty `out`.

    `pre`: ids of the images that come with a pre-annotation; `part` tells one annotator's Q from another's.
    """
    name = f"cycle-{package.cycle}-{mark(package)}{part and '-'}{part}"
    folder = out / ROOT / name
    (folder / "images").mkdir(parents=True)
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        for number, one in enumerate(images):
            (folder / "images" / one.file).write_bytes(image_bytes(package, one))
            task = _task(package, one, name, one.image_id in pre, tag)
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(task, allow_nan=False))
        file.write("\n]\n" if images else "[]\n")
    (out / "label_config.xml").write_text(_config(package, images, tag), encoding="utf-8")
    (out / "README.txt").write_text(_README.format(root=ROOT, name=name, count=len(images)), encoding="utf-8")


def result_id(one: AskedImage, label: int) -> str:
    """Of the pre-annotation of a class: it comes back unchanged, and ties the answer to it."""
    return f"t{one.rank}c{label}"


def _task(package: Package, one: AskedImage, name: str, with_pre: bool, tag: Tag) -> dict[str, Any]:
    url = f"/data/local-files/?d={quote(f'{name}/images/{one.file}')}"
    data: dict[str, Any] = {
        "image": url, "image_id": one.image_id, "query_id": package.query_id, "rank": one.rank, "pre": with_pre
    }  # fmt: skip
    if one.uncertainty is not None:
        data["uncertainty"] = one.uncertainty
    results = [*(_regions(package, one, tag) if with_pre else ()), *_frames(one)]
    if not results:
        return {"data": data, "predictions": []}
    score = {} if one.uncertainty is None else {"score": 1 - one.uncertainty}
    return {"data": data, "predictions": [{"model_version": f"{package.run}/cycle-{package.cycle}", **score,
                                           "result": results}]}  # fmt: skip


def _regions(package: Package, one: AskedImage, tag: Tag) -> Iterator[dict[str, Any]]:
    """A result for each class of the pre-annotation."""
    label_HW = pre_label(package, one)
    for label, name in enumerate(package.classes):
        mask_HW = label_HW == label
        if mask_HW.any():
            value = {"format": "rle", "rle": encode(mask_HW)} if tag == "brush" else {"imageDataURL": _bitmask(mask_HW)}
            yield _result(one, result_id(one, label), f"{tag}labels", "mask", {**value, f"{tag}labels": [name]})


def _frames(one: AskedImage) -> Iterator[dict[str, Any]]:
    """A frame that can not be moved, for each cell that is asked."""
    for region, top, left, bottom, right in one.boxes:
        if region != WHOLE:
            height, width = one.size
            value = {"x": 100 * left / width, "y": 100 * top / height, "width": 100 * (right - left) / width,
                     "height": 100 * (bottom - top) / height, "rotation": 0, "rectanglelabels": [FRAME]}  # fmt: skip
            frame = _result(one, f"t{one.rank}q{region}", "rectanglelabels", "query", value)
            yield {**frame, "readonly": True}


def _result(one: AskedImage, id_: str, type_: str, from_name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": id_, "type": type_, "from_name": from_name, "to_name": "image", "original_width": one.size[1],
        "original_height": one.size[0], "image_rotation": 0, "value": value,
    }  # fmt: skip


def _bitmask(mask_HW: Bool) -> str:
    """PNG, RGBA, opaque black where painted."""
    pixels_HWC = np.zeros((*mask_HW.shape, 4), np.uint8)
    pixels_HWC[mask_HW, 3] = 255
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "png")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _config(package: Package, images: Sequence[AskedImage], tag: Tag) -> str:
    whole = all(box[0] == WHOLE for one in images for box in one.boxes)
    what = "Colour the whole image" if whole else "Correct the colours inside the frames; leave the rest"
    kind, smoothing = ("Brush", "") if tag == "brush" else ("Bitmask", ' smoothing="false"')
    of = colours(package)
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="#{bytes(of[label]).hex()}"/>'
        for name, label in label_ids(package).items()
    )
    return f"""<View>
  <Header value="{what}"/>
  <Image name="image" value="$image" zoom="true" zoomControl="true" brightnessControl="true"{smoothing}/>
  <{kind}Labels name="mask" toName="image" showInline="true">
{labels}
  </{kind}Labels>
  <RectangleLabels name="query" toName="image" canRotate="false" opacity="0" strokeWidth="3" showInline="true">
    <Label value="{FRAME}" background="#ff00ff"/>
  </RectangleLabels>
</View>
"""


_README = """{count} images to label with Label Studio (made for 1.23.2)

Start it in this folder, so that it finds {root}:

    label-studio start

(A server that runs already: copy {root}/{name} into its own folder {root}; else set
LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=/absolute/path/of/{root}.)

Then three steps:

1. Create a project, a new one for each package.  Settings > Labeling Interface > Code: paste label_config.xml, save.
2. Settings > Cloud Storage > Add Source Storage > Local Files.  Any title; the path is the absolute path of
   {root}/{name}; import method
   "Tasks - Treat each JSON, JSONL, or Parquet as one or more task definitions per file"; file name filter .*\\.json$
3. Save & Sync.  There are {count} tasks now, and a second sync adds nothing.

Not "Files", which makes a second task of each image, and not the button Import, which doubles every task.

Paint inside the frames (there are none where whole images are asked).  What you leave as it is counts as your answer.
"not sure" is an answer, too.  Submit each task.  To paint over another colour, choose the label and paint: no erasing
is needed.  In the end: Export > JSON, and

    s4al annotate import RUN FILE.json

where RUN is the folder that this was exported from.
"""
