"""The label ledger: which region was bought in which cycle, and what it showed.  Append-only, one file per cycle."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256, write_json, written
from querying.dataset.id_digests import id_digests
from querying.dataset.schemas import LEDGER
from querying.labels.regions import WHOLE

MANY_GROUPS, GROUP_ROWS = 1_024, 4_096
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Spent:
    """What was bought so far, exactly."""

    cells: int = 0
    pixels: int = 0
    void_pixels: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.cells + other.cells, self.pixels + other.pixels, self.void_pixels + other.void_pixels)


class Ledger:
    """Files `cycle-000.parquet`, ...; cycle 0 is the initial labelled set, bought like any other.

    Beside each lies `cycle-000.json`: its SHA-256 and the chain, a hash of that and of the chain before it, so that no
    cycle can be altered, dropped or exchanged unnoticed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sums: dict[tuple[object, ...], Spent] = {}

    def path(self, cycle: int) -> Path:
        return self.root / f"cycle-{cycle:03d}.parquet"

    def note(self, cycle: int) -> Path:
        return self.path(cycle).with_suffix(".json")

    def has(self, cycle: int) -> bool:
        return self.path(cycle).exists()

    def chain(self, cycle: int) -> str:
        """A hash of everything bought up to `cycle`; DamagedError where a link is missing or altered."""
        return str(read_json(self.note(cycle))["chain"]) if cycle >= 0 else ""

    def problems(self, cycle: int) -> list[str]:
        """What is wrong with the file of one cycle that is there, a line each."""
        try:
            note = read_json(self.note(cycle))
            if sha256(self.path(cycle)) != note["sha256"]:
                return [f"{self.path(cycle)}: differs from what was written"]
            if note["chain"] != _link(self.chain(cycle - 1), note["sha256"]):
                return [f"{self.path(cycle)}: does not follow the cycle before it"]
        except DamagedError as error:
            return [str(error)]
        return []

    def answers(self, cycle: int) -> str | None:
        """Digest of the query that a cycle answers, where that was written down."""
        query = read_json(self.note(cycle)).get("query")
        return None if query is None else str(query)

    def append(self, cycle: int, batches: Iterable[pa.RecordBatch], query: str | None = None) -> None:
        """Record one cycle, all or nothing, and the digest of the `query` that it answers.

        A cycle that is already there, or a cell that was bought before, is an error: labels are never charged twice.
        """
        if self.has(cycle):
            raise FileExistsError(f"cycle {cycle} is already in the ledger: {self.path(cycle)}")
        with written(self.path(cycle)) as staged, pq.ParquetWriter(staged, LEDGER, write_page_checksum=True) as writer:
            for batch in _gathered(batches):
                writer.write_batch(batch)
            writer.close()
            files = [*map(self._unaltered, range(cycle)), staged]
            if _any_twice(files) and (twice := _first_twice(files)):
                raise ValueError(f"image {twice[0]}: region {twice[1]} is bought twice (cycle {cycle})")
            # First, so that no cycle is ever there without it; alone it says nothing.
            digest = sha256(staged)
            note = {"sha256": digest, "chain": _link(self.chain(cycle - 1), digest)}
            write_json(self.note(cycle), note | ({"query": query} if query else {}))

    def read(self, cycle: int, columns: list[str] | None = None) -> pa.Table:
        """One cycle's labels.  DamagedError names a file that is not what was written: the hash comes first, for the
        checksums of its pages do not cover what says where they are."""
        path = self._unaltered(cycle)
        with _readable(path):
            return pq.read_table(path, columns=columns, page_checksum_verification=True)

    def parts(self, cycle: int, columns: list[str]) -> Iterator[pa.Table]:
        """The same of one cycle, a row group at a time, since that of a million images would fill the memory; ids of
        images are codes."""
        return _parts(self._unaltered(cycle), columns)

    def num_cells(self, cycle: int) -> int:
        """How many rows one cycle has."""
        return _num_rows(self._unaltered(cycle))

    def _unaltered(self, cycle: int) -> Path:
        path, digest = self.path(cycle), read_json(self.note(cycle))["sha256"]
        with _readable(path):
            if sha256(path) != digest:
                raise DamagedError(f"{path}: differs from what was written")
        return path

    def spent(self, cycle: int) -> Spent:
        """Totals when `cycle` trains."""
        return sum(map(self._added, range(cycle + 1)), Spent())

    def _added(self, cycle: int) -> Spent:
        """What one cycle bought.  Its file is read again only where it has changed: every cycle asks for all before
        it."""
        status = self.path(cycle).stat() if self.has(cycle) else None
        key = (cycle, read_json(self.note(cycle))["sha256"], status and (status.st_size, status.st_mtime_ns))
        if key not in self._sums:
            table = self.read(cycle, ["pixels", "void_pixels"])
            sums = (pc.sum(table[name]).as_py() or 0 for name in ("pixels", "void_pixels"))
            self._sums[key] = Spent(table.num_rows, *sums)
        return self._sums[key]

    def images(self, cycle: int) -> list[str]:
        """Images with a cell bought in exactly this cycle, in ledger order."""
        ids: list[str] = pc.unique(self.read(cycle, ["image_id"])["image_id"]).to_pylist()
        return ids

    def bought(self, cycle: int) -> dict[str, list[int]]:
        """Image id -> regions bought up to `cycle`, except the images of cycle 0, which are bought whole."""
        regions: dict[str, list[int]] = {}
        for past in range(1, cycle + 1):
            table = self.read(past, ["image_id", "region"])
            for image_id, region in zip(table["image_id"].to_pylist(), table["region"].to_pylist(), strict=True):
                regions.setdefault(image_id, []).append(region)
        return regions

    def whole(self, cycle: int, num_regions: Callable[[str], int]) -> list[str]:
        """Images of which nothing is left to buy after `cycle`: those of cycle 0, then those all of whose regions, of
        which an image has `num_regions`, queries have bought, in the order in which these were first asked about."""
        bought = self.bought(cycle).items()
        return self.images(0) + [image_id for image_id, regions in bought if len(regions) == num_regions(image_id)]


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, each of which becomes a row group; those after many are put together, since what a reader has to
    know of thousands of groups is larger than what is in them."""
    waiting: list[pa.RecordBatch] = []
    for number, batch in enumerate(batches):
        waiting.append(batch)
        if number < MANY_GROUPS or sum(part.num_rows for part in waiting) >= GROUP_ROWS:
            yield pa.concat_batches(waiting)
            waiting.clear()
    if waiting:
        yield pa.concat_batches(waiting)


def _num_rows(path: Path) -> int:
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def _parts(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with _opened(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns, use_threads=False)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    with (
        _readable(path),
        pq.ParquetFile(path, read_dictionary=["image_id"], page_checksum_verification=True) as file,
    ):
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path}: {' '.join(str(error).split())}") from None


def _any_twice(files: Sequence[Path]) -> bool:
    """May a cell be in two rows, or an image whole in one and in another row, too?  12 bytes a cell: a set of them
    would take 100 times as much."""
    total = sum(map(_num_rows, files))
    key_S, region_S = np.zeros(total, np.uint64), np.zeros(total, np.int32)
    first = 0
    for part in (part for file in files for part in _parts(file, ["image_id", "region"])):
        end = first + part.num_rows
        coded = part["image_id"].combine_chunks()
        key_S[first:end] = id_digests(coded.dictionary)[coded.indices.to_numpy()]
        region_S[first:end] = part["region"].to_numpy()
        first = end
    whole = np.unique(key_S[region_S == WHOLE])
    if len(whole) and np.isin(key_S, whole).sum() > len(whole):
        return True
    key_S += region_S.astype(np.uint64) * _ODD
    key_S.sort()
    return bool((key_S[1:] == key_S[:-1]).any())


def _first_twice(files: Sequence[Path]) -> tuple[str, int] | None:
    """The first row of the last file whose cell was bought before."""
    bought: dict[str, int] = {}
    for file in files:
        for part in _parts(file, ["image_id", "region"]):
            for image_id, region in zip(part["image_id"].to_pylist(), part["region"].to_pylist(), strict=True):
                had, wanted = bought.get(image_id, 0), -1 if region == WHOLE else 1 << region  # -1 is all bits
                if had & wanted and file is files[-1]:
                    return image_id, region
                bought[image_id] = had | wanted
    return None


def _link(chain: str, digest: str) -> str:
    return hashlib.sha256(f"{chain}{digest}".encode()).hexdigest()


def shares(spent: Spent, initial: Spent, total_pixels: int, valid_pixels: int | None) -> dict[str, float | None]:
    """The budget in every denominator that papers use (their percentages fit no single one).

    labelled_fraction: of all train pixels; labelled_fraction_valid: non-void bought of non-void train pixels;
    queried_fraction_pool: bought by queries, of the pixels that were unlabelled at the start.
    """
    pool = total_pixels - initial.pixels
    return {
        "labelled_fraction": spent.pixels / total_pixels,
        "labelled_fraction_valid": (spent.pixels - spent.void_pixels) / valid_pixels if valid_pixels else None,
        "queried_fraction_pool": (spent.pixels - initial.pixels) / pool if pool else 0.0,
    }
