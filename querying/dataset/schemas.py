"""Every Arrow schema that crosses a process or a run boundary.  Add a field here first, or nowhere."""

import pyarrow as pa

IMAGE = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
    ]
)
"""One encoded image a row (PPM, PNG or JPEG bytes); height and width in pixels."""

TRUTH = pa.schema([pa.field("image_id", pa.string(), nullable=False), pa.field("mask", pa.binary())])
"""The mask beside it (PNG, mode L, 255 = ignore; null = none).

Opened by the oracle, the evaluation and whoever counts which pseudo-labels are right, checked by doctor and shown by
the report; never by training or scoring.
"""

IDS = pa.schema([pa.field("image_id", pa.string(), nullable=False)])
"""The ids of a split's images, a record batch for each of its shards, in their order."""

REGION_SCORES = pa.schema([pa.field("image_id", pa.string(), False), pa.field("score", pa.list_(pa.float32()), False)])
"""One score per region; null = not eligible, NaN never."""

REGION_CLASSES = pa.schema([pa.field("image_id", pa.string(), False), pa.field("value", pa.list_(pa.uint8()), False)])
"""The class that most of a region's pixels are predicted to be, one per region."""

VECTORS = pa.schema([pa.field("image_id", pa.string(), False), pa.field("value", pa.list_(pa.float32()), False)])
"""An image's features, or the mean class probabilities of its regions, one region after another."""

PSEUDO_LABELS = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("label", pa.binary(), False),
        pa.field("coverage", pa.float32(), False),
    ]
)
"""label: PNG, 255 = ignore; coverage: share of pixels that are not ignored."""

QUERY = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("region", pa.int32(), False),
        pa.field("score", pa.float32()),
    ]
)
"""Cells to ask the annotator about; the first query (whole images) has no scores.  In a query for whole images, every
cell has its image's score."""

LEDGER = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("region", pa.int32(), False),
        pa.field("cycle", pa.int32(), False),
        pa.field("pixels", pa.int64(), False),
        pa.field("void_pixels", pa.int64(), False),
        pa.field("score", pa.float32()),
        pa.field("label", pa.binary(), False),
    ]
)
"""label: PNG bytes of the cell, 255 = void."""
