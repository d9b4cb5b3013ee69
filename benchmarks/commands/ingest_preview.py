"""`s4al ingest --dry-run`: what would be made of a folder, as tables and as a picture, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.datasets.ingest import survey
from benchmarks.datasets.ingest_check import Findings, size_text
from benchmarks.datasets.sources.source import RawDataset
from benchmarks.figures.contact_sheet import write_sheet
from orchestrator.process import terminal
from querying.base.errors import UserError
from querying.base.files import check_folder
from querying.dataset.label_values import IGNORE


def preview(kind: str, src: Path | None, sheet: Path, **options: Any) -> None:
    """Print what `ingest` would say and the counts of each split and class; write the contact sheet `sheet`."""
    if sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: expected a file name that ends with .png")
    if src is not None and sheet.resolve().is_relative_to(src.resolve()):
        raise UserError(f"--sheet {sheet}: lies in {src}, where it would be taken for an image; choose another place")
    check_folder(sheet.parent)
    raw, found = survey(kind, src, **options)
    console = terminal.console()
    for line in found.said:
        console.print(line, soft_wrap=True)
    console.print(_split_table(raw, found))
    if found.masked.total():
        console.print(_class_table(raw, found))
    shown = write_sheet(raw, sheet)
    size = size_text(raw.size) if raw.size else " and ".join(map(size_text, [*found.sizes][:3]))
    size += f" and {len(found.sizes) - 3} more sizes" if not raw.size and len(found.sizes) > 3 else ""
    console.print(f"nothing is written but {sheet}: {shown} images beside their masks; look at it", soft_wrap=True)
    total = sum(map(len, raw.splits.values()))
    console.print(f"without --dry-run: {total} images of {size}, {len(raw.classes)} classes", soft_wrap=True)


def _split_table(raw: RawDataset, found: Findings) -> Table:
    table = Table("split", title=raw.name, title_justify="left")
    for heading in ("images", "with mask", "labelled %", "first"):
        table.add_column(heading, justify="left" if heading == "first" else "right")
    for split, samples in raw.splits.items():
        pixels = found.pixels[split]
        masked = str(found.masked[split]) if found.pixels[split].any() or not hasattr(samples[0], "number") else "drawn"
        share = f"{100 * (1 - pixels[IGNORE] / pixels.sum()):.1f}" if pixels.any() else "-"
        table.add_row(split, str(len(samples)), masked, share, samples[0].image_id)
    return table


def _class_table(raw: RawDataset, found: Findings) -> Table:
    """Pixels of each class, and its share of the labelled ones, in each split."""
    table = Table("class, % of labelled pixels", "colour")
    for split in raw.splits:
        table.add_column(split, justify="right")
    share = {split: pixels[: len(raw.classes)] / max(1, pixels[: len(raw.classes)].sum()) for split, pixels in
             found.pixels.items()}  # fmt: skip
    for label, name in enumerate(raw.classes):
        cells = (f"{100 * share[split][label]:.2f}" if share[split][label] else "absent" for split in raw.splits)
        table.add_row(name, " ".join(map(str, raw.palette[label])), *cells)
    void = {
        split: f"{100 * pixels[IGNORE] / max(1, np.sum(pixels)):.2f} of all" for split, pixels in found.pixels.items()
    }
    table.add_row("(not labelled)", "", *(void[split] for split in raw.splits))
    return table
