"""The command `s4al ingest`: its many options.  The page on it is docs/use/ingest.md."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import Kind
from querying.base.storage.place import place


def ingest(
    kind: Annotated[Kind, typer.Argument(help="Layout of the raw data.")],
    paths: Annotated[
        list[str], typer.Argument(help="SRC DST (toy: DST alone); DST may be in a bucket.", metavar="[SRC] DST")
    ],
    size: Annotated[
        str | None, typer.Option(help="HxW of the stored images; default: their own (cityscapes al: 688x688).")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 32,
    encoding: Annotated[str, typer.Option(help="ppm (raw, fastest), png or jpeg (smaller).")] = "ppm",
    seed: Annotated[int, typer.Option(min=0, help="Of generated scenes and of drawn splits.")] = 0,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Take an image that is also in another split, with a warning.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would be made, and draw images and masks; DST may be left out."),
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="--dry-run: its picture; default DST.png or SRC-ingest.png.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="folder: file of the classes: names, with ids or r g b; CSV, CVAT label map, JSON, YAML."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="folder: images' folder below SRC, perhaps with {split}. toy: TRAIN,VAL,TEST counts."),
    ] = None,
    masks: Annotated[str | None, typer.Option(help="folder: masks' folder below SRC, perhaps with {split}.")] = None,
    mask_suffix: Annotated[
        str | None,
        typer.Option(help="folder: what masks have behind the image's name, such as _mask; others are left out."),
    ] = None,
    image_suffix: Annotated[
        str, typer.Option(help="folder: what images have behind the common name, such as _sat.")
    ] = "",
    shapes: Annotated[
        str | None,
        typer.Option(help="folder: below SRC, the COCO file, or the folder of LabelMe's or YOLO's; perhaps {split}."),
    ] = None,
    no_masks: Annotated[
        bool, typer.Option("--no-masks", help="folder: take images without any mask, as a pool without labels.")
    ] = False,
    splits: Annotated[
        str,
        typer.Option(help="folder: folders called train, val, test are the splits (folders), or draw; default auto."),
    ] = "auto",
    ignore: Annotated[
        list[str] | None, typer.Option(help="folder: class, id or R,G,B that means not labelled; none: no class does.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="folder: VALUE=CLASS or R,G,B=CLASS, as 255=road; =ignore, too.")
    ] = None,
    values: Annotated[
        str,
        typer.Option(help="folder: read grey and palette masks as ids or as colours of the class file; default auto."),
    ] = "auto",
    exif: Annotated[
        str, typer.Option(help="folder: masks fit images turned upright (apply) or as stored (ignore); default auto.")
    ] = "auto",
    bits: Annotated[
        int | None, typer.Option(min=8, max=16, help="folder: bits that count in 16-bit photographs, such as 12.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="cityscapes: al (2,675 + 300 + 500) or ssl (2,975 + 500).")] = "al",
    num_classes: Annotated[int, typer.Option(min=6, max=11, help="toy: number of classes.")] = 8,
) -> None:
    """Raw data -> Arrow shards (images, truth) and index.json, all or nothing.  docs/use/ingest.md says what is
    taken."""
    from benchmarks.commands.ingest import ingest_command

    ingest_command(
        kind.value, [place(path) for path in paths], size, shard_size, encoding,
        allow_duplicates=allow_duplicates, dry_run=dry_run, sheet=sheet, seed=seed, classes=classes, images=images,
        masks=masks, mask_suffix=mask_suffix, image_suffix=image_suffix,
        shapes=shapes, no_masks=no_masks, splits=splits, ignore=ignore or [], maps=map_ or [], values=values, exif=exif,
        bits=bits, protocol=protocol, num_classes=num_classes,
    )  # fmt: skip
