"""The launch scripts: what they ask a cluster for, and what they do at each way that training can end; the clusters are played."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from nuner_jax import cli
from nuner_jax.config import TrainConfig, recipes
from nuner_jax.run import LENGTH

LAUNCH = Path(__file__).resolve().parent.parent / "launch"

# A cloud in a file: the states that the queued resource goes through, and what each training run on two workers prints.
GCLOUD = """#!/usr/bin/env bash
cd "$PLAY" || exit 9
printf '%s\\n' "$*" >> calls
next() { head -n1 "$1"; sed -i 1d "$1"; }
case "$*" in
    *" describe "*) cat state 2>/dev/null || exit 1 ;;
    *" create "*) [ ! -e full ] && echo ACTIVE > state ;;
    *" delete "*) rm -f state ;;
    *nuner_jax.train*)
        line=$(next runs)
        case $line in
            preempted) echo SUSPENDED > state; exit 255 ;;
            unreachable) exit 255 ;;
            *) for status in $line; do echo "nuner_status=$status"; done ;;
        esac ;;
esac
"""
SRUN = '#!/usr/bin/env bash\nprintf "srun %s\\n" "$*" >> "$PLAY/calls"\nexit "$(cat "$PLAY/status")"\n'
SCONTROL = '#!/usr/bin/env bash\nprintf "scontrol %s\\n" "$*" >> "$PLAY/calls"\n'


def play(folder, programs, script, *words, **environment):
    """Runs a script with stand-ins for a cluster's programs; returns (status, output, calls)."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PLAY": str(folder), "POLL_SECONDS": "0"} | environment
    done = subprocess.run(["bash", str(script), *words], env=variables, capture_output=True, text=True, check=False, timeout=60)
    calls = folder / "calls"
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines() if calls.exists() else []


TPU = {"TPU_NAME": "slice", "ZONE": "here", "ACCELERATOR": "v5litepod-16", "RUNTIME": "v2-alpha-tpuv5-lite", "MOUNT": "mount it"}


def tpu(folder, runs, *words, **more):
    (folder / "runs").write_text("".join(f"{run}\n" for run in runs))
    return play(folder, {"gcloud": GCLOUD}, LAUNCH / "tpu_pod.sh", *words, **(TPU | more))


def trainings(calls):
    return [call for call in calls if "nuner_jax.train" in call]


def test_a_tpu_slice_is_asked_for_trained_on_and_left(tmp_path):
    status, _, calls = tpu(tmp_path, ["0 0"], "--config", "paper/x", "--workdir", "/mnt/a b")
    assert status == 0
    (created,) = [call for call in calls if " create " in call]
    for word in ("slice --node-id=slice --zone=here", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"):
        assert word in created
    assert "--spot" not in created
    (training,) = trainings(calls)
    assert "--worker=all" in training
    assert (
        "{ mount it; } && nuner/bin/python -m nuner_jax.train --config paper/x --workdir /mnt/a\\ b --distributed.kind=auto"
        in training
    )
    assert not [call for call in calls if " delete " in call]


def test_preemption_asks_for_a_new_slice_installs_and_goes_on(tmp_path):
    status, _, calls = tpu(tmp_path, ["75 75", "preempted", "75", "0 0"], SPOT="1")
    assert status == 0
    assert len(trainings(calls)) == 4
    assert len(set(trainings(calls))) == 1  # the same command resumes
    assert len([call for call in calls if " create " in call and "--spot" in call]) == 2
    assert len([call for call in calls if " delete " in call]) == 1
    assert len([call for call in calls if " scp " in call]) == 2  # a new slice is empty, the old one was not


@pytest.mark.parametrize(
    ("runs", "expected"), [(["2 2"], 2), (["3 3"], 3), (["0 2"], 2), (["1 134"] * 3, 134), (["unreachable"] * 3, 1)]
)
def test_what_would_end_the_same_way_again_ends_it(tmp_path, runs, expected):
    status, _, calls = tpu(tmp_path, [*runs, "0 0"])
    assert status == expected
    assert len(trainings(calls)) == len(runs)


def test_a_crash_is_tried_again_and_progress_forgives_it(tmp_path):
    assert tpu(tmp_path, ["1 1", "1 134", "75 75", "1 1", "1 1", "0 0"])[0] == 0


def test_a_slice_that_is_refused_again_and_again_is_given_up(tmp_path):
    (tmp_path / "full").touch()
    status, _, calls = tpu(tmp_path, ["0 0"])
    assert (status, trainings(calls)) == (1, [])
    assert len([call for call in calls if " create " in call]) == 3


def test_the_slice_is_deleted_on_request(tmp_path):
    status, _, calls = tpu(tmp_path, [], "delete")
    assert (status, len(calls)) == (0, 1)
    assert "queued-resources delete slice --zone=here --force" in calls[0]


def slurm(folder, status, **more):
    (folder / "status").write_text(str(status))
    programs = {"srun": SRUN, "scontrol": SCONTROL}
    return play(folder, programs, LAUNCH / "slurm.sbatch", "--workdir", "w", SLURM_JOB_ID="7", PYTHON="py", **more)


@pytest.mark.parametrize(
    ("ended", "restarts", "expected", "queued_again"),
    [(0, "0", 0, False), (75, "0", 0, True), (75, "4", 0, True), (75, "100", 75, False), (2, "0", 2, False), (3, "0", 3, False)],
)
def test_a_slurm_job_is_queued_again_only_when_it_was_preempted(tmp_path, ended, restarts, expected, queued_again):
    status, _, calls = slurm(tmp_path, ended, SLURM_RESTART_COUNT=restarts)
    assert status == expected
    assert calls[0] == "srun --kill-on-bad-exit=0 py -m nuner_jax.train --workdir w --distributed.kind=auto"
    assert calls[1:] == (["scontrol requeue 7"] if queued_again else [])


def test_slurm_warns_the_tasks_before_the_time_limit_and_starts_one_a_gpu():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE))
    assert options["signal"].startswith("TERM@")  # not B:TERM, which would reach the script only
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options.keys() >= {"requeue", "open-mode"}


def config_of(words):
    """The options of a training command, as nuner_jax.train reads them."""
    return cli.parse(TrainConfig, words, prog="train", recipes=recipes("train"), alternatives=LENGTH)


def test_the_kubernetes_manifest_starts_training_as_its_pods_are_counted():
    (manifest,) = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    job = manifest["spec"]["replicatedJobs"][0]
    pods, (container,) = job["template"]["spec"], job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:3] == ["python", "-m", "nuner_jax.train"]
    options = config_of([word.replace("$(PROCESS_ID)", "0") for word in container["command"][3:]])
    assert options.distributed.num_processes == pods["parallelism"] == pods["completions"]
    name = manifest["metadata"]["name"]
    assert options.distributed.coordinator_address.split(":")[0] == f"{name}-{job['name']}-0-0.{name}"
    volumes = {volume["name"] for volume in pods["template"]["spec"]["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}


def test_kubernetes_restarts_all_but_what_would_end_the_same_way_again():
    (manifest,) = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pods = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = pods["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert pods["template"]["spec"]["restartPolicy"] == "Never"  # a pod failure policy needs it
    (final,) = manifest["spec"]["failurePolicy"]["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert pods["backoffLimit"] == 0  # one pod gone: the set is restarted as a whole


def test_the_skypilot_task_starts_training_on_every_node(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    home = tmp_path / "home"
    (home / "nuner/bin").mkdir(parents=True)
    (home / "nuner/bin/python").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$HOME/words"\n')
    (home / "nuner/bin/python").chmod(0o755)
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "MOUNT": "true"}
    subprocess.run(["bash", "-ec", task["run"]], env=os.environ | task["envs"] | nodes | {"HOME": str(home)}, check=True)
    words = (home / "words").read_text().split("\n")[:-1]
    assert words[:2] == ["-m", "nuner_jax.train"]
    distributed = config_of(words[2:]).distributed
    assert (distributed.coordinator_address, distributed.num_processes, distributed.process_id) == ("10.0.0.1:5555", 2, 1)


@pytest.fixture(scope="module")
def local():
    spec = importlib.util.spec_from_file_location("local_processes", LAUNCH / "local_processes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([75, 75], 75), ([0, 75], 75), ([75, 2], 2), ([-9, 3], 3), ([75, 1], 1), ([1, -9], 1), ([0, -9], 137)],
)
def test_one_status_for_all_local_processes(local, codes, expected):
    assert local.status_of(codes) == expected


def shellcheck(script):
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([program, "--severity=style", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_shell_scripts_are_clean(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    for part in ("setup", "run"):
        (tmp_path / f"{part}.sh").write_text("#!/usr/bin/env bash\n" + task[part])
    scripts = [path for path in LAUNCH.iterdir() if path.read_text(encoding="utf8").startswith("#!/usr/bin/env bash")]
    assert len(scripts) >= 2
    for script in [*scripts, *tmp_path.iterdir()]:
        assert shellcheck(script) == (0, "")


def test_the_kubernetes_jobs_fit_kubernetes_own_schema():
    (manifest,) = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for job in manifest["spec"]["replicatedJobs"]:
        spec = job["template"]["spec"]
        resource = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, "spec": spec}
        kubernetes_validate.validate(resource, "1.31", strict=True)
        spec["parallelism"] = "one"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(resource, "1.31", strict=True)


def commands(text):
    """The training commands in a text, continued lines joined, comment marks and stand-ins taken away."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.match(
            r"#?\s*(?:python -m nuner_jax\.train|sbatch (?:\S+ )?launch/slurm\.sbatch|launch/tpu_pod\.sh) (--.*)", line
        )
        if found:
            yield found[1]
        elif "local_processes.py " in line and " -- " in line:
            yield line.partition(" -- ")[2]


FILES = sorted([*LAUNCH.iterdir(), *(LAUNCH.parent / "configs" / "paper").iterdir()])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_training_command_that_is_written_down_is_understood(path):
    found = list(commands(path.read_text(encoding="utf8")))
    assert found or (path.suffix == ".yaml" and path.parent == LAUNCH)
    for command in found:
        words = command.split()
        config_of(words[: words.index("...")] if "..." in words else words)
