"""workflows/kubernetes: valid manifests, exit codes mapped, commands that exist. No cluster is needed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from tileseg.batch.sources import read_sources, shard
from tileseg.cli.main import app
from tileseg.errors import InputError, Interrupted, LockedError, TilesegError, UsageError

FOLDER = Path(__file__).parents[2] / "workflows" / "kubernetes"
RESOURCES = sorted(path for path in FOLDER.glob("*/*.yaml") if path.name != "kustomization.yaml")
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def job_of(resource: dict[str, Any]) -> dict[str, Any]:
    return resource["spec"]["jobTemplate"]["spec"] if resource["kind"] == "CronJob" else resource["spec"]


def pod_of(resource: dict[str, Any]) -> dict[str, Any]:
    return job_of(resource)["template"]["spec"]


JOBS = [pytest.param(read(name), id=name) for name in ("archive/job.yaml", "nightly/cronjob.yaml")]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: path.stem)
def test_resources_follow_the_schemas(path, version) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text(encoding="utf-8")), version, strict=True)


def test_the_schemas_would_tell() -> None:
    broken = read("archive/job.yaml")
    broken["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] = ["42"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


def action(job: dict[str, Any], code: int, *, disrupted: bool = False) -> str:
    """What Kubernetes does with a pod that failed: the first rule that fits, or counting."""
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes is not None and (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
        if codes is None and disrupted:
            return rule["action"]
    return "Count"


@pytest.mark.parametrize("resource", JOBS)
def test_exit_codes_mean_what_tileseg_means(resource) -> None:
    job = job_of(resource)
    final = "FailIndex" if job.get("completionMode") == "Indexed" else "FailJob"
    wanted = {
        UsageError.exit_code: final, InputError.exit_code: final, Interrupted.exit_code: "Ignore",
        TilesegError.exit_code: "Count", LockedError.exit_code: "Count", 137: "Count",
    }  # fmt: skip
    assert {code: action(job, code) for code in wanted} == wanted
    assert action(job, 137, disrupted=True) == "Ignore"
    names = {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule}
    assert names == {container["name"] for container in pod_of(resource)["containers"]}
    # Conditions of such a policy.
    assert pod_of(resource)["restartPolicy"] == "Never"
    assert job.get("backoffLimitPerIndex", job.get("backoffLimit")) >= 3


def runs(resource: dict[str, Any], folder: Path, **variables: str) -> list[str]:
    """The words with which a pod calls ``tileseg``."""
    container = pod_of(resource)["containers"][0]
    stand_in = folder / "tileseg"
    stand_in.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    stand_in.chmod(0o755)
    given = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    told = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **given, **variables},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return told.stdout.splitlines()


def listed(words: list[str], archive: Path) -> list[str]:
    """Scenes that such a call would do, in an archive elsewhere."""
    moved = [word.replace("/archive", str(archive)) for word in words]
    told = CliRunner().invoke(app, [*moved, "--dry-run"])
    assert told.exit_code == 0, f"{shlex.join(moved)}: {told.output}"
    return [Path(line.partition(" -> ")[0]).name for line in told.stdout.splitlines()]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive" / "scenes").mkdir(parents=True)
    for i in range(37):
        (tmp_path / "archive" / "scenes" / f"{i:02}.tif").touch()
    return tmp_path / "archive"


def test_the_shares_of_all_pods_are_the_archive(archive, tmp_path) -> None:
    resource = read("archive/job.yaml")
    calls = [
        runs(resource, tmp_path, JOB_COMPLETION_INDEX=str(index)) for index in range(resource["spec"]["completions"])
    ]
    parts = [words[words.index("--shard") + 1] for words in calls]
    scenes = read_sources([archive / "scenes"])
    shares = [[Path(entry.scene).name for entry in shard(scenes, part)] for part in parts]
    assert listed(calls[4], archive) == shares[4]
    assert sorted(name for share in shares for name in share) == [f"{i:02}.tif" for i in range(37)]
    assert max(map(len, shares)) == 3


def test_a_night_is_the_whole_archive(archive, tmp_path) -> None:
    assert len(listed(runs(read("nightly/cronjob.yaml"), tmp_path), archive)) == 37


@pytest.mark.parametrize("resource", JOBS)
def test_pods_have_no_more_rights_than_they_need(resource) -> None:
    pod = pod_of(resource)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    for container in pod["containers"]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert not container["securityContext"]["readOnlyRootFilesystem"] or "/tmp" in written
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {read("storage/claim.yaml")["metadata"]["name"]}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not there")
@pytest.mark.parametrize("folder", ["archive", "nightly"])
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
def test_kustomize_builds_them_with_and_without_gpus(folder, gpu, tmp_path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / folder / "kustomization.yaml"
    text = overlay.read_text()
    assert "\n# components: [../gpu]" in text
    overlay.write_text(text.replace("\n# components", "\ncomponents") if gpu else text)
    told = subprocess.run(["kubectl", "kustomize", overlay.parent], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    resource = yaml.safe_load(told.stdout)
    kubernetes_validate.validate(resource, NEWEST, strict=True)
    container = pod_of(resource)["containers"][0]
    assert container["image"] == ("tileseg:gpu" if gpu else "tileseg:cpu")
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == gpu
    assert ("tolerations" in pod_of(resource)) == gpu
