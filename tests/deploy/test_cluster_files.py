"""The files in deploy/ are what their programs take, as far as can be told without a cloud."""

import ast
import copy
import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMA = ROOT / "tests" / "fixtures" / "kuberay" / "rayjob.schema.json"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


# -- KubeRay --


@pytest.fixture
def job():
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())


def faults(job):
    """What KubeRay's schema says against it, made strict."""
    return [error.message for error in jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(job)]


def test_the_rayjob_is_what_kuberays_schema_takes(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert not faults(job)


def paths(node, below=()):
    """Where this tree has a key, and the keys there."""
    if isinstance(node, dict):
        for key, inner in node.items():
            yield (*below, key)
            yield from paths(inner, (*below, key))
    elif isinstance(node, list):
        for place, inner in enumerate(node):
            yield from paths(inner, (*below, place))


FREE = {("metadata",), ("requests",), ("limits",), ("rayStartParams",)}
"""Keys below these are whatever somebody calls them."""


def test_a_mistyped_key_is_found_anywhere_in_the_rayjob(job):
    keys = [path for path in paths(job) if len(path) > 1 and (path[-2],) not in FREE]
    assert len(keys) > 80
    for path in keys:
        mistyped = copy.deepcopy(job)
        node = mistyped
        for step in path[:-1]:
            node = node[step]
        node[f"{path[-1]}s"] = node.pop(path[-1])
        assert faults(mistyped), path


def test_a_wrong_value_is_found_in_the_rayjob(job):
    cluster = job["spec"]["rayClusterSpec"]
    cluster["authOptions"]["mode"] = "tokens"
    cluster["workerGroupSpecs"][0]["replicas"] = "two"
    cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "16 Gi"
    assert len(faults(job)) == 3


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_what_the_operator_asks_of_a_rayjob_beyond_the_schema(job):
    """ValidateRayJobSpec and ValidateRayClusterSpec of ray-operator/controllers/ray/utils/validation.go."""
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert len(job["metadata"]["name"]) <= 47
    assert spec["shutdownAfterJobFinishes"] or not spec["ttlSecondsAfterFinished"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == PINNED["ray"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(job):
        assert not {"containers"} - set(pod)
        claimed = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]} == claimed


def test_every_pod_is_nobody_in_particular_on_the_same_image_and_storage(job):
    version = PROJECT["version"]
    for pod in pods(job):
        [container] = pod["containers"]
        assert container["image"] == f"s4al-plus:{version}-cuda"
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000  # that of the image
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert not re.search(r"(?i)password|token", json.dumps(container.get("env", [])))  # by Secret alone
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert all(
        "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in workers
    )


@pytest.mark.parametrize(("status", "told"), [(0, 0), (2, 2), (3, 0), (5, 5), (130, 130)])
def test_only_waiting_for_people_is_made_a_success_of(job, tmp_path, status, told):
    """Through both shells: the submitter's, and on the head that of what `ray job submit` makes of it."""
    program = tmp_path / "s4al"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\nexit {status}\n')
    program.chmod(0o755)
    words = shlex.split(job["spec"]["entrypoint"])
    done = subprocess.run(["/bin/sh", "-c", shlex.join(words)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == told
    said = (tmp_path / "words").read_text().split()
    assert said[0] == "run"
    assert checked_by_the_recipe(said) >= {"train.workers", "query.actors"}


def checked_by_the_recipe(words):
    """The keys of a command's recipe, which the recipe has been found to take."""
    from benchmarks.recipes.catalogue import find
    from orchestrator.recipe.config import override

    options = words.index("--data")
    override(find(words[1]), words[2:options])
    assert [Path(place).parts[1] for place in words[options + 1 :: 2]] == ["shared", "shared"]
    return {word.split("=")[0] for word in words[2:options]}


def test_workers_of_the_job_are_as_many_as_pods(job):
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"]
    words = job["spec"]["entrypoint"].split()
    assert {f"train.workers={workers}", f"query.actors={workers}"} <= set(words)


def test_a_pod_that_is_ended_stops_the_job_by_its_name_and_has_the_time(job):
    head = pods(job)[0]
    container = head["containers"][0]
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == job["spec"]["jobId"]
    wait = next(int(one["value"]) for one in container["env"] if one["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    from orchestrator.process.interrupt import GRACE_S

    assert GRACE_S < wait < head["terminationGracePeriodSeconds"]


# -- ray up --


@pytest.fixture
def cluster():
    return yaml.safe_load((DEPLOY / "ray-aws.yaml").read_text())


def checked(cluster):
    """As `ray up` checks it before it asks the cloud for anything, with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def test_the_cluster_file_is_what_ray_up_takes(cluster):
    prepared = checked(cluster)
    # AWS's defaults of Ray would install a nightly Ray over that of the image.
    assert not re.search(r"ray\[default\]|wheels", json.dumps(prepared))
    assert prepared["docker"]["image"] == f"s4al-plus:{PROJECT['version']}-cuda"
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert list(prepared["file_mounts"]) == ["/home/s4al/.ray/auth_token"]
    assert prepared["available_node_types"]["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (
        "InstanceMarketOptions" not in prepared["available_node_types"]["head"]["node_config"]
    )  # the run ends with it


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cluster: cluster.update(max_worker=cluster.pop("max_workers")),
        lambda cluster: cluster["available_node_types"]["gpu"].update(min_worker=1),
        lambda cluster: cluster.update(max_workers=1),
        lambda cluster: cluster.update(head_node_type="heads"),
        lambda cluster: cluster["docker"].pop("container_name"),
    ],
)
def test_ray_finds_mistakes_in_a_cluster_file(cluster, spoil):
    spoil(cluster)
    with pytest.raises((ValueError, AssertionError, jsonschema.ValidationError)):
        checked(cluster)


# -- Dockerfile --

INSTRUCTIONS = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}


def instructions(text):
    """(instruction, what follows) of a Dockerfile; lines that go on are one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = [line.split(maxsplit=1) for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines()]
    return [(word, " ".join(rest[0].split())) for word, *rest in found]


@pytest.fixture(scope="module")
def image():
    return instructions((DEPLOY / "Dockerfile").read_text())


def of(image, instruction):
    return [rest for word, rest in image if word == instruction]


def test_the_image_is_pinned_and_nobody_in_particular(image):
    assert {word for word, _ in image} <= INSTRUCTIONS  # no ENTRYPOINT: operators start it with their own command
    [base] = of(image, "FROM")
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base)  # a standard image, by its full version
    assert base.split(":")[1].startswith("3.11.")  # the Python of constraints.txt
    assert of(image, "USER")[-1] == "1000:1000"
    after = [word for word, _ in image[[word for word, _ in image].index("USER") :]]
    assert "RUN" not in after
    for command in of(image, "RUN"):
        for install in re.findall(r"pip install ([^&|;]*)", command):
            assert "-c constraints.txt" in install or "--no-deps" in install, install
    [setuptools] = re.findall(r"setuptools==(\S+)", " ".join(of(image, "RUN")))
    assert int(setuptools.split(".")[0]) >= 77  # what pyproject.toml asks for


def ignored(path, patterns):
    """Docker's rule, as far as the file uses it: the last pattern that the path or a folder above it matches."""
    whole = Path(path)
    names = [str(whole), *(str(parent) for parent in whole.parents if str(parent) != ".")]
    out = False
    for pattern in patterns:
        exception = pattern.startswith("!")
        plain = pattern.lstrip("!").removeprefix("**/")
        tested = [Path(name).name for name in names] if "**/" in pattern else names
        if any(fnmatch.fnmatch(name, plain) for name in tested):
            out = not exception
    return out


def test_what_the_image_copies_is_there_and_is_the_project_and_nothing_else(image):
    patterns = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"]
    copied = [word for rest in of(image, "COPY") for word in rest.split()[:-1]]
    for name in copied:
        assert (ROOT / name).exists()
        assert not ignored(name, patterns)
    for name in (".env", "data/camvid", "runs/demo", ".git/config", "training/fit/__pycache__", "docs", "tests"):
        assert ignored(name, patterns), name
    packages = {entry.rstrip("*") for entry in wheel()["packages"]["find"]["include"]}
    assert set(copied) == packages | {"constraints.txt", "pyproject.toml", PROJECT["readme"]}


def wheel():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_the_requirements_of_the_image_are_those_of_the_project(image, tmp_path, capsys):
    [code] = re.findall(r'python -c "(.*?)" > requirements.txt', " ".join(of(image, "RUN")))
    ast.parse(code)
    done = subprocess.run(["python3", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    extras = PROJECT["optional-dependencies"]
    assert done.stdout.splitlines() == [*PROJECT["dependencies"], *extras["sweep"], *extras["coco"]]
    # On a CPU, PyTorch comes from an index of its own, in the version that satisfies the rest afterwards.
    assert {"torch", "torchvision"} <= set(PINNED)


def test_versions_in_the_commands_for_the_image_are_the_projects():
    for name in ("deploy/Dockerfile", "deploy/rayjob.yaml", "deploy/ray-aws.yaml", "docs/use/cluster_files.md"):
        found = re.findall(r"s4al-plus:([\d.]+)-", (ROOT / name).read_text())
        assert found
        assert set(found) == {PROJECT["version"]}


@pytest.mark.parametrize(
    ("program", "words"),
    [("hadolint", ["deploy/Dockerfile"]), ("shellcheck", ["--severity=warning", "deploy/slurm.sh"])],
)
def test_linters_find_nothing_where_they_are_installed(program, words):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
