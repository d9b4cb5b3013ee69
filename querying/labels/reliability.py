"""Which images of the pool have reliable pseudo-labels (ST++): one small file beside the scores of cycle 0."""

from collections.abc import Iterable
from pathlib import Path

from querying.base.files import read_json, write_json

RELIABILITY = "reliability.json"


def write_reliability(folder: Path, found: Iterable[tuple[str, float]], share: float) -> None:
    """Rank (image, reliability) pairs, the most reliable first and ties by id; the first `share` of them, rounded
    down but at least one image, are the reliable ones."""
    ranked = sorted(found, key=lambda pair: (-pair[1], pair[0]))
    count = min(len(ranked), max(1, int(share * len(ranked) + 1e-6)))
    ids, values = [image_id for image_id, _ in ranked], [value for _, value in ranked]
    write_json(folder / RELIABILITY, {"reliable": count, "ids": ids, "reliability": values})


def reliable_images(folder: Path) -> frozenset[str] | None:
    """None where all of them count."""
    if not (folder / RELIABILITY).exists():
        return None
    ranked = read_json(folder / RELIABILITY)
    return frozenset(ranked["ids"][: ranked["reliable"]])
