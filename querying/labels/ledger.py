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
            cells = [*map(self.cells, range(cycle)), Cells(staged)]
            if _any_twice(cells) and (twice := _first_twice(cells)):
                raise ValueError(f"image {twice[0]}: region {twice[1]} is bought twice (cycle {cycle})")
            # First, so that no cycle is ever there without it; alone it says nothing.
            digest = sha256(staged)
            note = {"sha256": digest, "chain": _link(self.chain(cycle - 1), digest)}
            write_json(self.note(cycle), note | ({"query": query} if query else {}))

    def cells(self, cycle: int) -> "Cells":
        """What one cycle bought; DamagedError as of `read`."""
        return Cells(self._unaltered(cycle))

    def read(self, cycle: int, columns: list[str] | None = None) -> pa.Table:
        """One cycle's labels.  DamagedError names a file that is not what was written: the hash comes first, for the
        checksums of its pages do not cover what says where they are."""
        path = self._unaltered(cycle)
        with _readable(path):
            return pq.read_table(path, columns=columns, page_checksum_verification=True)

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


class Cells:
    """Image and region of each row of a ledger's file, one row group at a time: those of a million images would fill
    the memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            self.num: int = file.metadata.num_rows

    def __iter__(self) -> Iterator[tuple[pa.DictionaryArray, np.ndarray]]:
        """Codes for the ids of the images, and the regions, int32."""
        with self._open() as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, ["image_id", "region"], use_threads=False)
                yield table["image_id"].combine_chunks(), table["region"].to_numpy()

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with (
            _readable(self._path),
            pq.ParquetFile(self._path, read_dictionary=["image_id"], page_checksum_verification=True) as file,
        ):
            yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path}: {' '.join(str(error).split())}") from None


def _any_twice(tables: Sequence[Cells]) -> bool:
    """May a cell be in two rows, or an image whole in one and in another row, too?  12 bytes a cell: a set of them
    would take 100 times as much."""
    total = sum(table.num for table in tables)
    key_S, region_S = np.zeros(total, np.uint64), np.zeros(total, np.int32)
    first = 0
    for coded, region in (part for table in tables for part in table):
        end = first + len(region)
        key_S[first:end] = id_digests(coded.dictionary)[coded.indices.to_numpy()]
        region_S[first:end] = region
        first = end
    whole = np.unique(key_S[region_S == WHOLE])
    if len(whole) and np.isin(key_S, whole).sum() > len(whole):
        return True
    key_S += region_S.astype(np.uint64) * _ODD
    key_S.sort()
    return bool((key_S[1:] == key_S[:-1]).any())


def _first_twice(tables: Sequence[Cells]) -> tuple[str, int] | None:
    """The first row of the last table whose cell was bought before."""
    bought: dict[str, int] = {}
    for table in tables:
        for coded, region in table:
            for image_id, one in zip(coded.to_pylist(), region.tolist(), strict=True):
                had, wanted = bought.get(image_id, 0), -1 if one == WHOLE else 1 << one  # -1 is all bits
                if had & wanted and table is tables[-1]:
                    return image_id, one
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
