"""What somebody who knows the truth does with an exported folder: opens its tasks, paints, and exports again."""

import json
import random

import numpy as np
from PIL import Image

from tests.benchmarks.formats.packages import annotation, brush, task, written
from tests.benchmarks.formats.test_cvat import made

BLANK = 254


def known(package, one, masks):
    """What somebody who knows the truth paints: only what is asked; 255 is "not sure"."""
    painted = np.full(one.size, BLANK, np.uint8)
    for _, top, left, bottom, right in one.boxes:
        painted[top:bottom, left:right] = masks[one.image_id][top:bottom, left:right]
    return painted


def answered_in_label_studio(package, folder, masks, number):
    """The truth painted over what was shown, without erasing: a class's region grows, and the others keep the pixels,
    whatever their order.  Tasks in any order."""
    [path] = folder.rglob("tasks.json")
    of, tasks = {one.image_id: one for one in package.images}, []
    for place, one in enumerate(json.loads(path.read_text())):
        asked = of[one["data"]["image_id"]]
        shown = [result for prediction in one["predictions"] for result in prediction["result"]]
        frames = [result for result in shown if result["type"] == "rectanglelabels"]
        before_HW = np.full(asked.size, BLANK, np.uint8)
        if len(frames) < len(shown):
            before_HW = np.array(Image.open(package.pre(asked)))
        wanted_HW = known(package, asked, masks)
        regions = []
        for label, name in [*enumerate(package.classes), (255, "not sure")]:
            now_HW = (wanted_HW == label) | ((before_HW == label) & (label != 255))
            if now_HW.any():
                id_ = f"hand{place}" if label == 255 else f"t{asked.rank}c{label}"
                regions.append(brush(package, name, now_HW, id_))
        random.Random(place).shuffle(regions)
        who = {"email": f"p{number}@x.org"}
        answer = annotation([*regions, *frames], 1000 * number + place, completed_by=who)
        own = {key: value for key, value in one["data"].items() if key == "pre"}
        tasks.append(task(package, asked.image_id, answer, number=place, **own))
    random.Random(number).shuffle(tasks)
    return written(folder / "export.json", tasks)


def answered_in_cvat(package, folder, masks, _):
    stems = {path.name.partition("-")[2]: path.stem for path in (folder / "images").iterdir()}
    chosen = [one for one in package.images if one.file in stems]
    names = {one.image_id: stems[one.file] for one in chosen}
    return made(package, folder / "x.zip", {one.image_id: known(package, one, masks) for one in chosen}, names)


def answered_in_a_folder(package, folder, masks, _):
    for one in package.images:
        if (folder / "images" / one.file).is_file():
            Image.fromarray(known(package, one, masks)).save(folder / "masks" / one.file)
    return folder


ANSWER = {"labelstudio": answered_in_label_studio, "cvat": answered_in_cvat, "folder": answered_in_a_folder}
