"""Process index and count from flags and launchers, and the launch files that set them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import types

import pytest
from helpers import HANG_S, REPO

from annyfit_jax.jobs import hosts
from annyfit_jax.jobs.hosts import find_process
from annyfit_jax.jobs.job_plan import Plan

LAUNCH = REPO / "experiments" / "launch"
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}
STEP = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        (ARRAY, (2, 4)),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "11", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
        (STEP, (2, 3)),
        ({**ARRAY, **STEP}, (2 * 3 + 2, 12)),
        # a batch script that was given 4 tasks but calls python without srun is one process
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "8"}, (3, 8)),
        (TPU, (1, 4)),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, (0, 1)),
        ({**ARRAY, **TPU}, (2, 4)),
    ],
)
def test_environment(environment, expected):
    assert find_process(environment=environment)[:2] == expected


def test_flags_win_and_must_come_together():
    assert find_process(1, 3, ARRAY)[:2] == (1, 3)
    for index, count in ((None, 3), (0, None)):
        with pytest.raises(ValueError, match="expected both or none"):
            find_process(index, count, {})


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 2), (0, 0)])
def test_index_outside_the_count(index, count):
    with pytest.raises(ValueError, match=f"got {index} of {count}"):
        find_process(index, count)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETIONS"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT"),
        ({**STEP, "SLURM_PROCID": "two"}, "SLURM_PROCID"),
    ],
)
def test_an_incomplete_environment_names_the_variable(environment, name):
    with pytest.raises(ValueError, match=name):
        find_process(environment=environment)


def test_jax_distributed_comes_before_the_environment(monkeypatch):
    fake = types.SimpleNamespace(
        distributed=types.SimpleNamespace(is_initialized=lambda: True), process_index=lambda: 5, process_count=lambda: 6
    )
    monkeypatch.setitem(sys.modules, "jax", fake)
    for name, value in ARRAY.items():
        monkeypatch.setenv(name, value)
    assert find_process() == hosts.Process(5, 6, "jax.distributed")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shares_are_disjoint_and_complete(count):
    plan = Plan(1000, 64)
    shares = [list(plan.share(hosts.Process(k, count, ""))) for k in range(count)]
    assert sorted(unit for share in shares for unit in share) == list(range(plan.num_units))
    scenes = [index for unit in range(plan.num_units) for index in plan.scenes(unit)]
    assert scenes == list(range(1000))


def test_the_kubernetes_file_has_one_number_of_pods_and_our_variable():
    text = (LAUNCH / "kubernetes.yaml").read_text()
    completions, parallelism = (re.search(rf"^  {key}: (\d+)$", text, re.M) for key in ("completions", "parallelism"))
    count = re.search(r'name: JOB_COMPLETIONS\n\s+value: "(\d+)"', text)
    assert completions is not None and parallelism is not None and count is not None
    assert completions[1] == parallelism[1] == count[1]
    assert "completionMode: Indexed" in text


@pytest.mark.process
def test_the_slurm_script_passes_sigterm_on_and_requeues_on_75_only(tmp_path):
    """Run with a stand-in for python, which waits for SIGTERM, and for scontrol."""
    script = LAUNCH / "slurm_array.sh"
    for name, body in {
        "python": 'echo "$@" > args; trap "exit 75" TERM; touch ready; while true; do sleep 0.05; done',
        "scontrol": 'echo "$@" > requeued',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "INPUT": "in", "OUTPUT": "out", "PYTHON": str(tmp_path / "python"),
        "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2", "SLURM_SUBMIT_DIR": str(tmp_path),
    }  # fmt: skip
    process = subprocess.Popen(["bash", str(script), "--limit=3"], env=environment, cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, "the script ended before its program was ready"
        time.sleep(0.02)
    process.terminate()
    assert process.wait(HANG_S) == 75
    assert (tmp_path / "args").read_text().split() == [
        "-m", "experiments.fit", "--input=in", "--output=out", "--steal", "--limit=3",
    ]  # fmt: skip
    assert (tmp_path / "requeued").read_text().strip() == "requeue 9_2"
    (tmp_path / "requeued").unlink()
    (tmp_path / "python").write_text("#!/bin/bash\nexit 74\n")
    assert subprocess.run(["bash", str(script)], env=environment, cwd=tmp_path, check=False).returncode == 74
    assert not (tmp_path / "requeued").exists()
