"""Data sets as earlier versions made them, and data sets that somebody has altered with right hashes."""

import shutil

import pyarrow as pa

from querying.base.files import read_json, sha256, write_json
from querying.dataset.schemas import IDS


def without_ids(root):
    """Take away the files of ids and what the index says of them: byte for byte what the version before wrote."""
    index = read_json(root / "index.json", reads=(1, 2))
    del index["ids"]
    for shard in (shard for shards in index["splits"].values() for shard in shards):
        del shard["ids_sha256"]
    write_json(root / "index.json", index)
    shutil.rmtree(root / "ids")
    return root


def with_ids(root, parts, *, digests=None, split="train"):
    """Another file of ids, whose hash in the index is right; `digests` of its shards, where they are to be, too."""
    path = root / f"ids/{split}.arrow"
    with pa.ipc.new_file(path, IDS) as writer:
        for ids in parts:
            writer.write_batch(pa.record_batch([pa.array(ids, pa.string())], schema=IDS))
    index = read_json(root / "index.json", reads=(1, 2))
    index["ids"][split] = sha256(path)
    for shard, digest in zip(index["splits"][split], digests or (), strict=False):
        shard["ids_sha256"] = digest
    write_json(root / "index.json", index)
    return root
