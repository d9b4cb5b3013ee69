"""Systems side by side: curves as numbers, what was bought and what it cost, and the tables made of them."""

import csv
import html
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from scipy.stats import ttest_rel

from benchmarks.commands.compare import compare_any
from benchmarks.report.systems_table import _needed, as_markdown, numbers
from benchmarks.results.curves import Curve, common_range, paired
from benchmarks.results.systems import (
    TRAIN,
    Bought,
    System,
    areas,
    labels_needed,
    load_systems,
    overlap,
    overlaps,
    segments,
    shares_bought,
)
from orchestrator.choices import Checkpoint
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.recipe.config import override
from querying.base.errors import UserError
from querying.base.files import read_json, write_json
from querying.dataset.schemas import LEDGER
from querying.dataset.shards import encode_label
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from tests.mlflow_files import sqlite_uri

LINE = Curve([0.1, 0.2, 0.4], [0.4, 0.6, 0.7])


def test_area_and_labels_of_a_broken_line():
    """From 0.1 to 0.4: (0.1 * 0.5 + 0.2 * 0.65) / 0.3 = 0.6; from 0.15 to 0.3: (0.05 * 0.55 + 0.1 * 0.625) / 0.15."""
    assert LINE.area(0.1, 0.4) == pytest.approx(0.6)
    assert LINE.area(0.15, 0.3) == pytest.approx((0.05 * 0.55 + 0.1 * 0.625) / 0.15)
    assert [LINE.labels_for(level) for level in (0.3, 0.4, 0.5, 0.65, 0.71)] == [
        0.1, 0.1, pytest.approx(0.15), pytest.approx(0.3), None,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"0\.5 is outside of 0\.1\.\.0\.4"):
        LINE.at(0.5)
    assert Curve([0.1], [0.4]).at(0.1) == 0.4


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 0.4), st.floats(0.6, 1))
def test_area_equals_a_fine_sum(mious, low, high):
    curve = Curve(list(np.linspace(0, 1, len(mious))), mious)
    x = np.linspace(low, high, 20_001)
    expected = np.interp(x, curve.shares, curve.mious)
    assert curve.area(low, high) == pytest.approx(np.trapezoid(expected, x) / (high - low), abs=1e-6)


def test_only_what_all_curves_cover_is_compared():
    assert common_range([LINE, Curve([0.15, 0.3], [0, 1])]) == (0.15, 0.3)
    assert common_range([LINE, Curve([0.4, 0.5], [0, 1])]) is None
    assert common_range([LINE, Curve([0.2], [0.3])]) == (0.1, 0.4)
    assert common_range([Curve([0.2], [0.3])]) is None


def test_paired_differences_equal_scipys_test():
    a, b = [0.5, 0.7, 0.55, 0.62], [0.45, 0.6, 0.56, 0.5]
    found = paired([x - y for x, y in zip(a, b, strict=True)])
    expected = ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean - found.half_interval == pytest.approx(low)
    assert found.mean + found.half_interval == pytest.approx(high)
    assert paired([]) is None
    assert (paired([0.5]).half_interval, paired([0.5]).p) == (None, None)
    assert (paired([0.5, 0.5]).half_interval, paired([0.5, 0.5]).p) == (0, None)


def run_of(shares, mious, full=None):
    cycles = [
        {"cycle": n, "labelled_fraction": x, "miou": y} for n, (x, y) in enumerate(zip(shares, mious, strict=True))
    ]
    return Bought(SimpleNamespace(cycles=cycles, last=cycles[-1], supervised=full))


def test_labels_for_nearly_all_labels_accuracy_use_the_runs_own_full_training_or_the_systems_mean():
    """95 % of 0.6 is 0.57; half-way between 0.5 and 0.64 of a run of its own full training of 0.6."""
    first, second = run_of([0.1, 0.2], [0.5, 0.64], 0.6), run_of([0.1, 0.2], [0.5, 0.55])
    assert labels_needed(System("a", {0: first, 1: second})) == [pytest.approx(0.15), None]
    assert labels_needed(System("a", {1: second})) == []


def test_labels_that_the_first_cycle_did_not_even_need_are_marked():
    """95 % of 0.6 is 0.57."""
    late, early = run_of([0.1, 0.2], [0.5, 0.64], 0.6), run_of([0.1, 0.2], [0.57, 0.64], 0.6)
    assert _needed(System("a", {0: late})) == "15.00"
    assert _needed(System("a", {0: early})) == "<= 10.00"
    assert _needed(System("a", {0: late, 1: early})) == "<= 12.50 ± 3.54"
    assert _needed(System("a", {0: early, 1: run_of([0.1], [0.3], 0.6)})) == "1 of 2 seeds"


def test_areas_are_taken_over_the_range_of_all_systems():
    a, b = System("a", {0: run_of([0.1, 0.4], [0.4, 0.7])}), System("b", {0: run_of([0.2, 0.3], [0.5, 0.9])})
    span, found = areas([a, b])
    assert span == (0.2, 0.3)
    assert found == {"a": {0: pytest.approx(0.55)}, "b": {0: pytest.approx(0.7)}}
    assert areas([a, System("c", {0: run_of([0.5, 0.6], [0.5, 0.6])})]) == (None, {})
    assert areas([System("c", {0: run_of([0.5], [0.5])})]) == (None, {})


def test_a_run_of_one_cycle_takes_the_area_from_no_other():
    short = run_of([0.25], [0.5])
    a, b = System("a", {0: run_of([0.1, 0.4], [0.4, 0.7]), 1: short}), System("b", {0: short})
    assert areas([a, b]) == ((0.1, 0.4), {"a": {0: pytest.approx(0.55)}, "b": {}})


def queries_of(cells, grid, cycle=1):
    found = SimpleNamespace(
        last={"cycle": cycle}, recorded=None, ledger=SimpleNamespace(bought=lambda up_to: cells[up_to])
    )
    run = Bought(found)
    run.__dict__["grid"] = grid
    return run


def test_overlap_is_in_pixels_also_between_grids():
    """Cells of 2 in one, of 4 in the other: 4 of 16 pixels; another image that only one asked about adds 4."""
    fine, coarse = RegionGrid(4, 4, 2), RegionGrid(4, 4, 4)
    one, other = queries_of({1: {"a": [3], "b": [0]}}, fine), queries_of({1: {"a": [0]}}, coarse)
    assert overlap(one, other) == pytest.approx(4 / 20)
    assert overlap(one, one) == 1
    assert overlap(queries_of({1: {}}, fine), queries_of({1: {}}, fine)) is None


def test_overlap_goes_to_the_last_cycle_that_both_have_and_over_common_seeds():
    grid = RegionGrid(4, 4, 2)
    short = queries_of({1: {"a": [0]}}, grid)
    long = queries_of({1: {"a": [1]}, 2: {"a": [1, 0]}}, grid, cycle=2)
    assert overlap(short, long) == 0
    systems = [System("x", {0: short, 1: short}), System("y", {1: short, 2: long}), System("z", {7: long})]
    assert overlaps(systems) == {("x", "y"): 1}


def test_a_click_names_a_segment_within_what_was_bought_of_an_image_at_a_time(tmp_path):
    """Image a: class 1 reaches over two cells (one click), class 2 lies twice, void costs nothing; b: one cell."""
    grid, ledger = RegionGrid(4, 8, 4), Ledger(tmp_path)
    left = np.array([[2, 9, 9, 1], [9, 9, 9, 1], [9, 9, 9, 9], [2, 9, 9, 9]], np.uint8)
    right = np.array([[1, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]], np.uint8)
    left[left == 9], right[right == 9] = 255, 255
    rows = [("b", 0, right), ("a", 1, right), ("a", 0, left)]
    columns = {
        "image_id": [image for image, _, _ in rows], "region": [region for _, region, _ in rows], "cycle": [0] * 3,
        "pixels": [16] * 3, "void_pixels": [0] * 3, "score": [None] * 3,
        "label": [encode_label(cell) for *_, cell in rows],
    }  # fmt: skip
    ledger.append(0, [pa.RecordBatch.from_pydict(columns, schema=LEDGER)])
    assert segments(ledger, 0, grid) == 3 + 1


@pytest.fixture(scope="module")
def others(finished, tmp_path_factory):
    """The finished run, the same as seed 1, and both as another system: their figures differ."""
    root = tmp_path_factory.mktemp("systems")
    made = []
    for name, seed, more in (("toy_s4al_plus", 1, 0.02), ("rival", 0, -0.01), ("rival", 1, 0.03)):
        copy = shutil.copytree(finished, root / f"{name}-{seed}")
        config, provenance = read_recipe(copy / "recipe.yaml")
        write_recipe(copy / "recipe.yaml", override(config, [f"name={name}", f"seed={seed}"]), provenance)
        summary = read_json(copy / "summary.json")
        for row in summary["cycles"]:
            row["miou"] += more
        write_json(copy / "summary.json", summary)
        made.append(copy)
    return [finished, *made]


def test_every_table_says_what_the_runs_found(others, tmp_path, capsys):
    compare_any(others, tmp_path / "out", None, "none", Checkpoint.last)
    text = (tmp_path / "out/systems.md").read_text()
    shown = capsys.readouterr().out
    assert "|---|" not in shown
    cells = [html.unescape(cell).strip() for row in text.splitlines() if "---" not in row for cell in row.split("|")]
    assert [cell for cell in cells if cell not in shown] == []
    names = [str(tmp_path / "out" / name) for name in ("systems.md", "systems.csv", "systems.png", "bought.png")]
    assert shown.splitlines()[-1] == f"written: {' '.join(names)}"
    systems = load_systems(others)
    assert [(system.name, sorted(system.seeds)) for system in systems] == [("toy_s4al_plus", [0, 1]), ("rival", [0, 1])]
    rival = next(line for line in text.splitlines() if line.startswith("| rival | 2 |"))
    assert " 0.00 ± 0.00 |" not in rival
    assert "+0.00 ± 12.71" in rival  # -1 and +1 points: 12.706 * sqrt(2) / sqrt(2)
    assert "| toy_s4al_plus |  | 100.0 |" in text
    rows = list(csv.DictReader((tmp_path / "out/systems.csv").read_text().splitlines()))
    assert len(rows) == sum(len(read_json(run / "summary.json")["cycles"]) for run in others)
    first = read_json(others[0] / "summary.json")["cycles"][-1]
    line = next(row for row in rows if (row["system"], row["seed"], row["cycle"]) == ("toy_s4al_plus", "0", "2"))
    assert float(line["miou"]) == pytest.approx(100 * first["miou"], abs=1e-3)
    assert (int(line["cells"]), int(line["void"])) == (first["cells"], first["void_pixels"])
    assert int(line["clicks"]) >= first["cells"] / 10
    for name in ("systems.png", "bought.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_shares_of_what_was_asked_are_those_of_the_ledger(others, toy_data):
    shares = shares_bought(load_systems(others[:1]))
    assert set(shares) == {TRAIN, "toy_s4al_plus"}
    assert sum(shares["toy_s4al_plus"].values()) == pytest.approx(1)
    assert sum(shares[TRAIN].values()) == pytest.approx(1)
    counts = np.sum([shard.class_pixels for shard in toy_data.shards("train")], axis=0)
    assert shares[TRAIN][toy_data.classes[0]] == pytest.approx(counts[0] / counts.sum())


@pytest.mark.filterwarnings("ignore")
def test_a_comparison_of_the_same_runs_is_one_run_in_mlflow(others, tmp_path):
    from mlflow import MlflowClient

    uri = sqlite_uri(tmp_path / "mlflow.db")
    for order in (others, others[::-1]):
        compare_any(order, tmp_path / "out", None, uri, Checkpoint.last)
    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "comparisons"]
    [run] = client.search_runs([experiment.experiment_id])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "systems.md", "systems.csv", "systems.png", "bought.png",
    }  # fmt: skip
    assert {"miou/rival", "area/rival", "labelled/toy_s4al_plus"} <= run.data.metrics.keys()


def test_what_can_not_be_compared_is_named(others, tmp_path):
    def comparing(*runs, against=None, checkpoint=Checkpoint.last):
        compare_any(list(runs), tmp_path / "out", against, "none", checkpoint)

    copy = shutil.copytree(others[2], tmp_path / "copy")
    with pytest.raises(UserError, match=r"copy and .*rival-0 are both rival with seed 0"):
        comparing(*others, copy)
    with pytest.raises(UserError, match="one run alone"):
        comparing(copy)
    with pytest.raises(UserError, match="--against entropy: there are toy_s4al_plus, rival"):
        comparing(*others, against="entropy")
    with pytest.raises(UserError, match=r"nowhere: not a run folder"):
        comparing(copy, tmp_path / "nowhere")
    with pytest.raises(UserError, match="--checkpoint best_on_val"):
        comparing(*others, checkpoint=Checkpoint.best_on_val)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        compare_any(others, tmp_path / "file", None, "none", Checkpoint.last)
    config, provenance = read_recipe(copy / "recipe.yaml")
    other_data = {**provenance, "data": {**provenance["data"], "sha256": "x"}}
    write_recipe(copy / "recipe.yaml", override(config, ["seed=5"]), other_data)
    with pytest.raises(UserError, match="differ in their data"):
        comparing(others[0], copy)
    write_recipe(copy / "recipe.yaml", override(config, ["seed=5", "evaluate.window=[32,32]"]), provenance)
    with pytest.raises(UserError, match="differ in their evaluation"):
        comparing(others[0], copy)
    write_json(copy / "summary.json", {**read_json(copy / "summary.json"), "finished": False})
    with pytest.raises(UserError, match="copy: is not finished"):
        comparing(others[0], copy)
    assert not (tmp_path / "out").exists()


def test_runs_of_one_name_are_seeds_of_one_recipe(others, tmp_path):
    """Training on all labels too, looking at val and what belongs to a machine are no other recipe."""
    copy = shutil.copytree(others[2], tmp_path / "copy")
    config, provenance = read_recipe(copy / "recipe.yaml")
    same = [
        "seed=5",
        "reference=false",
        "train.validate_epochs=1",
        "train.threads=2",
        "train.timeout=9",
        "initial.list=l",
    ]
    write_recipe(copy / "recipe.yaml", override(config, same), provenance)
    [system] = load_systems([others[2], copy])
    assert sorted(system.seeds) == [0, 5]
    batch = config.train.batch_size
    for changed, what in (
        ("query.acquisition=random", "query.acquisition is 'entropy' and 'random'"),
        (f"train.batch_size={batch + 2}", f"train.batch_size is {batch} and {batch + 2}"),
    ):
        write_recipe(copy / "recipe.yaml", override(config, ["seed=5", changed]), provenance)
        with pytest.raises(UserError, match=rf"rival-0 and \S+copy are both rival, but {what}: .*name=NEW"):
            load_systems([others[2], copy])
    moved = override(config, ["seed=5", "model.weights=/elsewhere/weights.safetensors"])
    write_recipe(copy / "recipe.yaml", moved, provenance)
    assert sorted(load_systems([others[2], copy])[0].seeds) == [0, 5]
    other = {**provenance, "first_weights": "0" * 64}
    for one, what in ((moved, "model.weights is"), (override(config, ["seed=5"]), "their encoders started from")):
        write_recipe(copy / "recipe.yaml", one, other)
        with pytest.raises(UserError, match=rf"rival-0 and \S+copy are both rival, but {what} .*name=NEW"):
            load_systems([others[2], copy])
    write_recipe(copy / "recipe.yaml", override(config, ["name=new", "query.acquisition=random"]), provenance)
    assert [system.name for system in load_systems([others[2], copy])] == ["rival", "new"]


def test_a_system_of_one_cycle_has_no_area_and_no_overlap(others, tmp_path):
    copy = shutil.copytree(others[0], tmp_path / "once")
    config, provenance = read_recipe(copy / "recipe.yaml")
    write_recipe(copy / "recipe.yaml", override(config, ["name=once", "cycles=0"]), provenance)
    summary = read_json(copy / "summary.json")
    first = summary["cycles"][0]
    write_json(copy / "summary.json", {**summary, "cycles": [first], "supervised_miou": first["miou"]})
    systems = load_systems([others[0], copy])
    text = as_markdown(systems, "once")
    assert "Without an area, having a single labelled share: once seed 0." in text.splitlines()[0]
    assert "both bought" not in text
    cells = {line.split(" | ")[0]: line.split(" | ") for line in text.splitlines()[2:6]}
    [area] = areas(systems)[1]["toy_s4al_plus"].values()
    assert cells["| toy_s4al_plus"][7:10] == [f"{100 * area:.2f}", "", ""]
    assert cells["| once"][7:] == ["", "", "", f"&lt;= {100 * first['labelled_fraction']:.2f} |"]
    assert " <=: a first cycle was there already." in text.splitlines()[0]
    assert numbers(systems).keys() >= {"miou/once", "area/toy_s4al_plus"}
    assert "area/once" not in numbers(systems)
