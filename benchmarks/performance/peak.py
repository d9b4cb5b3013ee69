"""Resident memory of this program; light, since what measures must not be what fills it."""

from __future__ import annotations

from pathlib import Path


def peak_mb() -> float:
    """The highest resident memory of this program since it started or `restart_peak`, in MiB (Linux)."""
    # VmHWM belongs to this program; getrusage's ru_maxrss would still show the peak of the process that forked it.
    [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(peak) / 1024


def restart_peak() -> float:
    """Let `peak_mb` start from what is resident now, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()
