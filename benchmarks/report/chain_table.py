"""The paper's chain beside ours, as Markdown and as single numbers."""

from __future__ import annotations

from benchmarks.report.plain_tables import markdown_heads, markdown_row
from benchmarks.results.chain import CHAIN, LEVEL, POWER, STEPS, Chain, ChainRow, Difference
from benchmarks.results.curves import Paired

HEADS = (
    "row", "paper", "ours", "seeds", "labels %", "% of all labels' mIoU", "difference", "to", "pairs",
    f"found with {100 * POWER:.0f} %",
)  # fmt: skip


def chain_markdown(chain: Chain) -> str:
    lines = [
        f"{chain.images}, mIoU in % ({chain.protocol}); ± is the 95 % interval (Student's t over seeds)."
        f" Differences are of pairs with the same seed. Found with {100 * POWER:.0f} %: the smallest true difference d"
        f" that a two-sided t-test (level {100 * LEVEL:.0f} %) of these n pairs finds with that probability, where"
        " differences have the standard deviation s that these have: t is then noncentral, with n - 1 degrees of"
        " freedom and noncentrality d √n / s.",
        "",
        *markdown_heads(HEADS, numbers=True),
    ]
    for row in chain.rows:
        paper = "not printed" if row.step.paper is None else f"{row.step.paper:.2f}"
        ours = [_pm(row.mean), str(row.mean.seeds), f"{row.labelled:.2f}", _pm(row.of_full, 1)]
        lines.append(markdown_row([row.step.title, paper, *ours, *_difference(row.difference)]))
    if chain.whole:
        gain = [STEPS[name].paper or 0.0 for name in CHAIN]
        title = f"the whole chain (paper: {gain[0] - gain[1]:+.2f})"
        lines.append(markdown_row([title, "", "", "", "", "", *_difference(chain.whole)]))
    return "\n".join(lines) + "\n"


def chain_numbers(chain: Chain) -> dict[str, str]:
    """Name -> number as a text shows it: `ROW/miou`, `ROW/seeds`, ..., and `chain/difference` and its like."""
    found = {"images": chain.images}
    for row in chain.rows:
        found |= {f"{row.name}/{key}": value for key, value in _numbers(row).items()}
    return found | {f"chain/{key}": value for key, value in _of(chain.whole).items()}


def _numbers(row: ChainRow) -> dict[str, str]:
    found = {"miou": f"{row.mean.mean:.2f}", "interval": _half(row.mean), "seeds": str(row.mean.seeds)}
    found |= {"labels": f"{row.labelled:.2f}"} | _of(row.difference)
    if row.of_full:
        found |= {"of_full": f"{row.of_full.mean:.1f}", "of_full_interval": _half(row.of_full, 1)}
    return found


def _of(difference: Difference | None) -> dict[str, str]:
    if not difference:
        return {}
    found = {
        "difference": f"{difference.found.mean:+z.2f}",
        "difference_interval": _half(difference.found),
        "pairs": str(difference.found.seeds),
    }
    return found | ({} if difference.findable is None else {"findable": f"{difference.findable:.2f}"})


def _difference(difference: Difference | None) -> list[str]:
    if not difference:
        return ["", "", "", ""]
    findable = "" if difference.findable is None else f"{difference.findable:.2f}"
    return [_pm(difference.found, sign=True), STEPS[difference.to].title, str(difference.found.seeds), findable]


def _pm(found: Paired | None, digits: int = 2, sign: bool = False) -> str:
    if not found:
        return ""
    value = f"{found.mean:+z.{digits}f}" if sign else f"{found.mean:.{digits}f}"
    return value + (f" ± {half}" if (half := _half(found, digits)) else "")


def _half(found: Paired, digits: int = 2) -> str:
    """Of the interval; nothing of a single value."""
    return "" if found.half_interval is None else f"{found.half_interval:.{digits}f}"
