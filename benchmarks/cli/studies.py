"""The commands that start or compare many runs; `benchmarks.cli.app` registers them."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import (
    PLACE,
    AddressOption,
    BackendName,
    BackendOption,
    DataOption,
    Mode,
    OverridesArgument,
    QuickOption,
    RecipeArgument,
    RunArgument,
    Scheduler,
    Search,
    beside,
    folder_of,
    worked_in,
)
from orchestrator.choices import Checkpoint, HeadroomPart
from querying.base.storage.place import place


def splits(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Separated by commas: supervised, supervised_reco, self_training, self_training_no_reco, st++, "
            "mean_teacher, cct, cps, cps_cutmix, u2pl, ael, unimatch, unimatch_v2, and pool_truth, their control."
        ),
    ] = "supervised,self_training",
    splits: Annotated[str, typer.Option(help="Shares of labelled images.")] = "1/16,1/8,1/4,1/2",
    seeds: Annotated[str, typer.Option(help="Of draws, first weights and batches.")] = "0",
    family: Annotated[str | None, typer.Option(help="Cityscapes' published lists (cps, u2pl); default: drawn.")] = None,
    data: DataOption = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of all cells; default runs/RECIPE.splits.", metavar=PLACE)
    ] = None,
    backend: BackendOption = BackendName.ray,
    address: AddressOption = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            help="MLflow URI, or none; default MLFLOW_TRACKING_URI (passwords belong there) or SQLite beside OUT."
        ),
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Cells at a time; default: as many as fit.")] = None,
    quick: QuickOption = False,
) -> None:
    """Semi-supervised methods side by side on splits and seeds.  The same command again resumes."""
    from benchmarks.commands.splits import splits_command

    with worked_in(out, tracking) as (folder, uri):
        splits_command(
            recipe, overrides or [], methods=methods, splits=splits, seeds=seeds, family=family, data=place(data),
            out=folder, backend=backend.value, address=address, tracking=uri, parallel=parallel, quick=quick,
        )  # fmt: skip


def sweep(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    space: Annotated[str, typer.Option(help="YAML file, or threshold, reco, ratio, regions, rates, paper.")] = "paper",
    samples: Annotated[int | None, typer.Option(min=1, help="Trials; with --search grid at most so many.")] = None,
    scheduler: Annotated[Scheduler, typer.Option(help="asha stops bad trials early, fifo none.")] = Scheduler.asha,
    search: Annotated[Search, typer.Option(help="How samples are chosen.")] = Search.random,
    objective: Annotated[
        str, typer.Option(help="A number of the last cycle, on val: miou, class_iou/NAME, seconds ...")
    ] = "miou",
    mode: Annotated[Mode, typer.Option(help="Is more of it better, or less?")] = Mode.max,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples; trials have the recipe's.")] = 0,
    data: DataOption = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the sweep; default runs/RECIPE.sweep.", metavar=PLACE)
    ] = None,
    address: AddressOption = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            help="MLflow URI, or none; default MLFLOW_TRACKING_URI (passwords belong there) or SQLite beside OUT."
        ),
    ] = None,
    parallel: Annotated[int | None, typer.Option(min=1, help="Trials at a time; default: as many as fit.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts of a trial that fails.")] = 1,
    quick: QuickOption = False,
) -> None:
    """Trials of a recipe over a space of its keys with Ray Tune, judged on val; the same command again continues."""
    from benchmarks.commands.sweep import sweep_command

    with worked_in(out, tracking) as (folder, uri):
        sweep_command(
            recipe, overrides or [], space=space, samples=samples, scheduler=scheduler.value, search=search.value,
            objective=objective, mode=mode.value, seed=seed, data=place(data), out=folder, address=address,
            tracking=uri, parallel=parallel, retries=retries, quick=quick,
        )  # fmt: skip


def trial(root: Path, number: int, data: str, backend: str, address: str) -> None:
    """One trial of a sweep, in a process of its own."""
    from benchmarks.commands.trial import trial_command

    trial_command(root, number, place(data), backend, address)


def compare(
    paths: Annotated[
        list[str],
        typer.Argument(help="Folder of `s4al splits` or `s4al sweep`, or run folders.", metavar="OUT|RUN..."),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="What the others are set against; default: supervised, or the first system.  Not of a sweep."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables and figures; default OUT, or compare/.")] = None,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow URI where the cells are, or none; default as for `s4al splits`.")
    ] = None,
    checkpoint: Annotated[
        Checkpoint,
        typer.Option(help="Weights that count; the best need evaluate.best_on_val=true in the cells of a grid."),
    ] = Checkpoint.last,
) -> None:
    """Side by side: the cells of a grid, the trials of a sweep, or the runs of several systems and seeds."""
    from benchmarks.commands.compare import compare_any

    compare_any([folder_of(one) for one in paths], beside(paths[0], "compare", out), against, tracking, checkpoint)


def replay(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys of `query` to change, as query.per_image=8.", metavar="[query.KEY=VALUE]..."),
    ] = None,
    acquisition: Annotated[str | None, typer.Option(help="Short for query.acquisition=...")] = None,
    data: Annotated[
        str | None, typer.Option(help="Ingested data set; default: where the run had it.", metavar=PLACE)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default RUN.replay-ACQUISITION beside the run.")] = None,
    backend: BackendOption = BackendName.local,
    address: AddressOption = None,
) -> None:
    """What another acquisition would have asked, given a run's networks, and how much of it the run has bought."""
    from benchmarks.commands.replay import replay_command

    replay_command(folder_of(run), overrides or [], acquisition=acquisition, data=place(data),
                   out=beside(run, "replay", out), backend=backend.value, address=address)  # fmt: skip


def headroom(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    part: Annotated[
        list[HeadroomPart] | None,
        typer.Option(
            help="ceiling: of the head's resolution (seconds); overfit: a few images (minutes); control: the pool's"
            " true labels against supervision, two whole trainings a seed.  Repeat for several; default: the first two."
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="overfit: images.")] = 4,
    steps: Annotated[int, typer.Option(min=20, help="overfit: training steps.")] = 1000,
    seeds: Annotated[str, typer.Option(help="control: separated by commas; two or more to judge.")] = "0",
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the answers; default runs/RECIPE.headroom.")] = None,
    backend: BackendOption = BackendName.local,
) -> None:
    """What a recipe's data, network and schedule can show at all.  The same command again resumes."""
    from benchmarks.commands.headroom import headroom_command

    parts = part or [HeadroomPart.ceiling, HeadroomPart.overfit]
    headroom_command(recipe, overrides or [], place(data), out, backend.value, parts, images, steps, seeds)


def query(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys of `query` to change, as query.per_image=8.", metavar="[query.KEY=VALUE]..."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Ingested data set; default: where the run had it.", metavar=PLACE)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default RUN.query beside the run.")] = None,
    backend: BackendOption = BackendName.local,
    address: AddressOption = None,
) -> None:
    """What the last model of a run would have labelled next: image, box, score, reason; the run is not changed."""
    from benchmarks.commands.query import query_command

    query_command(
        folder_of(run),
        overrides or [],
        data=place(data),
        out=beside(run, "query", out),
        backend=backend.value,
        address=address,
    )
