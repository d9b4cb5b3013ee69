import csv
import shutil
from dataclasses import replace

import pytest

from benchmarks.commands.compare import compare_any, compare_command
from benchmarks.figures.grid_figure import draw_grid
from benchmarks.report.grid_table import class_markdown, class_means, grid_csv, grid_markdown
from benchmarks.report.terminal_tables import print_outcome
from benchmarks.results.curves import paired
from benchmarks.results.grid import RATE, Result, controls, load, refuse_recipes, table
from orchestrator.choices import Checkpoint
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.folder.record import Record
from orchestrator.recipe.config import changed, override
from orchestrator.run.protocol import protocol
from orchestrator.studies.cells import METHODS, cell
from querying.base.errors import UserError
from querying.base.files import read_json, write_json
from tests.mlflow_files import sqlite_uri
from tests.small import FINISHED, small_config

MIOU = {
    ("supervised", "1/16"): [0.50, 0.54, 0.52],
    ("supervised", "1/8"): [0.60],
    ("cps", "1/16"): [0.55, 0.57, 0.59],
    ("cps", "1/8"): [0.63],
}


def results():
    found = []
    for (method, split), values in MIOU.items():
        for seed, miou in enumerate(values):
            iou, labelled = {"road": miou + 0.1, "train": None}, f"set {split} {seed}"
            found.append(
                Result(method, split, seed, miou, iou, 0.5, 20.0, labelled, "data", "whole image", small_config())
            )
    return found


def test_mean_spread_and_paired_difference():
    """Differences of cps at 1/16: 5, 3, 7 points: mean 5, deviation 2, interval 4.303 * 2 / sqrt(3) = 4.969."""
    rows = {(row.method, row.split): row for row in table(results(), "supervised")}
    assert list(rows) == [("supervised", "1/16"), ("supervised", "1/8"), ("cps", "1/16"), ("cps", "1/8")]
    cps = rows["cps", "1/16"]
    assert (cps.seeds, cps.miou, cps.spread) == (3, pytest.approx(57), pytest.approx(2))
    assert (cps.difference, cps.interval) == (pytest.approx(5), pytest.approx(4.969, abs=1e-3))
    single = rows["cps", "1/8"]
    assert (single.spread, single.difference, single.interval) == (None, pytest.approx(3), None)
    assert rows["supervised", "1/16"].difference is None


def test_classes_by_method_are_means_over_its_seeds():
    """Of three seeds; `train` is in no image and leaves its cell empty."""
    means = class_means(results(), "1/16")
    cps = [100 * one.class_iou["road"] for one in results() if (one.method, one.split) == ("cps", "1/16")]
    assert means["road"]["cps"] == pytest.approx(sum(cps) / len(cps))
    assert means["train"]["cps"] is None
    heads, _, road, train = class_markdown(results(), "1/16", "supervised").splitlines()
    assert heads == "| class | supervised | cps |"
    assert train == "| train |  |  |"
    assert road.endswith(f"| {sum(cps) / len(cps):.1f} |")


def with_control(*values, split="1/16"):
    """The results of before, another method below supervision, and a control of these mIoU."""
    [first, *_] = [one for one in results() if one.split == split]
    more = [replace(first, method="mean_teacher", seed=seed, miou=0.51) for seed in range(3)]
    return [*results(), *more, *(replace(first, method="pool_truth", seed=n, miou=v) for n, v in enumerate(values))]


def places(rows):
    return {(row.method, row.split): row.place for row in rows if row.place}


def test_methods_are_ranked_where_the_control_gains_more_than_seeds_differ():
    """Gains 6, 4, 8: mean 6, deviation 2.  At 1/8 nothing is known."""
    found = controls(with_control(0.56, 0.58, 0.60))
    assert (found["1/16"].gain, found["1/16"].spread, found["1/16"].seeds) == (pytest.approx(6), pytest.approx(2), 3)
    assert (found["1/16"].shows, found["1/8"]) == (True, None)
    rows = table(with_control(0.56, 0.58, 0.60), "supervised")
    assert places(rows) == {("cps", "1/16"): 1, ("mean_teacher", "1/16"): 2}
    text = grid_markdown(rows, with_control(0.56, 0.58, 0.60), "supervised")
    assert "| cps | 1/16 | 3 | 57.00 ± 2.00 | +5.00 ± 4.97 | 1 | 0.50 | 20.0 |" in text
    assert "| pool_truth | 1/16 | 3 | 58.00 ± 2.00 | +6.00 ± 4.97 |  | 0.50 | 20.0 |" in text
    assert "- 1/16: the pool's true labels bring +6.00 points (standard deviation 2.00, 3 seeds): this schedule" in text
    assert "- 1/8: nothing is ranked, for nobody knows" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            (0.52, 0.53, 0.58),
            "bring +2.33 points (standard deviation 3.51, 3 seeds), no more than seeds differ: this schedule ranks no",
        ),
        (
            (0.45, 0.50, 0.46),
            "bring -5.00 points (standard deviation 1.00, 3 seeds), no more than seeds differ: this schedule ranks no",
        ),
        ((0.70,), "bring +20.00 points in one seed: two or more are needed to judge (--seeds). Nothing"),
    ],
)
def test_nothing_is_ranked_where_the_control_shows_no_gain(values, said):
    cells = with_control(*values)
    rows = table(cells, "supervised")
    assert places(rows) == {}
    text = grid_markdown(rows, cells, "supervised")
    assert said in text
    assert "Nothing is ranked." in text
    assert "place" not in text.lower()


def test_a_method_that_lacks_a_seed_of_the_control_has_no_place():
    """Of the control's seeds 0 and 1 cps has mIoU 55 and 57, of its own three 57; the seed 2 that mean_teacher has more
    would make it the best."""
    cells = with_control(0.56, 0.58)
    [late] = [one for one in cells if (one.method, one.seed) == ("mean_teacher", 2)]
    cells = [replace(one, miou=0.99) if one is late else one for one in cells]
    rows = table(cells, "supervised")
    assert places(rows) == {("cps", "1/16"): 1, ("mean_teacher", "1/16"): 2}
    assert "Places are by mean mIoU over the control's seeds.\n" in grid_markdown(rows, cells, "supervised")

    cells = [one for one in cells if (one.method, one.split, one.seed) != ("mean_teacher", "1/16", 1)]
    rows = table(cells, "supervised")
    assert places(rows) == {("cps", "1/16"): 1}
    text = grid_markdown(rows, cells, "supervised")
    assert "over the control's seeds. No place, for a seed of the control is missing: mean_teacher.\n" in text
    assert draw_grid(rows).axes[0].get_legend().get_title().get_text() == ""

    cells = [one for one in cells if one.method != "cps"]
    text = grid_markdown(table(cells, "supervised"), cells, "supervised")
    assert "can show what a pool brings. No place, for a seed of the control is missing: mean_teacher.\n" in text
    assert "| place |" not in text

    cells = [one for one in cells if one.method != "mean_teacher"]
    assert "can show what a pool brings.\n" in grid_markdown(table(cells, "supervised"), cells, "supervised")


def test_the_legend_is_in_order_of_mious_only_where_they_are_ranked():
    def legend(cells):
        box = draw_grid(table(cells, "supervised")).axes[0].get_legend()
        return box.get_title().get_text(), [text.get_text() for text in box.get_texts()]

    ranked = with_control(0.56, 0.58, 0.60)
    assert legend(ranked) == ("by mIoU at 1/16", ["pool_truth", "cps", "supervised", "mean_teacher"])
    by_name = ["supervised", "cps", "mean_teacher", "pool_truth"]
    assert legend(with_control(0.45, 0.50, 0.46)) == ("", by_name)
    # Every method is at 1/4, too, where the control brings nothing; a fifth has no other share.
    quarter = [replace(one, split="1/4", miou=0.6) for one in [*ranked, replace(ranked[-1], method="u2pl")]]
    assert legend([*ranked, *quarter]) == ("", [*by_name, "u2pl"])


def test_only_common_seeds_are_paired():
    """Without seed 0 of supervised the differences are 3 and 7."""
    rows = table([one for one in results() if (one.method, one.seed) != ("supervised", 0)], "supervised")
    [cps] = [row for row in rows if (row.method, row.split) == ("cps", "1/16")]
    assert (cps.seeds, cps.difference) == (3, pytest.approx(5))
    assert cps.interval == pytest.approx(12.706 * 8**0.5 / 2**0.5, rel=1e-4)


def test_an_interval_needs_two_numbers_and_approaches_the_normal_one():
    assert paired([1.0]).half_interval is None
    for same in ([2.0, 2.0], [0.0, 0.0, 0.0], [100 * 0.3 / 0.3, 100 * 0.7 / 0.7, 100 * 0.47 / 0.47, 100 - 2e-14]):
        assert (paired(same).half_interval, paired(same).p) == (0.0, None)
    assert paired([0.0, 2.0] * 500).half_interval == pytest.approx(1.96 / 1000**0.5, rel=1e-2)


def test_markdown_and_csv_say_the_same():
    text = grid_markdown(table(results(), "supervised"), results(), "supervised")
    assert "| cps | 1/16 | 3 | 57.00 ± 2.00 | +5.00 ± 4.97 | 0.50 | 20.0 |" in text
    assert text.splitlines()[0].startswith("mIoU in %; whole image.")
    rows = list(csv.DictReader(grid_csv(results()).splitlines()))
    assert len(rows) == 8
    assert (rows[0]["miou"], rows[0]["road"], rows[0]["train"]) == ("50.000", "60.000", "")


def test_a_protocol_names_window_stride_weights_and_split():
    config = small_config("evaluate.window=[32,48]", "data.evaluate_on=val")
    assert protocol(config) == "windows 32x48 by 22x32, last checkpoint, on val"
    assert protocol(small_config(), Checkpoint.best_on_val) == "whole image, best on val checkpoint, on test"


def test_an_unknown_row_is_named():
    with pytest.raises(UserError, match="--against mean_teacher: there are supervised, cps"):
        table(results(), "mean_teacher")


def test_the_cells_of_a_grid_are_found_and_only_equal_ones_compared(toy_data, tmp_path, capsys):
    from tests.benchmarks.commands.test_splits_command import grid

    out = tmp_path / "grid"
    grid(toy_data.root, out)
    assert (out / "compare.png").exists(), "a grid compares its cells itself"
    shown = capsys.readouterr().out
    assert f"s4al predict {out}/" in shown
    assert f"s4al compare {out} --against" in shown
    found = load(out)
    assert [(one.method, one.split, one.seed) for one in found] == [
        ("mean_teacher", "1/4", 0), ("supervised", "1/4", 0),
    ]  # fmt: skip
    assert found[0].labelled_set == found[1].labelled_set
    assert found[0].protocol == "whole image, last checkpoint, on test, mobilenetv2_100, hours of CPU threads"
    capsys.readouterr()
    with pytest.raises(UserError, match="--tracking 'ftp://x'"):
        compare_command(out, tmp_path / "tables", "supervised", "ftp://x")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        compare_command(out, tmp_path / "file", "supervised", "none")
    assert ((tmp_path / "tables").exists(), capsys.readouterr().out) == (False, "")
    compare_command(out, tmp_path / "tables", "supervised", "none")
    shown = capsys.readouterr().out
    assert "|---|" not in shown
    title, *rows = (tmp_path / "tables/compare.md").read_text().splitlines()
    assert title in shown
    assert all(cell.strip() in shown for row in rows if "---" not in row for cell in row.split("|"))
    assert shown.endswith(
        f"written: {' '.join(str(tmp_path / 'tables/compare.') + kind for kind in ('md', 'csv', 'png'))}\n"
    )
    assert (tmp_path / "tables/compare.png").read_bytes().startswith(b"\x89PNG")

    path = out / "supervised/1_4/seed-0/summary.json"
    summary = read_json(path)
    write_json(path, {**summary, "labelled_set": {**summary["labelled_set"], "sha256": "other"}})
    with pytest.raises(UserError, match=r"mean_teacher 1/4 seed 0 and supervised 1/4 seed 0 differ in labelled set"):
        load(out)
    write_json(path, summary)
    config, found_with = read_recipe(path.with_name("recipe.yaml"))
    other = {**found_with, "data": {**found_with["data"], "sha256": "other"}}
    write_recipe(path.with_name("recipe.yaml"), config, other)
    with pytest.raises(UserError, match=r"mean_teacher 1/4 seed 0 and supervised 1/4 seed 0 differ in data"):
        load(out)
    write_json(path, {**summary, "finished": False})
    assert [one.method for one in load(out)] == ["mean_teacher"]


def test_the_best_weights_are_compared_where_they_were_kept(toy_data, tmp_path, monkeypatch, capsys):
    from tests.benchmarks.commands import test_splits_command

    kept = ["train.validate_epochs=1", "evaluate.best_on_val=true"]
    test_splits_command.grid(toy_data.root, tmp_path / "plain", methods="supervised")
    monkeypatch.setattr(test_splits_command, "TINY", [*test_splits_command.TINY, *kept])
    test_splits_command.grid(toy_data.root, tmp_path / "kept", methods="supervised")
    path = tmp_path / "kept/supervised/1_4/seed-0/summary.json"
    summary = read_json(path)
    summary["cycles"][0]["best_on_val"] |= {"miou": 0.9}
    write_json(path, summary)
    [last], [best] = load(tmp_path / "kept"), load(tmp_path / "kept", Checkpoint.best_on_val)
    assert (last.miou, best.miou) == (summary["cycles"][0]["miou"], 0.9)
    assert best.class_iou == summary["cycles"][0]["best_on_val"]["class_iou"]
    assert best.protocol == last.protocol.replace("last checkpoint", "best on val checkpoint")
    compare_command(tmp_path / "kept", tmp_path, "supervised", "none", Checkpoint.best_on_val)
    assert "| supervised | 1/4 | 1 | 90.00 |" in (tmp_path / "compare_best_on_val.md").read_text()
    print_outcome(RunLayout(path.parent), "none", None)
    assert "best on val %" in (shown := capsys.readouterr().out)
    assert "90.00" in shown
    with pytest.raises(UserError, match=r"seed-0: kept no best checkpoint; .*evaluate\.best_on_val=true"):
        load(tmp_path / "plain", Checkpoint.best_on_val)


def test_hours_count_all_devices_and_the_rate_is_the_median(toy_data, tmp_path):
    """Two threads: twice the wall time.  Rates of three epochs: the middle one."""
    from tests.benchmarks.commands.test_splits_command import grid

    grid(toy_data.root, tmp_path, methods="supervised", seeds="0")
    cell = tmp_path / "supervised/1_4/seed-0"
    (cell / "metrics.jsonl").unlink()
    record = Record(cell / "metrics.jsonl")
    for epoch, rate in enumerate((10.0, 50.0, 20.0)):
        record.log({"run": "main", "cycle": 0, "stage": "train", "from": "x", "epoch": epoch, RATE: rate})
    config, found = read_recipe(cell / "recipe.yaml")
    write_recipe(cell / "recipe.yaml", override(config, ["train.threads=2"]), found)
    summary = read_json(cell / "summary.json")
    [one] = load(tmp_path)
    assert one.images_per_second == 20
    assert one.hours == pytest.approx(2 * summary["cycles"][0]["seconds"]["train"] / 3600)
    write_recipe(cell / "recipe.yaml", override(config, ["train.threads=2"]), {**found, "device": "cuda"})
    [one] = load(tmp_path)
    assert one.hours == pytest.approx(summary["cycles"][0]["seconds"]["train"] / 3600)
    assert one.protocol.endswith("hours of GPUs")


@pytest.mark.filterwarnings("ignore")
def test_the_comparison_goes_to_the_run_of_the_grid(toy_data, tmp_path):
    from mlflow import MlflowClient

    from tests.benchmarks.commands.test_splits_command import grid

    out, uri = tmp_path / "grid", sqlite_uri(tmp_path / "mlflow.db")
    grid(toy_data.root, out, methods="supervised", splits="1/4,1/2", tracking=uri)
    compare_command(out, None, "supervised", uri)
    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_splits"]
    [group] = [r for r in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" not in r.data.tags]
    files = {file.path for file in client.list_artifacts(group.info.run_id, "compare")}
    assert files == {"compare/compare.md", "compare/compare.csv", "compare/compare.png"}
    points = {m.step: m.value for m in client.get_metric_history(group.info.run_id, "compare/supervised")}
    assert points == {2500: pytest.approx(load(out)[1].miou), 5000: pytest.approx(load(out)[0].miou)}
    with pytest.raises(UserError, match=r"the cells of .*grid were not tracked there"):
        compare_command(out, None, "supervised", f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()


def stub_grid(root, found, monkeypatch):
    """Cells that are nothing but their results."""
    for one in found:
        cell = root / one.method / one.split.replace("/", "_") / f"seed-{one.seed}"
        cell.mkdir(parents=True)
        write_json(cell / "summary.json", FINISHED)
    cells = {(one.method, one.split, one.seed): one for one in found}
    monkeypatch.setattr(
        "benchmarks.results.grid._result",
        lambda cell, *_: cells[cell.parts[-3], cell.parts[-2].replace("_", "/"), int(cell.name[5:])],
    )


def test_without_a_word_the_others_differ_from_supervised_or_else_from_the_first(tmp_path, monkeypatch, capsys):
    found = [one for one in results() if one.split == "1/8"]
    renamed = [replace(one, method={"supervised": "unimatch"}.get(one.method, one.method)) for one in found]
    for cells, first in ((found, "supervised"), (renamed, "cps")):
        stub_grid(tmp_path / first, cells, monkeypatch)
        compare_any([tmp_path / first], None, None, "none", Checkpoint.last)
        assert f"difference to `{first}`" in capsys.readouterr().out


def test_a_run_where_no_cell_of_a_grid_lies_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "a/b_c/seed-0")
    with pytest.raises(UserError, match=r"not a folder of `s4al splits`: split 'b/c': expected a share") as caught:
        compare_any([tmp_path], None, None, "none", Checkpoint.last)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_a_folder_without_cells_is_named(tmp_path):
    with pytest.raises(UserError, match="no finished cell"):
        load(tmp_path)


def test_the_cells_of_a_method_have_one_recipe_but_for_what_a_cell_is(tmp_path, monkeypatch):
    """What tells cells apart, what belongs to a machine, and how often somebody looks are no other recipe."""
    [first] = [one for one in results() if (one.method, one.split) == ("cps", "1/8")]

    def loading(name, *changes, split="1/8", seed=1, checkpoint=Checkpoint.last):
        other = replace(first, split=split, seed=seed, config=small_config(f"seed={seed}", *changes))
        stub_grid(tmp_path / name, [first, other], monkeypatch)
        return load(tmp_path / name, checkpoint)

    looks = ["train.validate_epochs=1", "evaluate.best_on_val=true"]
    same = ["name=x", "initial.fraction=0.5", "initial.cover=true", "train.threads=2", "train.timeout=9", *looks]
    assert len(loading("same", *same, split="1/2")) == 2
    lr = r"lr: cps 1/8 seed 0 and cps 1/8 seed 1 are of two recipes: train.lr is \S+ and 0.5; another recipe needs"
    with pytest.raises(UserError, match=lr):
        loading("lr", "train.lr=0.5")
    with pytest.raises(UserError, match=r"train\.validate_epochs is 0 and 1"):
        loading("looks", *looks, checkpoint=Checkpoint.best_on_val)


def test_methods_share_all_keys_but_those_of_methods(tmp_path, monkeypatch):
    """A control that trained for longer would let methods of a shorter schedule be ranked."""
    shared = [(method, method, cell(small_config(), method, "1/8", 0)) for method in METHODS]
    refuse_recipes(shared, tmp_path)
    other = changed(shared[0][2], "", train={"epochs": 7})
    with pytest.raises(UserError, match=r"supervised and later are of two recipes: train\.epochs is \d and 7; another"):
        refuse_recipes([*shared, ("new", "later", other)], tmp_path)

    first, second = (one for one in results() if (one.split, one.seed) == ("1/16", 0))
    stub_grid(tmp_path / "two", [first, replace(second, config=small_config("train.lr=0.5"))], monkeypatch)
    with pytest.raises(UserError, match=r"cps 1/16 seed 0 and supervised 1/16 seed 0 are of two recipes: train\.lr"):
        load(tmp_path / "two")


def test_another_protocol_is_not_compared(monkeypatch, tmp_path):
    first = results()[0]
    cells = iter([first, replace(first, method="cps", protocol="windows")])
    monkeypatch.setattr("benchmarks.results.grid._result", lambda cell, summary, checkpoint: next(cells))
    for method in ("a", "b"):
        (tmp_path / method / "1_4" / "seed-0").mkdir(parents=True)
        write_json(tmp_path / method / "1_4/seed-0/summary.json", FINISHED)
    with pytest.raises(UserError, match="differ in protocol"):
        load(tmp_path)
