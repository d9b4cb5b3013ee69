"""A program: read broken shards whose index says that their hashes are right, as no accident could make them.

python -m tests.inputs.forge FOLDER CASES SEED  prints how many were read, were refused by name, and anything else.
"""

import collections
import hashlib
import json
import random
import sys
from pathlib import Path

from querying.base.errors import S4ALError
from querying.base.files import write_json
from querying.dataset.shards import DataIndex, ImageStore, read_images, read_truth
from tests.querying.dataset.test_shards import build


def main(root, cases, seed):
    build(root, count=10)
    rng, index = random.Random(seed), json.loads((root / "index.json").read_text())
    del index["seal"]
    outcomes = collections.Counter()
    for _ in range(cases):
        part = rng.choice(["images", "truth"])
        path = root / part / "train-00000.arrow"
        valid = path.read_bytes()
        forged = bytearray(valid)
        for _ in range(rng.choice([1, 2, 5])):  # most of them where no pixels are
            place = rng.choice([rng.randrange(1200), len(valid) - 1 - rng.randrange(1200), rng.randrange(len(valid))])
            forged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(forged)
        tree = json.loads(json.dumps(index))
        tree["splits"]["train"][0][f"{part}_sha256"] = hashlib.sha256(forged).hexdigest()
        write_json(root / "index.json", tree)
        outcomes[outcome(root)] += 1
        path.write_bytes(valid)
    print(json.dumps(outcomes))


def outcome(root):
    try:
        index = DataIndex.load(root)
        for read in (read_images, read_truth):
            list(read(root, index.shards("train")[0]))
        store = ImageStore(index, "train")
        for image_id in store.ids():
            store.image(image_id)
    except S4ALError as error:
        return "refused" if str(root) in str(error) else f"not named: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
