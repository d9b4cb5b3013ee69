"""What a process computes with, as far as it may decide the last bits: code, libraries, processor, kernels."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from querying.base.files import sha256, write_json
from querying.base.sources import OURS, sources

STAGES = ("orchestrator.run.loop", "orchestrator.backends.local_backend", "orchestrator.backends.ray_backend")
"""Modules that a run's stages are imported from, and with them whatever may have a part in a result."""
CHOOSES_KERNELS = re.compile(
    r"(ATEN|BLAS|BLIS|CUBLAS|CUBLASLT|CUDNN|DNNL|FBGEMM|GLOO|GOMP|GOTO|KMP|MKL|MKLDNN|NCCL|NPY|NVIDIA_TF32|OMP|ONEDNN"
    r"|OPENBLAS|VECLIB|PYTORCH_TUNABLEOP|TORCH_(ALLOW|BLAS|CUBLAS|CUBLASLT|CUDNN|LINALG|MKLDNN|NNPACK))_.*"
    r"|GLIBC_TUNABLES|LD_PRELOAD"
)
"""Variables of the environment that choose the kernels of a library, or its threads ..."""
ONLY_TELLS = re.compile(r"VERBOSE|DEBUG|LOG|DISPLAY|WARN|_DIR$|_FILE$")
"""... but for those that say what it writes, and where."""
MACHINE = "machine-"
NETWORK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
SHARE = ("OMP_NUM_THREADS",)
"""Ray sets it for each of its workers, whose stages set the number of threads themselves."""


@cache
def code() -> str:
    """SHA-256 (hex) over the source of the packages that make results."""
    root, total = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for package in OURS for path in (root / package).rglob("*.py")):
        total.update(f"{path.relative_to(root)} {sha256(path)}\n".encode())
    return total.hexdigest()


@cache
def libraries(imported: frozenset[str] = frozenset()) -> Mapping[str, str]:
    """Versions by distribution: first of what the stages import, or a user's own code (`imported`, top-level names),
    then of what these require."""
    found = sources(STAGES, lambda name, spec: spec is not None and name.partition(".")[0] in OURS)
    named = _distributions(found.installed | imported)
    direct = sorted({_key(name): name for name in named.values()})
    required = sorted(_required(direct) - set(direct))
    return {name: installed_version(name) for name in (*direct, *required)}


def installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def machine(device: str) -> dict[str, str]:
    """Processor, kernel libraries, system and Python of this process, and the GPUs where `device` is `cuda`; what
    chooses kernels among the variables of the environment, each as `variable NAME`."""
    return {**_hardware(device.startswith("cuda")), **variables(os.environ)}


def identity(gpu: bool) -> str:
    """What this process computes with, as far as the machine decides it, on one line."""
    chosen = {k: v for k, v in variables(os.environ).items() if k.partition(" ")[2] not in (*SHARE, *NETWORK)}
    return "; ".join(f"{key} {value}" for key, value in {**_hardware(gpu), **chosen}.items())


def note_machine(folder: Path, gpu: bool) -> None:
    """Leave in a folder that is being made what this process computes with; the same for each that is alike."""
    said = identity(gpu)
    path = folder / f"{MACHINE}{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        write_json(path, {"machine": said})


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    chosen = (name for name in sorted(environment) if CHOOSES_KERNELS.fullmatch(name) and not ONLY_TELLS.search(name))
    return {f"variable {name}": environment[name] for name in chosen}


@cache
def _hardware(gpu: bool) -> Mapping[str, str]:
    found = {
        **_processor(_read(Path("/proc/cpuinfo"))),
        "kernels": _kernels(),
        "system": " ".join([platform.system(), platform.machine(), *filter(None, platform.libc_ver())]),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    return {**found, "gpu": _gpus()} if gpu else found


def _processor(cpuinfo: str) -> dict[str, str]:
    """Model and instructions out of Linux's /proc/cpuinfo (x86 and ARM); of several kinds of cores each."""
    if not cpuinfo:
        return {"processor": platform.processor() or platform.machine()}
    cores = [
        dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", block, re.MULTILINE)) for block in cpuinfo.strip().split("\n\n")
    ]
    keys = ("vendor_id", "model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU revision")
    models = {", ".join(f"{key} {core[key]}" for key in keys if key in core) for core in cores}
    flags = {word for core in cores for word in (core.get("flags") or core.get("Features") or "").split()}
    digest = hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:12]
    return {
        "processor": "; ".join(sorted(filter(None, models))) or platform.machine(),
        "instructions": f"{len(flags)} flags ({digest})",
    }


def _kernels() -> str:
    """What torch was built with, and the instructions that its own kernels use here."""
    import torch

    told = torch.__config__.show()
    names = {"MKL": r"Math Kernel Library Version (\S+)", "oneDNN": r"MKL-DNN (v\S+)", "OpenMP": r"OpenMP (\d+)"}
    built = [f"{name} {found[1]}" for name, pattern in names.items() if (found := re.search(pattern, told))]
    return ", ".join([f"ATen {torch.backends.cpu.get_cpu_capability()}", *built])


def _gpus() -> str:
    """Models, driver, CUDA and cuDNN; from the driver's own files, since a context would keep memory of the GPU."""
    import torch

    models = [_read(path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    names = {found[1] for text in models if (found := re.search(r"Model:\s*(.+)", text))}
    if not names and torch.cuda.is_available():
        names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    driver = re.search(r"Module\D*([\d.]+)", _read(Path("/proc/driver/nvidia/version")))
    return (
        f"{' + '.join(sorted(names)) or 'unknown'}, driver {driver[1] if driver else 'unknown'},"
        f" CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions(modules: Iterable[str]) -> dict[str, str]:
    """Top-level module -> its distribution; where none says so, the module's own name."""
    found: dict[str, str] = {}
    for name in modules:
        try:
            found[name] = _key(distribution(name).metadata["Name"])
        except PackageNotFoundError:
            continue
    left = set(modules) - set(found)
    for one in distributions() if left else ():
        declared = set((one.read_text("top_level.txt") or "").split())
        for name in left & (declared or _listed(one)):
            found[name] = _key(one.metadata["Name"])
    return {name: found.get(name, _key(name)) for name in modules}


def _listed(one: Distribution) -> set[str]:
    """Top-level names of its files, for those that do not declare them."""
    return {Path(file).parts[0].partition(".")[0] for file in one.files or () if ".." not in str(file)}


def _required(names: Iterable[str]) -> set[str]:
    """What distributions require, at any depth, as far as it is installed."""
    todo = [(_key(name), frozenset[str]()) for name in names]
    seen: dict[str, frozenset[str]] = {}
    while todo:
        name, extras = todo.pop()
        if name in seen and extras <= seen[name]:
            continue
        try:
            wanted = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        seen[name] = extras | seen.get(name, frozenset())
        for text in wanted:
            try:
                one = Requirement(text)
            except InvalidRequirement:  # of an old distribution: its version is noted all the same, if it is imported
                continue
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((_key(one.name), frozenset(one.extras)))
    return set(seen)
