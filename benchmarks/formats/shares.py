"""Who is asked for which images, and which of them come without pre-annotation: by hash, so always the same."""

from __future__ import annotations

import hashlib

from orchestrator.annotation.package import AskedImage, Package


def deal(package: Package, annotators: int, shared: float) -> list[list[AskedImage]]:
    """The images of each annotator, in the order in which they are asked.

    A part `shared` of them, rounded, is in every list, so that people can be compared; the others are in one each.
    """
    order = _by_hash(package, "dealt")
    common = round(shared * len(order)) if annotators > 1 else 0
    lists = [order[:common] + order[common + place :: annotators] for place in range(annotators)]
    return [sorted(images, key=lambda one: one.rank) for images in lists]


def with_pre(package: Package, share: float) -> frozenset[str]:
    """Ids of the images that come with a pre-annotation, a part `share` of all, rounded."""
    order = _by_hash(package, "pre-annotated")
    return frozenset(one.image_id for one in order[: round(share * len(order))])


def _by_hash(package: Package, what: str) -> list[AskedImage]:
    def key(one: AskedImage) -> bytes:
        return hashlib.sha256(f"{what}:{package.query_id}:{one.image_id}".encode()).digest()

    return sorted(package.images, key=key)
