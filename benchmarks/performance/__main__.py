"""`make bench`: run the benchmarks, print each figure with its bar, and store them with a chart.

python -m benchmarks.performance [--only NAME[,NAME]] [--list] [--peer NAME=PATH] [--out DIR] [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from difflib import get_close_matches
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from querying.base.errors import UserError

T = TypeVar("T")

# First what is measured in milliseconds: a shared machine gives less after minutes of computing, which
# a ratio of two forms in turns does not see.
BENCHES = {
    "data": "data loading with strong augmentation, per core; decoding alone",
    "forward": "the forward pass that scores, over plain float32 NCHW",
    "scoring": "a whole scoring pass over the bare network; Ray actors over this process",
    "training": "the S4AL+ training step, over a plain port and over the bare network",
    "encoders": "scoring pass and training step of a ViT-S and a ConvNeXt-tiny, over the bare network",
    "reco": "ReCo over its plain forms, and its share of a step",
    "parts": "mean over the cells, pseudo-label PNG, shard reading, over their naive forms",
    "selection": "a million images, per image and over the whole pool: time and memory",
    "distance": "a scoring pass over a pool in a bucket, 50 ms a request, over the same in a folder",
    "shards": "a pool of many small shards: score, buy, report, each with the memory that it adds",
    "start": "start-up of the command line and of a stage",
    "memory": "the driver's memory, a pool of 2,000 against 100",
    "device": "images/s of the real stages on a GPU, at CamVid's and Cityscapes' sizes",
    "driver": "a million images through `s4al run`, killed and started again, `status` and `report`: driver alone",
    "scale": "a million rows through score files, selection and ledger; 100 million images by calculation",
}


def main(words: Sequence[str]) -> int:
    """Exit status: 0, also where something falls short (that is a finding, not a failure); 2 for a user's mistake."""
    options = _parser().parse_args(words)
    try:
        if options.list:
            print("\n".join(f"{name:<10}{what}" for name, what in BENCHES.items()))
            return 0
        run(options)
    except UserError as error:
        print(f"benchmarks.performance: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def run(options: argparse.Namespace) -> None:
    names = chosen(options.only) if options.only or not options.peer else []
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out}: is not a folder")
    from benchmarks.performance.peers import parse_peer, time_peer  # torch: not before the arguments are known good

    peers = [parse_peer(peer) for peer in options.peer]
    keys = {"threads": options.threads} | ({"rounds": options.rounds} if options.rounds else {})
    results: list[dict[str, Any]] = []
    for name in names:
        results += alone(importlib.import_module(f"benchmarks.performance.benches.{name}").main, **keys)
        store(options.out, results, options.threads)  # what is measured stays, whatever happens to the next one
    for name, folder in peers:
        results.append(time_peer(name, folder, **keys))
        store(options.out, results, options.threads)
    from benchmarks.performance.result import as_markdown

    print(as_markdown(results), end="")
    print(options.out / "bench.md")


def alone(work: Callable[..., T], **keys: object) -> T:
    """`work(**keys)` in a process of its own: what ran before leaves memory and threads behind, and a figure of a
    whole run would not be that of `--only`."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(work, **keys).result()


def store(out: Path, results: list[dict[str, Any]], threads: int) -> None:
    """`bench.json`, `bench.md`, and `bench.png` where a result has a bar."""
    from benchmarks.performance.figure import draw_bench
    from benchmarks.performance.result import as_markdown
    from querying.base.files import write_text

    write_text(out / "bench.json", json.dumps({"machine": machine(threads), "results": results}, indent=1) + "\n")
    write_text(out / "bench.md", as_markdown(results))
    draw_bench(results, out)


def machine(threads: int) -> dict[str, Any]:
    """What a figure can be compared on, and how busy it is."""
    import torch

    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def processor() -> str:
    """As Linux names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def chosen(only: str | None) -> list[str]:
    """The benchmarks to run, in the order of the list; UserError names one that does not exist."""
    if only is None:
        return list(BENCHES)
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:
        if name not in BENCHES:
            near = get_close_matches(name, BENCHES, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(BENCHES)}"
            raise UserError(f"--only {name}: no such benchmark{hint}")
    return [name for name in BENCHES if name in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description="Throughput and memory.")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="these benchmarks (see --list)")
    parser.add_argument("--list", action="store_true", help="say which benchmarks there are")
    parser.add_argument(
        "--peer", metavar="NAME=PATH", action="append", default=[],
        help="time a checkout of a peer as well, or alone without --only: reco (lorenmt/reco), s4al (aneesh3108/S4AL)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for bench.json, .md, .png")
    parser.add_argument("--rounds", type=_positive, help="rounds of each (default: its own)")
    parser.add_argument("--threads", type=_positive, default=min(2, os.cpu_count() or 1), help="threads (default 2)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
