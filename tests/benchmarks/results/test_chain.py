"""The paper's chain beside ours: means, pairs, and what so few seeds can find, each against a second derivation."""

import shutil
from statistics import mean, stdev

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp

from benchmarks.figures.chain_figure import draw_chain
from benchmarks.report.chain_table import chain_markdown, chain_numbers
from benchmarks.results.chain import findable, load_chain
from benchmarks.results.records import keep
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.recipe.config import override
from querying.base.errors import UserError
from querying.base.files import read_json, write_json

MIOUS = {
    "supervised": {0: 36.0, 1: 37.5, 2: 35.5, 3: 36.2, 4: 38.0},
    "reco": {0: 37.0, 1: 37.0, 2: 38.0, 3: 36.5, 4: 38.5},
    "self_training": {0: 39.0, 1: 37.0, 2: 38.5},
    "s4al_plus": {0: 40.0, 1: 41.5, 2: 39.0, 3: 40.5, 4: 42.5},
    "full": {0: 44.0, 1: 45.0, 2: 43.0, 3: 44.0, 4: 46.0},
}
FROM_S4AL_PLUS = (3, 4)
"""Seeds of `reco` that have no run: the first cycle of the whole chain is theirs.  With the others it has another mIoU
here, which must not come into the row."""


def run_of(source, target, row, seed, miou, *changes):
    shutil.copytree(source, target)
    config, provenance = read_recipe(target / "recipe.yaml")
    write_recipe(target / "recipe.yaml", override(config, [f"name=x_{row}", f"seed={seed}", *changes]), provenance)
    summary = {key: value for key, value in read_json(target / "summary.json").items() if key != "seal"}
    summary["cycles"][-1]["miou"] = miou / 100
    if row == "s4al_plus":
        summary["cycles"][0]["miou"] = MIOUS["reco"][seed] / 100 if seed in FROM_S4AL_PLUS else 0.01
    write_json(target / "summary.json", summary)


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    [record] = keep([finished], root, "one")
    for row, seeds in MIOUS.items():
        for seed, miou in seeds.items():
            if row == "reco" and seed in FROM_S4AL_PLUS:
                continue
            changes = ["cycles=0"] if row == "reco" else []
            run_of(record, root / f"runs/{row}-seed{seed}", row, seed, miou, *changes)
    return root / "runs"


def test_rows_are_means_of_seeds_and_pairs_of_seeds(runs):
    chain = load_chain(runs)
    assert [row.name for row in chain.rows] == list(MIOUS)
    for row in chain.rows:
        values = list(MIOUS[row.name].values())
        assert row.mean.mean == pytest.approx(mean(values))
        half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
        assert row.mean.half_interval == pytest.approx(half)
        ratios = [100 * value / MIOUS["full"][seed] for seed, value in MIOUS[row.name].items()]
        assert row.of_full.mean == pytest.approx(mean(ratios))
    pairs = {
        "reco": ("supervised", [1.0, -0.5, 2.5, 0.3, 0.5]),
        "self_training": ("reco", [2.0, 0.0, 0.5]),
        "s4al_plus": ("self_training", [1.0, 4.5, 0.5]),
        "full": ("s4al_plus", [4.0, 3.5, 4.0, 3.5, 3.5]),
    }
    assert chain.row("supervised").difference is None
    for name, (to, values) in pairs.items():
        found = chain.row(name).difference
        assert (found.to, found.found.seeds) == (to, len(values))
        assert found.found.mean == pytest.approx(mean(values))
        low, high = ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.found.mean - found.found.half_interval, found.found.mean + found.found.half_interval) == (
            pytest.approx(low), pytest.approx(high),
        )  # fmt: skip
        assert found.findable == pytest.approx(findable(stdev(values), len(values)))
    assert chain.whole.found.mean == pytest.approx(mean([4.0, 4.0, 3.5, 4.3, 4.5]))


def test_the_table_shows_each_number_beside_the_papers(runs):
    chain = load_chain(runs)
    text = chain_markdown(chain)
    numbers = chain_numbers(chain)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows[2:]] == ["58.42", "60.11", "60.92", "61.80", "not printed", ""]
    assert rows[2][2:6] == ["36.64 ± 1.32", "5", "47.22", "82.5 ± 0.7"]
    assert rows[3][6:9] == ["+0.76 ± 1.38", "10 % supervised", "5"]
    assert rows[-1][0] == "the whole chain (paper: +3.38)"
    assert rows[-1][6:9] == ["+4.06 ± 0.47", "10 % supervised", "5"]
    assert numbers["reco/difference"] == "+0.76"
    assert (numbers["s4al_plus/miou"], numbers["s4al_plus/of_full"]) == ("40.70", "91.7")
    assert numbers["chain/findable"] == rows[-1][9] == f"{findable(stdev([4.0, 4.0, 3.5, 4.3, 4.5]), 5):.2f}"
    for key, value in numbers.items():
        assert value in text, key


@pytest.mark.parametrize(("spread", "pairs"), [(1.3, 2), (1.3, 3), (0.7, 5), (1.0, 12)])
def test_that_difference_is_found_in_80_of_100_trials(spread, pairs):
    drawn = np.random.default_rng(1).normal(findable(spread, pairs), spread, (100_000, pairs))
    share = (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    assert share == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("pairs", [2, 3, 5, 8, 20])
def test_its_power_is_80_percent_by_the_noncentral_t(pairs):
    """scipy's series, just beside the difference: at single values it is NaN."""
    d, critical = findable(1.0, pairs), t.ppf(0.975, pairs - 1)
    shifts = [d * pairs**0.5 * (1 + step) for step in np.linspace(-1e-3, 1e-3, 21)]
    powers = [nct.sf(critical, pairs - 1, shift) + nct.cdf(-critical, pairs - 1, shift) for shift in shifts]
    finite = [power for power in powers if np.isfinite(power)]
    assert finite
    assert np.mean(finite) == pytest.approx(0.8, abs=0.002)


def test_five_pairs_find_what_the_tables_say():
    """G*Power's effect size for a paired t-test of five pairs, 80 %, two-sided 5 %: 1.68."""
    assert findable(1.0, 5) == pytest.approx(1.68, abs=0.01)
    assert findable(0.0, 5) == 0


def test_a_missing_row_is_left_out_and_the_next_is_paired_with_what_is_there(runs, tmp_path):
    for name in ("supervised-seed0", "supervised-seed1", "s4al_plus-seed1", "self_training-seed0"):
        shutil.copytree(runs / name, tmp_path / name)
    shutil.copytree(runs / "reco-seed1", tmp_path / "trial-of-something-seed1")
    chain = load_chain(tmp_path)
    assert [row.name for row in chain.rows] == ["supervised", "reco", "self_training", "s4al_plus"]
    assert chain.row("s4al_plus").difference is None  # no seed in common with self_training
    assert chain.row("reco").difference.findable is None
    assert chain.row("reco").of_full is None
    assert chain.row("reco").mean.half_interval is None
    assert chain.whole.found.seeds == 1
    assert "| + ReCo | 60.11 | 1.00 | 1 |" in chain_markdown(chain)  # its first cycle
    assert draw_chain(chain).axes[0].get_yticklabels()[3].get_text() == "+ query: S4AL+"


def test_what_can_not_be_compared_is_refused(runs, finished, tmp_path):
    with pytest.raises(UserError, match="holds no run that is called ROW-seedNUMBER"):
        load_chain(tmp_path)
    shutil.copytree(runs / "supervised-seed0", tmp_path / "a/supervised-seed1")
    with pytest.raises(UserError, match="a run with seed 0; rename the folder"):
        load_chain(tmp_path / "a")
    shutil.copytree(runs / "supervised-seed0", tmp_path / "b/supervised-seed0")
    run_of(runs / "supervised-seed1", tmp_path / "b/supervised-seed1", "supervised", 1, 40.0, "train.lr=0.5")
    with pytest.raises(UserError, match=r"both row supervised, but train\.lr"):
        load_chain(tmp_path / "b")
    shutil.copytree(runs / "supervised-seed0", tmp_path / "c/supervised-seed0")
    run_of(runs / "reco-seed0", tmp_path / "c/reco-seed0", "reco", 0, 40.0, "data.evaluate_on=val")
    with pytest.raises(UserError, match="differ in their evaluation"):
        load_chain(tmp_path / "c")
    run_of(runs / "reco-seed0", tmp_path / "e/reco-seed0", "reco", 0, 40.0, "reco.weight=0.5")
    shutil.copytree(runs / "s4al_plus-seed3", tmp_path / "e/s4al_plus-seed3")
    with pytest.raises(UserError, match=r"reco-seed0 and .*s4al_plus-seed3 are both row reco, but reco\.weight"):
        load_chain(tmp_path / "e")
    run_of(runs / "reco-seed0", tmp_path / "d/reco-seed0", "reco", 0, 40.0)
    summary = {k: v for k, v in read_json(tmp_path / "d/reco-seed0/summary.json").items() if k != "seal"}
    write_json(tmp_path / "d/reco-seed0/summary.json", {**summary, "finished": False})
    with pytest.raises(UserError, match="is not finished"):
        load_chain(tmp_path / "d")
