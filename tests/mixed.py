"""Generated scenes of three sizes in one data set."""

from benchmarks.datasets.ingest import ingest
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import DataIndex, read_images, read_truth


def mixed_scenes(root, sizes, *, counts, num_classes=6):
    """(split, image id, pixels, mask) of `counts` scenes (train, val, test) of each size."""
    for number, size in enumerate(sizes):
        made = ingest("toy", None, root / f"of-{number}", size=size, counts=counts, num_classes=num_classes)
        for split in made.splits:
            for shard in made.shards(split):
                pairs = zip(read_images(made.root, shard), read_truth(made.root, shard), strict=True)
                for (image_id, image_HWC), (_, mask_HW) in pairs:
                    yield split, f"{image_id}_{number}", image_HWC, mask_HW


def mixed_data(root, sizes, *, counts, shard_size, num_classes=6):
    """A data set of scenes of all of these sizes, as ingest would write it."""
    scenes = list(mixed_scenes(root / "parts", sorted(sizes), counts=counts, num_classes=num_classes))
    one = DataIndex.load(root / "parts" / "of-0")
    splits = {}
    for split in one.splits:
        with ShardWriter(root / "data", split, num_classes=num_classes, shard_size=shard_size) as writer:
            for of, image_id, image_HWC, mask_HW in scenes:
                if of == split:
                    writer.add(image_id, image_HWC, mask_HW)
        splits[split] = writer.close()
    height, width = map(max, zip(*sizes, strict=True))
    DataIndex(root / "data", "toy", one.classes, one.palette, height, width, "ppm", {}, splits).save()
    return DataIndex.load(root / "data")
