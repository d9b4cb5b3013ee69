"""The report says what the run folder says, is one safe page, and changes nothing."""

import re
import shutil
import statistics
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.figures import overlays
from benchmarks.figures.final_pictures import WRONG, chosen, draw_final
from benchmarks.figures.overlays import (
    NUM_IMAGES,
    _heat,
    _last_seen,
    asked_most,
    coverage_of,
    draw_queried,
    queried_cells,
    spread,
)
from benchmarks.figures.run_figures import Dots, draw_class_iou
from benchmarks.figures.style import BLUE, INK, blend, dimmed, inline, save, styled, svg_text
from benchmarks.report import page as report_module
from benchmarks.report.page import _bought, _clock, _environment, write_report
from benchmarks.report.terminal_tables import about_intervals, interval_of, print_outcome
from benchmarks.results.findings import Findings, find_data, load_findings
from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.folder.record import latest
from orchestrator.recipe.config import build
from orchestrator.recipe.provenance import provenance as _provenance
from orchestrator.run.summary import image_counts
from querying.base.arrow_file import ArrowFile
from querying.base.errors import DamagedError, Interrupted, UserError, WaitingForLabels
from querying.base.files import read_json, sha256, write_json
from querying.dataset.index import DataIndex
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import read_truth
from querying.labels.regions import RegionGrid
from tests.annotated import hand_in, make_data, truth
from tests.old_data import without_ids
from tests.small import small_config, small_run
from training.inference.interval import INTERVAL, ImageCounts


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    return write_report([finished], tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def run(finished):
    return load_findings([finished])[0]


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def edit_json(path, change):
    tree = read_json(path)
    change(tree)
    write_json(path, tree)


def edit_recipe(run, change):
    config, provenance = read_recipe(run / "recipe.yaml")
    tree = {**config.model_dump(), "provenance": provenance}
    change(tree)
    provenance = tree.pop("provenance")
    write_recipe(run / "recipe.yaml", build(tree), provenance)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_every_figure_and_table_is_written(report):
    charts = {f"{name}.{kind}" for name in ("curve", "class_iou", "training", "stage_times", "confusion")
              for kind in ("svg", "png")}  # fmt: skip
    assert {path.name for path in report.parent.iterdir()} == charts | {
        "final.png", "queried.png", "pseudo.png", "report.md", "report.html",
    }  # fmt: skip


def test_the_best_on_val_stands_beside_the_last_where_it_was_asked_for(copy, report, tmp_path):
    edit_json(copy / "summary.json", lambda s: [row.update(best_on_val={"miou": 0.4321}) for row in s["cycles"]])
    page = write_report([copy], tmp_path / "report").read_text()
    assert page.count("<td>43.21</td>") == len(read_json(copy / "summary.json")["cycles"])
    assert page.count("best on val<br>") == 1
    assert "best on val" not in report.read_text()


def test_the_page_needs_nothing_but_itself_and_runs_nothing(report):
    page = report.read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert "<script" not in page
    assert not re.search(r"\son\w+=", page)
    targets = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert targets
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"@import|url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_same_run_gives_the_same_bytes_and_is_not_touched(report, finished, tmp_path):
    before = files(finished)
    write_report([finished], tmp_path)
    assert files(finished) == before
    assert files(tmp_path) == files(report.parent)


def test_the_last_miou_on_the_page_is_that_of_the_confusion_matrix(report, finished):
    counts = np.array(read_json(finished / "cycle-002/evaluation/confusion.json")["counts"], float)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    miou = 100 * np.mean(counts.diagonal()[union > 0] / union[union > 0])
    page = report.read_text()
    assert f"<b>{miou:.1f} %</b><span>mIoU after cycle 2" in page
    assert f"<td>{miou:.2f}</td>" in page


def test_the_markdown_table_holds_every_cycle_and_every_class(report, run):
    lines = (report.parent / "report.md").read_text().splitlines()
    row = run.last
    shares = [row[key] for key in ("labelled_fraction", "labelled_fraction_valid", "queried_fraction_pool")]
    cells = [run.label, "2", *(f"{100 * share:.2f}" for share in shares), str(row["cells"]), f"{100 * row['miou']:.2f}"]
    assert any(line.startswith(f"| {' | '.join(cells)} |") for line in lines)
    for name in run.classes:
        values = [f"{100 * cycle['class_iou'][name]:.2f}" for cycle in run.cycles]
        assert f"| {name} | {' | '.join(values)} |" in lines


def test_class_shares_of_the_bought_cells_are_those_of_the_truth_under_them(run, toy_data):
    masks = {i: m for shard in toy_data.shards("train") for i, m in read_truth(toy_data.root, shard)}
    grid = RegionGrid(48, 64, 16)
    counts = {"initial": np.zeros(256), "queried": np.zeros(256)}
    for cycle, group in ((0, "initial"), (1, "queried"), (2, "queried")):
        for row in pq.read_table(run.layout.root / f"ledger/cycle-{cycle:03d}.parquet").to_pylist():
            counts[group] += np.bincount(masks[row["image_id"]][grid.box(row["region"])].ravel(), minlength=256)
    counts["data"] = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks.values())
    for group, count_256 in counts.items():
        expected = count_256[:6] / count_256[:6].sum()
        np.testing.assert_allclose([row[group] for row in _bought(run, toy_data)], expected, rtol=1e-12)
    assert run.bought[0][-1] == counts["initial"][IGNORE]


def test_the_outlined_cells_are_the_queries_of_the_ledger(run):
    ranking = asked_most(run)
    found = {(i, cell.region, cell.cycle) for i, cells in queried_cells(run, ranking).items() for cell in cells}
    rows = [row for cycle in (1, 2) for row in pq.read_table(run.ledger.path(cycle)).to_pylist()]
    assert found == {(row["image_id"], row["region"], row["cycle"]) for row in rows}
    assert len(rows) == run.queried_cells
    scores = {}
    for row in rows:
        scores.setdefault(row["image_id"], []).append(row["score"])
    assert ranking == sorted(scores, key=lambda image_id: (-len(scores[image_id]), -max(scores[image_id])))
    assert queried_cells(run, ranking[:1]) == {ranking[0]: queried_cells(run, ranking)[ranking[0]]}


def test_coverage_is_the_share_of_pixels_that_got_a_pseudo_label(run):
    from querying.dataset.shards import decode_label

    ids = run.scored(1).ids.to_pylist()
    pngs = list(run.scored(1).pseudo_labels([*ids, "of another cycle"]).values())
    assert len(pngs) == len(ids) == 24 - 5
    assert coverage_of(run, 1) == pytest.approx(np.mean([decode_label(png) != IGNORE for png in pngs]), abs=1e-6)
    assert coverage_of(run, 2) is None


def test_a_report_opens_a_shard_once_to_know_it_and_again_only_to_show_it(finished, tmp_path, monkeypatch):
    """Ten passes over all shards were a minute and a half of the report of a pool of 9,375."""
    opened = Counter()
    opening = ArrowFile.__init__

    def counted(file, path, *rest):
        opened[path] += 1
        opening(file, path, *rest)

    monkeypatch.setattr(ArrowFile, "__init__", counted)
    write_report([finished], tmp_path)
    assert len(opened) >= 10  # of two cycles, 5 shards each
    once = [path for path in opened if path.name.startswith("pseudo-")]
    assert len(once) == 10
    assert sum(opened[path] for path in once) <= len(once) + 2 * NUM_IMAGES
    assert sum(count for path, count in opened.items() if path not in once) <= 6 * NUM_IMAGES


def test_rates_are_images_over_seconds(run, toy_data):
    rates, row = run.rates(toy_data), run.cycles[1]
    assert rates[1]["evaluate"] == pytest.approx(6 / row["seconds"]["evaluate"])
    assert rates[1]["score"] == pytest.approx((24 - 5) / row["seconds"]["score"])
    assert rates[1]["train"] == run.epochs[1]["train/images_per_second"]
    assert "score" not in rates[2]
    assert set(run.rates(None)[1]) == {"train"}


def test_rates_of_data_without_files_of_ids_are_the_same_and_read_no_image(run, toy_data, tmp_path):
    old = without_ids(shutil.copytree(toy_data.root, tmp_path / "data"))
    shutil.rmtree(old / "images")
    assert run.rates(DataIndex.load(old, shards_too=False)) == run.rates(toy_data)


def test_without_its_data_set_the_report_leaves_the_overlays_out_and_says_so(copy, tmp_path):
    edit_recipe(copy, lambda tree: tree["provenance"]["data"].update(root="/nowhere/toy"))
    page = write_report([copy], tmp_path / "out").read_text()
    assert "The data set is not at /nowhere/toy any more. The overlays" in page
    assert "data:image" not in page
    assert not list((tmp_path / "out").glob("queried*"))


def test_another_data_set_is_not_taken_for_that_of_the_run(copy):
    edit_recipe(copy, lambda tree: tree["provenance"]["data"].update(sha256="0" * 64))
    index, missing = find_data(load_findings([copy])[0])
    assert index is None
    assert "another SHA-256" in missing
    edit_recipe(copy, lambda tree: tree.update(provenance={}))
    index, missing = find_data(load_findings([copy])[0])
    assert index is None
    assert "does not say where" in missing


def test_a_picture_that_no_longer_belongs_to_the_report_is_removed(copy, tmp_path):
    """A run whose first cycle alone is finished has asked nothing yet, but has pseudo-labels."""
    edit_json(copy / "summary.json", lambda tree: tree.update(cycles=tree["cycles"][:1]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/queried.png").write_bytes(b"old")
    page = write_report([copy], tmp_path / "out").read_text()
    assert not (tmp_path / "out/queried.png").exists()
    assert (tmp_path / "out/pseudo.png").exists()
    assert "What was asked" not in page


def test_names_are_text_whatever_they_look_like(copy, tmp_path):
    hostile = ["<script>alert(1)</script>", "$\\frac$", "a|b", "--><b>", "&amp;", "plain"]

    def rename(tree):
        for row in tree["cycles"]:
            row["class_iou"] = dict(zip(hostile, row["class_iou"].values(), strict=True))

    edit_json(copy / "summary.json", rename)
    edit_json(copy / "reference/summary.json", rename)
    edit_recipe(copy, lambda tree: tree["provenance"].update(commit="<img src=x onerror=alert(2)>"))
    edit_recipe(copy, lambda tree: tree["provenance"]["data"].update(root="/nowhere/<b>"))
    page = write_report([copy], tmp_path / "out").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" in page
    assert "--><b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a\\|b" in (tmp_path / "out/report.md").read_text()


def test_a_class_without_a_pixel_is_called_absent(copy, tmp_path):
    def remove(tree):
        for row in tree["counts"]:
            row[5] = 0
        tree["counts"][5] = [0] * 6

    edit_recipe(copy, lambda tree: tree.update(provenance={}))
    edit_json(copy / "cycle-002/evaluation/confusion.json", remove)
    name = load_findings([copy])[0].classes[5]
    edit_json(copy / "summary.json", lambda tree: [row["class_iou"].update({name: None}) for row in tree["cycles"]])
    page = write_report([copy], tmp_path / "out").read_text()
    assert re.search(rf"<th>{name} <span[^>]*>\(absent from test\)</span></th><td>-</td>", page)
    assert load_findings([copy])[0].absent == {name}


def test_several_runs_are_compared_over_their_seeds(finished, copy, tmp_path):
    edit_recipe(copy, lambda tree: tree.update(seed=7))
    edit_json(copy / "summary.json", lambda tree: tree["cycles"][-1].update(miou=0.5))
    page = write_report([finished, copy], tmp_path / "out").read_text()
    values = [100 * load_findings([finished])[0].last["miou"], 50.0]
    assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in page
    assert "seed 7" in page
    differing = re.search(r"What differs.*?</table>", page, re.DOTALL)[0]
    assert re.findall(r"<code>([^<]*)</code>", differing) == ["seed"]
    assert not (tmp_path / "out/confusion.svg").exists()


def test_images_that_are_labelled_whole_show_the_last_query_that_saw_them(toy_data, tmp_path):
    """Two rounds of whole images: those of the first are not scored before the second (`camvid_deal`)."""
    words = ("cycles=2", "train.epochs=1", "query.unit=image", "query.images=2", "train.steps_per_epoch=1")
    write_recipe(tmp_path / "run/recipe.yaml", small_config(*words), _provenance(toy_data, tmp_path / "none"))
    small_run(toy_data.root, tmp_path / "run", *words)
    run = load_findings([tmp_path / "run"])[0]
    bought = {image_id: cells[0].cycle for image_id, cells in queried_cells(run, asked_most(run)).items()}
    assert sorted(bought.values()) == [1, 1, 2, 2]
    grid = RegionGrid(48, 64, run.config.query.region_size)
    assert {image_id: cycle for image_id, (cycle, _, _) in _last_seen(run, 2, list(bought), grid).items()} == bought
    figure = draw_queried(run, toy_data)
    shown = {axes.get_xlabel() for axes in figure.axes}
    assert {"query for cycle 1", "query for cycle 2"} <= shown


def test_where_people_answered_and_nobody_knows_the_truth_what_came_back_is_shown(tmp_path):
    words = ("cycles=1", "query.region_size=16", "query.per_image=1", "query.threshold=0.3", "train.epochs=1",
             "train.steps_per_epoch=1", "query.scales=[1]", "augment.cutout_size=8", "annotator=human",
             "initial.images=4")  # fmt: skip
    data, where = make_data(tmp_path / "data", 12, 4), tmp_path / "run"
    index = DataIndex.load(data)
    write_recipe(where / "recipe.yaml", small_config(*words), _provenance(index, tmp_path / "none"))
    with pytest.raises(WaitingForLabels):
        small_run(data, where, *words)
    hand_in(where, truth(12))
    small_run(data, where, *words)
    run = load_findings([where])[0]
    queried, pseudo = draw_queried(run, index), overlays.draw_pseudo(run, index)
    titles = [axes.get_title() for axes in queried.axes]
    assert "what came back" in titles
    assert "truth" not in titles
    back = next(axes for axes in queried.axes if axes.get_title() == "what came back")
    assert len(back.patches) == len(queried.axes[0].patches) > 0
    assert [axes.get_ylabel() for axes in pseudo.axes if axes.get_ylabel()] == ["image", "pseudo-label of cycle 0"]
    assert [row["data"] for row in _bought(run, index)] == [None] * 4, "no share of a split that nobody knows"
    page = write_report([where], tmp_path / "out").read_text()
    assert "the fourth what people said" in page
    assert "compare with the truth" not in page


FIGURES = ("curve", "class_iou", "confusion", "training", "stage_times", "queried", "pseudo")


def test_a_part_that_fails_is_named_and_costs_no_other(finished, tmp_path, monkeypatch, caplog):
    (tmp_path / "confusion.svg").write_text("of an earlier report")

    def fail(*args):
        raise KeyError("train_00002")

    for name in ("curve", "class_iou", "training", "stage_times"):
        monkeypatch.setattr(report_module, f"draw_{name}", lambda *args: None)  # nothing to draw: says nothing
    monkeypatch.setattr(report_module, "draw_confusion", fail)
    monkeypatch.setattr(overlays, "draw_queried", fail)
    monkeypatch.setattr(overlays, "draw_pseudo", lambda *args: None)
    monkeypatch.setattr(report_module, "_bought", fail)
    page = write_report([finished], tmp_path).read_text()
    parts = ("class shares of what was bought", "confusion", "queried")
    assert re.findall("Left out, because it failed: (.*): KeyError: &#39;train_00002&#39;", page) == list(parts)
    assert [message for message in caplog.messages if "KeyError" in message] == [
        f"left out: {part}: KeyError: 'train_00002'" for part in parts
    ]
    assert "- left out: confusion: KeyError" in (tmp_path / "report.md").read_text()
    assert "of the train pixels labelled" in page
    assert not (tmp_path / "confusion.svg").exists()


@pytest.mark.parametrize("several", [False, True])
def test_nothing_that_is_drawn_or_counted_can_cost_the_page(finished, copy, tmp_path, monkeypatch, caplog, several):
    def fail(*args, **options):
        raise ZeroDivisionError("planted")

    edit_recipe(copy, lambda tree: tree.update(seed=7))
    monkeypatch.setattr(report_module, "save", fail)
    for name in ("absent", "reference", "bought", "rates"):
        monkeypatch.setattr(Findings, name, property(fail))
    monkeypatch.setattr(overlays, "coverage_of", fail)
    page = write_report([finished, copy] if several else [finished], tmp_path).read_text()
    parts = ["curve", "class_iou"] if several else FIGURES
    assert all(f"failed: {name}: ZeroDivisionError: planted" in page for name in ("absent classes", *parts))
    assert "</html>" in page


def test_somebody_who_stops_a_report_stops_it(finished, tmp_path, monkeypatch):
    def stop(*args):
        raise Interrupted("stop")

    monkeypatch.setattr(report_module, "draw_curve", stop)
    with pytest.raises(Interrupted):
        write_report([finished], tmp_path)


def test_runs_with_other_classes_are_not_compared(finished, copy, tmp_path):
    edit_json(copy / "summary.json", lambda tree: tree["cycles"][-1]["class_iou"].pop("sky"))
    with pytest.raises(UserError, match=r"copy: its classes differ"):
        write_report([finished, copy], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "not a run folder"),
        (lambda run: (run / "summary.json").unlink(), "no cycle is finished yet"),
        (lambda run: edit_json(run / "summary.json", lambda t: t.update(cycles=[])), "no cycle is finished"),
    ],
)
def test_what_is_not_a_finished_run_is_named(copy, tmp_path, spoil, message):
    spoil(copy)
    with pytest.raises(UserError, match=message):
        write_report([copy], tmp_path / "out")


def test_a_file_is_not_a_folder_for_a_report(finished, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: can not be written: .*file is not a folder"):
        write_report([finished], tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["summary.json", "recipe.yaml", "metrics.jsonl", "cycle-002/evaluation/confusion.json"]
)
@pytest.mark.parametrize("spoil", ["flip", "{\n", "[]\n", "{}\n"])
def test_what_is_not_what_was_written_is_named(copy, tmp_path, name, spoil):
    path = copy / name
    content = path.read_bytes()
    place = re.search(rb"[a-z]", content).start()  # of a name: the last digit of a float may mean the same number
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    path.write_bytes(flipped if spoil == "flip" else spoil.encode())
    with pytest.raises(DamagedError, match=name):
        write_report([copy], tmp_path / "out")
    if name in ("metrics.jsonl", "cycle-002/evaluation/confusion.json"):  # all else is there
        assert "Left out, because it failed: " in (tmp_path / "out/report.html").read_text()


def test_the_data_set_of_the_run_is_found(run, toy_data):
    index, missing = find_data(run)
    assert index == toy_data
    assert missing == ""


def test_labels_colour_the_image_and_unknown_pixels_keep_none_of_it():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    label = rng.integers(0, 3, (24, 32)).astype(np.uint8)
    label[4:9] = IGNORE
    palette = [(10, 20, 30), (200, 0, 0), (0, 255, 9)]
    blended = blend(image, label, palette, strength=0.25)
    known = label != IGNORE
    expected = 0.75 * image[known] + 0.25 * np.array(palette)[label[known]]
    assert np.abs(blended[known] - expected).max() <= 0.5 + 1e-4
    unknown = blended[~known]
    assert (unknown == unknown[:, :1]).all(), "grey"
    assert set(np.unique(unknown)) <= {150, *np.unique(dimmed(image))}


def test_the_heat_map_shows_each_score_in_its_cell_and_nothing_where_none_is_eligible():
    grid = RegionGrid(40, 60, 16)
    score_R = np.arange(grid.num_regions, dtype=np.float32)
    score_R[5] = -np.inf
    heat = _heat(score_R, grid)
    rows, columns = np.indices((40, 60)) // 16
    expected = (rows * 4 + columns).astype(np.float32)
    expected[expected == 5] = np.nan
    np.testing.assert_array_equal(heat, expected)


def test_chosen_images_start_with_the_first_and_lie_apart():
    assert spread("abcdefgh", 4) == ["a", "c", "e", "g"]
    assert spread("ab", 4) == ["a", "b"]
    assert spread([], 4) == []


def test_inlined_charts_take_the_colours_of_the_page(tmp_path):
    with styled():
        figure = draw_class_iou(["a"], [Dots("one", BLUE, "o", {"a": 0.5}, 0.5)], frozenset(), "test")
        save(figure, tmp_path, "chart")
        svg = inline(svg_text(figure))
    assert INK in (tmp_path / "chart.svg").read_text()
    assert INK not in svg
    assert BLUE not in svg
    assert "currentColor" in svg
    assert "var(--accent)" in svg
    assert not re.search(r"<svg[^>]* (width|height)=", svg)
    assert re.match(r"<svg[^>]* viewBox=", svg)
    assert "<!--" not in svg
    assert "<g id=" not in svg


def test_durations_read_like_durations():
    assert [_clock(s) for s in (0.04, 9.94, 41.2, 200, 3661)] == ["0.0 s", "9.9 s", "41 s", "3 min 20 s", "1 h 01 min"]


def test_the_template_refuses_an_undefined_name():
    assert _environment().autoescape
    with pytest.raises(Exception, match="is undefined"):
        _environment().from_string("{{ nothing }}").render()


def test_the_interval_of_every_miou_stands_in_table_page_markdown_and_record(finished, report, run, capsys):
    row = run.last
    shown = f"{100 * row['miou_low']:.1f}-{100 * row['miou_high']:.1f}"
    assert row["miou_low"] < row["miou_high"]
    print_outcome(RunLayout(finished), "none", None)
    printed = capsys.readouterr().out
    assert shown in printed
    assert "interval: of 95 %" in printed
    assert "report:" not in printed  # none was made: that has been said
    assert shown in report.read_text()
    assert shown in report.with_name("report.md").read_text()
    [recorded] = [r for r in latest(finished / "metrics.jsonl")
                  if (r["run"], r["stage"], r["cycle"]) == ("main", "evaluate", row["cycle"])]  # fmt: skip
    assert (recorded["miou_low"], recorded["miou_high"]) == (row["miou_low"], row["miou_high"])
    reference = run.reference
    assert f"{100 * reference['miou_low']:.1f}-{100 * reference['miou_high']:.1f}" in printed


def test_without_images_counted_apart_no_interval_is_claimed_and_of_one_image_it_is_said(finished):
    old = [{key: value for key, value in load_findings([finished])[0].last.items() if key not in INTERVAL}]
    assert (interval_of(old[0]), about_intervals(old)) == ("-", "")
    one = [{**old[0], **dict.fromkeys(INTERVAL)}]
    assert interval_of(one[0]) == "-"
    assert about_intervals(one) == "no interval is possible: mIoU is measured on one image"


def test_an_interval_and_counts_of_images_that_contradict_the_evaluation_are_found(copy):
    layout = RunLayout(copy)
    assert list(audit_run(layout)) == []
    edit_json(copy / "summary.json", lambda tree: tree["cycles"][1].update(miou_low=0.01))
    [found] = audit_run(layout)
    assert found.startswith(f"{copy}/summary.json: cycle 1: miou_low is 0.01, the other files of the run give")
    edit_json(copy / "summary.json", lambda tree: tree["cycles"][1].update(miou_low=run_low(copy)))
    path = copy / "cycle-001/evaluation/images.json"
    edit_json(path, lambda tree: tree["right"][0].__setitem__(0, tree["right"][0][0] + 1))
    manifest = copy / "cycle-001/evaluation/manifest.json"
    edit_json(manifest, lambda tree: tree["files"]["images.json"].update(
        size=path.stat().st_size, sha256=sha256(path)))  # fmt: skip
    assert f"{path}: does not add up to confusion.json" in list(audit_run(layout))


def run_low(run):
    return image_counts(run / "cycle-001/evaluation/confusion.json").interval()[0]


def test_the_images_shown_are_the_worst_the_middle_one_and_the_best(finished, toy_data, run, report):
    images = image_counts(finished / "cycle-002/evaluation/confusion.json")
    found = chosen(images)
    own = dict(zip(images.ids, images.miou_N(), strict=True))
    ranking = sorted(own.values())
    assert [(which, miou) for which, miou in found.values()] == [
        ("worst", ranking[0]), ("median", ranking[2]), ("best", ranking[5]),
    ]  # fmt: skip
    assert all(own[image_id] == miou for image_id, (_, miou) in found.items())
    assert report.with_name("final.png").exists()
    assert "What the last model sees" in report.read_text()
    axes = draw_final(run, toy_data).axes
    checked = 0
    for column, (image_id, (which, miou)) in enumerate(found.items()):
        errors = axes[3 * len(found) + column]
        red = (errors.images[0].get_array() == np.array(WRONG)).all(axis=-1).sum()
        place = images.ids.index(image_id)
        known, right = int(images.true_NC[place].sum()), int(images.hit_NC[place].sum())
        assert red == known - right > 0  # what the evaluation counted, pixel for pixel
        assert errors.get_xlabel() == f"mIoU {100 * miou:.1f} %, {100 * right / known:.1f} % of the pixels right"
        assert axes[column].get_title().startswith(f"{which}: ")
        checked += 1
    assert checked == 3


@pytest.mark.parametrize(
    ("number", "words"), [(1, ["worst"]), (2, ["worst", "best"]), (3, ["worst", "median", "best"])]
)
def test_fewer_images_are_shown_once_each(number, words):
    one = [[3, 0], [4, 1], [3, 2]]
    rows = {f"i{place}": [[3 - place, 0], [4, 1], [3, 2]] for place in range(number)}
    assert [which for which, _ in chosen(ImageCounts.of(rows)).values()] == words
    assert chosen(ImageCounts.of({"void": [[0, 0]] * 3})) == {}
    assert len(chosen(ImageCounts.of({"void": [[0, 0]] * 3, "a": one}))) == 1
