"""The trainer: counting operations, optimiser groups, mixing and order of data, and runs that are interrupted.

The network of the runs is small; the data are pictures of noise with people of Anny in front of the camera.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket_server import failing_server
from helpers import HANG_S, REPO
from number_source import Numbers
from PIL import Image

from annyfit_jax.exports.humandata_export import write_humandata
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.regressors.aios.aios_config import ANNY, LossConfig, ResNetConfig, tiny
from annyfit_jax.regressors.aios.aios_feed import AiosFeed, DataSet
from annyfit_jax.regressors.aios.aios_regressor import AiosRegressor
from annyfit_jax.regressors.aios.augment import Augmentation
from annyfit_jax.regressors.aios.examples import anny_bones
from annyfit_jax.regressors.regressed_people import scene_fit
from annyfit_jax.store import faults
from annyfit_jax.store.holds import TakenError, held
from annyfit_jax.store.locations import place
from annyfit_jax.store.plan import StoreError
from annyfit_jax.store.work_status import work_state
from annyfit_jax.training import training_data, training_metrics
from annyfit_jax.training import training_state as states
from annyfit_jax.training.bucket_runs import run_folder
from annyfit_jax.training.protocol import Regressor
from annyfit_jax.training.training_checkpoints import Checkpoints
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig, describe, load_config, override
from annyfit_jax.training.training_loop import TrainingStopped, check_config, claim, train

CONFIGS = REPO / "experiments" / "configs"
SIZE = (96, 64)
K = np.array([[90.0, 0, 48], [0, 90, 32], [0, 0, 1]])


def make_pictures(folder: Path, count: int) -> str:
    """A HumanData file of fits of Anny and its pictures; returns the file."""
    from PIL import Image

    rng = np.random.default_rng(0)
    meshes, fits = BodyMeshes(), []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        n = 1 + index % 2
        pose = np.zeros((n, len(anny_bones()), 3))
        pose[:, [anny_bones().index(bone) for bone in ANNY.body[1:]]] = 0.1 * rng.normal(
            size=(n, len(ANNY.body) - 1, 3)
        )
        root = np.tile([np.pi / 2, 0, 0], (n, 1)) + 0.1 * rng.normal(size=(n, 3))
        transl = np.stack([rng.uniform(-1, 1, n), np.zeros(n), rng.uniform(3, 4, n)], 1)
        people = BodyParameters(root, transl, pose, rng.uniform(0.3, 0.7, (n, 6)))
        keypoints, height = meshes.keypoints_and_height(people)
        pixel = keypoints @ K.T
        seen = np.concatenate([pixel[..., :2] / pixel[..., 2:], np.ones((n, 17, 1))], -1)
        Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(folder / f"{index}.png")
        fits.append(
            scene_fit(
                f"scene{index}", str(folder / f"{index}.png"), SIZE, K, people,
                (np.array(anny_bones()), np.array(["gender", "age", "muscle", "weight", "height", "proportions"])),
                keypoints_3d=keypoints, height_m=height, keypoints_2d=seen,
            )
        )  # fmt: skip
    (path,) = write_humandata(fits, folder, image_root=folder)
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("pictures")
    path = make_pictures(folder, 5)
    network = tiny(
        body=ANNY, backbone=ResNetConfig(blocks=(1, 1, 1, 1), stem=8), width=32, heads=4, feedforward=32,
        encoder_layers=1, queries=12, people=4, denoising=4,
    )  # fmt: skip
    sets = tuple(DataSet(name, 0.5, path=path, images=str(folder), crop=0.5) for name in ("one", "two"))
    feed = AiosFeed(
        sets, head=ANNY, augmentation=Augmentation(short_sides=(48, 64), long_limit=96), max_people=3,
        buckets=((96, 96),),
    )  # fmt: skip
    return TrainConfig(
        regressor=AiosRegressor(network, LossConfig()), feed=feed, optimiser=OptimiserConfig(lr=1e-3, ema=0.5),
        steps=6, batch=4, log_every=1, checkpoint_every=3, reader_threads=1,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ optimiser


@pytest.mark.slow
def test_groups_of_the_network(config):
    """The first convolution and all norms of the backbone are frozen."""
    groups = states.groups_by_name(config.regressor, config.regressor.init(jax.random.key(0)))
    backbone = {name: group for name, group in groups.items() if "backbone" in name}
    assert {group for name, group in backbone.items() if "stem" in name or "norm" in name} == {"frozen"}
    assert sum(group == "backbone" for group in backbone.values()) == 4 * 4  # blocks of four convolutions
    assert {group for name, group in groups.items() if name not in backbone} == {"rest"}


def test_step_sizes_of_groups():
    """Frozen variables stay, the backbone takes a tenth of a step, drops come at the milestones, the gradient is clipped."""
    groups: Any = {"stem": "frozen", "conv": "backbone", "head": "rest"}
    flat = {name: jnp.zeros(3) for name in groups}
    gradient = {name: jnp.full(3, 10.0) for name in groups}
    transform = states.optimiser(OptimiserConfig(lr=1e-2, clip=1.0, weight_decay=0.0, milestones=(2,)), groups)
    state = transform.init(flat)
    for expected in (1e-2, 1e-2, 1e-3):
        updated: Any = transform.update(gradient, state, flat)
        moves, state = updated
        for name, size in (("stem", 0.0), ("conv", expected / 10), ("head", expected)):
            np.testing.assert_allclose(moves[name], -size, rtol=1e-4)
    first_moment = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(state) if jnp.ndim(x))
    assert first_moment < 0.2  # of a gradient of norm 1, not 30


def test_warm_up():
    rate: Any = states.schedule(OptimiserConfig(lr=1.0, warmup_steps=4, milestones=(6,)))
    np.testing.assert_allclose([float(rate(step)) for step in (0, 1, 3, 5, 7)], [0.25, 0.5, 1.0, 1.0, 0.1], rtol=1e-6)


def test_names_find_back(config):
    variables = config.regressor.init(jax.random.key(0))
    flat, named = states.flatten(variables)
    assert all(isinstance(name, str) for name in flat)
    again = named.pack(flat)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(variables)))


# ------------------------------------------------------------------------------------------------ runs


def lines(folder: Path) -> list[dict]:
    """Logged lines without what is timed."""
    found = training_metrics.read(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in training_metrics.TIMING} for line in found]


@dataclasses.dataclass(frozen=True)
class Line(Regressor):
    """A regressor of the smallest kind: a line through noisy numbers, in a pytree like that of a network."""

    noise: float = 0.1

    @property
    def score_threshold(self):
        return 0.5

    def init(self, key):
        start = jax.random.normal(key, (3,))
        return {"backbone": {"scale": start}, "head": [jnp.ones(()), jnp.zeros(())], "stem": jnp.ones(2)}

    def constants(self):
        return {"unit": np.float32(0.01)}

    def loss(self, variables, constants, batch, key):
        x = batch.astype(jnp.float32) * constants["unit"]
        slope, offset = variables["head"]
        made = slope * x * variables["backbone"]["scale"].sum() + offset + self.noise * jax.random.normal(key, x.shape)
        error = jnp.square(made - 3.0 * x).mean()
        return error, {"largest": x.max()}

    def predict(self, variables, batch, threshold):
        return batch

    def groups(self, variables):
        return {"backbone": {"scale": "backbone"}, "head": ["rest", "rest"], "stem": "frozen"}


LINE: Any = TrainConfig(
    Line(),
    Numbers(),
    OptimiserConfig(lr=1e-2, ema=0.5),
    steps=12,
    batch=4,
    log_every=1,
    checkpoint_every=5,
    reader_threads=2,
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(LINE, folder)


@pytest.mark.parametrize("stops", [(5,), (3, 4, 9), (11,)], ids=str)
def test_a_run_that_is_interrupted_is_the_same_run(straight, tmp_path, stops):
    """To the last digit of every metric and every variable, wherever it stopped."""
    folder, expected = straight
    for steps in stops:
        train(dataclasses.replace(LINE, steps=steps), tmp_path)
    state = train(LINE, tmp_path)
    assert lines(tmp_path) == lines(folder)
    assert len(lines(folder)) == LINE.steps
    assert len({line["loss"] for line in lines(folder)}) == LINE.steps
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("moment", "complete"),
    [("metrics.jsonl: before writing", False), ("10.complete: before writing", False), ("10.complete: renamed", True)],
)
def test_a_run_in_a_bucket_is_the_same_run(straight, tmp_path, moment, complete):
    """Also where it is killed while checkpoint 10 is put: it goes on there once that is complete, else at the one before."""
    folder, expected = straight
    run = place(f"memory://training-{tmp_path.name}-{os.getpid()}")
    train(dataclasses.replace(LINE, steps=5), run)
    killed = {moment: 1}

    def kill(at: str) -> None:
        if killed.pop(at, 0):
            raise KeyboardInterrupt

    faults.install(kill)
    with pytest.raises(KeyboardInterrupt):
        train(LINE, run)
    faults.install(None)
    assert ("checkpoints/10.complete" in run.tree()) == complete
    assert any(name.startswith("checkpoints/10/") for name in run.tree())
    state = train(LINE, run)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    assert lines(tmp_path) == lines(folder)
    assert {name.split("/")[1] for name in run.tree() if name.startswith("checkpoints/")} >= {"12", "12.complete"}


def test_a_second_run_in_a_bucket_is_refused(tmp_path):
    run = place(f"memory://held-training-{tmp_path.name}-{os.getpid()}")
    with held(run), pytest.raises(TakenError, match="another process is at work on it"):
        train(LINE, run)
    assert all(name.startswith("held/") for name in run.tree())
    with held(run) as hold, run_folder(run, hold) as (_, put):
        assert hold is not None and put is not None
        hold._lost = True
        with pytest.raises(StoreError, match="another process has taken over"):
            put()


def test_a_signal_ends_the_run_with_everything_on_disk(straight, tmp_path):
    folder, _ = straight
    stop = threading.Event()

    class Stopping(Line):
        def constants(self):
            stop.set()  # while the run is being set up
            return super().constants()

    before = train(dataclasses.replace(LINE, steps=4), tmp_path)
    assert int(before.step) == 4
    state = train(dataclasses.replace(LINE, regressor=Stopping()), tmp_path, stop=stop)
    assert int(state.step) == 4
    assert int(train(LINE, tmp_path).step) == LINE.steps
    assert lines(tmp_path) == lines(folder)


def start_processes(folder: Path, output: Path | str, *arguments: str) -> list[subprocess.Popen[str]]:
    """`experiments.train` of LINE on two processes of this machine, joined by `jax.distributed`."""
    (folder / "line.py").write_text("from test_training_loop import LINE\n\n\ndef get_config():\n    return LINE\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "experiments.train", f"--config={folder / 'line.py'}", f"--output={output}", "--multihost",
        f"--coordinator=localhost:{port}", "--process_count=2", "--compile_cache=", *arguments,
    ]  # fmt: skip
    path = os.pathsep.join([str(REPO), str(Path(__file__).parent), str(REPO / "tests" / "support")])
    own = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return [
        subprocess.Popen([*command, f"--process_index={index}"], cwd=REPO, env=own, stderr=subprocess.PIPE, text=True)
        for index in range(2)
    ]


def run_processes(folder: Path, output: Path | str, *arguments: str) -> None:
    """`start_processes`, to their end."""
    for process in start_processes(folder, output, *arguments):
        _, errors = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_that_are_interrupted(tmp_path):
    """Two processes with a device each: the interrupted run is the straight one to every digit."""
    run_processes(tmp_path, tmp_path / "straight")
    for steps in (7, LINE.steps):
        run_processes(tmp_path, tmp_path / "interrupted", f"--set=steps={steps}")
    assert len(lines(tmp_path / "straight")) == LINE.steps
    assert lines(tmp_path / "interrupted") == lines(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_in_a_bucket_that_are_killed(tmp_path):
    """Each begins with the same checkpoint of the bucket, and the killed run is the one on a disk to every digit."""
    steps = "--set=steps=24"
    run_processes(tmp_path, tmp_path / "straight", steps)
    with failing_server(share=0.02) as server:
        run = place(f"s3://{server.bucket}/run")
        started = start_processes(tmp_path, str(run), steps)
        while not (run / "checkpoints" / "10.complete").exists() and all(p.poll() is None for p in started):
            time.sleep(0.1)
        for process in started:
            process.kill()
        assert [process.wait() for process in started] == [-signal.SIGKILL] * 2
        for process in started:
            assert process.stderr is not None
            process.stderr.close()
        state = work_state(run)["works"][0]
        assert (state["state"], state["total"], state["workers"]) == ("running", 24, 2)
        assert state["last_checkpoint"] >= 5 and state["done"] >= 5
        run_processes(tmp_path, str(run), steps)
        state = work_state(run)
        assert state["finished"] and state["works"][0]["last_checkpoint"] == state["works"][0]["done"] == 24
        with run_folder(run) as (folder, _):
            assert lines(folder) == lines(tmp_path / "straight")
            begun = states.create(LINE.regressor, LINE.regressor.init(jax.random.key(LINE.seed)), LINE.optimiser)
            ends = [Checkpoints(at / "checkpoints").restore(begun) for at in (folder, tmp_path / "straight")]
            assert int(ends[0].step) == 24
            for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
                np.testing.assert_array_equal(a, b)


def test_what_was_logged_after_the_checkpoint_is_logged_again(straight, tmp_path):
    """A killed process leaves lines of steps that are done again, the last one cut off."""
    folder, _ = straight
    train(dataclasses.replace(LINE, steps=5), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    train(LINE, tmp_path)
    assert lines(tmp_path) == lines(folder)


@dataclasses.dataclass(frozen=True)
class Poisoned(Line):
    """Its loss is `value` for batches that hold one of the numbers `bad`."""

    bad: tuple[int, ...] = ()
    value: float = float("nan")

    def loss(self, variables, constants, batch, key):
        error, terms = super().loss(variables, constants, batch, key)
        hit = jnp.isin(batch, jnp.array(self.bad)).any()
        return jnp.where(hit, self.value, 1.0) * error, terms


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38], ids=str)
def test_a_step_that_is_not_finite_changes_nothing(tmp_path, caplog, value):
    """Neither variables nor averages nor the optimiser's moments; it is counted and said. 1e38: the gradient's norm."""
    config = dataclasses.replace(LINE, steps=20, regressor=Poisoned(bad=(103,), value=float(value)))
    state = train(config, tmp_path)
    found = training_metrics.read(tmp_path / "metrics.jsonl")
    skipped = [line["step"] for line in found if line["skipped"]]
    assert 0 < len(skipped) < 10
    assert int(state.step) == 20
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert "changed nothing, because their loss or gradient was not finite" in caplog.text
    before = train(dataclasses.replace(config, steps=skipped[0] - 1), tmp_path / "before")
    after = train(dataclasses.replace(config, steps=skipped[0]), tmp_path / "after")
    for a, b in zip(jax.tree.leaves(before._replace(step=0)), jax.tree.leaves(after._replace(step=0)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_whose_loss_stays_not_finite_ends_with_its_last_good_state(tmp_path):
    config = dataclasses.replace(
        LINE, steps=100, log_every=50, regressor=Poisoned(bad=(*range(10), 100, 101, 102, 103, 104))
    )
    with pytest.raises(TrainingStopped, match=r"the last 20 steps or more was not finite; the last good state is"):
        train(config, tmp_path)
    state = states.create(config.regressor, config.regressor.init(jax.random.key(config.seed)), config.optimiser)
    kept = Checkpoints(tmp_path / "checkpoints").restore(state)
    assert 20 <= int(kept.step) < 30
    for name, value in state.variables.items():
        np.testing.assert_array_equal(kept.variables[name], value)


DAMAGE: dict[str, Callable[[Path, Path], Any]] = {
    "truncated": lambda step, file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda step, file: file.write_bytes(b""),
    "without the state": lambda step, file: shutil.rmtree(step / "state"),
    "without anything": lambda step, file: [shutil.rmtree(path) for path in step.iterdir() if path.is_dir()],
    "flipped": lambda step, file: file.write_bytes(bytes(255 ^ byte for byte in file.read_bytes())),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(straight, tmp_path, caplog, how):
    """With a warning, and to the same run; what was damaged is kept aside."""
    folder, expected = straight
    train(dataclasses.replace(LINE, steps=10), tmp_path)
    newest = tmp_path / "checkpoints" / "10"
    DAMAGE[how](
        newest, max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    )
    state = train(LINE, tmp_path)
    assert lines(tmp_path) == lines(folder)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "the checkpoint of step 10 cannot be used" in caplog.text
    assert "step 5 is the newest that is whole" in caplog.text
    assert (tmp_path / "damaged" / "10").is_dir()


def test_values_that_are_not_those_written_are_known(tmp_path):
    """A checkpoint that reads well but holds another number: the sums beside it tell."""
    train(dataclasses.replace(LINE, steps=10), tmp_path)
    state = states.create(Line(), Line().init(jax.random.key(LINE.seed)), LINE.optimiser)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    sums = next((tmp_path / "checkpoints" / "10" / "sums").iterdir())
    content = json.loads(sums.read_text())
    name = next(name for name in content if "stem" in name)
    content[name][0] ^= 1
    sums.write_text(json.dumps(content))
    assert int(checkpoints.restore(state).step) == 5
    shutil.rmtree(sums.parent)  # runs of before the sums are read as they were
    assert int(checkpoints.restore(state).step) == 10


def test_checkpoints_of_another_network_are_no_damage(tmp_path):
    train(dataclasses.replace(LINE, steps=10), tmp_path)

    class Wider(Line):
        def init(self, key):
            return {**super().init(key), "stem": jnp.ones(7)}

    with pytest.raises(ValueError, match=r"none of the checkpoints of steps 10, 5 can be used by this network"):
        train(dataclasses.replace(LINE, regressor=Wider()), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "5"]


def test_pictures_during_training(straight, tmp_path):
    """Of the first examples of a batch, by the averaged variables; they change nothing in the run."""
    folder, state = straight

    class Drawing(Line):
        def pictures(self, variables, batch):
            assert len(batch) == 2
            return [np.full((4, 6, 3), 100 * abs(float(variables["head"][0])), np.uint8)] * len(batch)

    config = dataclasses.replace(LINE, regressor=Drawing(), pictures_every=6, pictures=2)
    train(config, tmp_path)
    assert lines(tmp_path) == lines(folder)
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == ["0000006_0.jpg", "0000006_1.jpg", "0000012_0.jpg", "0000012_1.jpg"]
    with Image.open(tmp_path / "pictures" / found[-1]) as last:
        level = 100 * abs(float(state.averaged["head.0"]))
        np.testing.assert_allclose(np.asarray(last), np.full((4, 6, 3), int(level)), atol=2)
    with pytest.raises(ValueError, match="Line draws no pictures"):
        train(dataclasses.replace(LINE, pictures_every=6), tmp_path / "other")


def test_variables_move_by_their_groups(straight):
    _, state = straight
    start = states.flatten(LINE.regressor.init(jax.random.key(LINE.seed)))[0]
    assert set(start) == {"backbone.scale", "head.0", "head.1", "stem"}
    moved = {name: float(np.abs(state.variables[name] - value).max()) for name, value in start.items()}
    assert moved["stem"] == 0
    assert 0 < moved["backbone.scale"] < 0.2 * moved["head.0"]
    assert set(state.averaged) == {"backbone.scale", "head.0", "head.1"}
    whole = states.inference_variables(state, LINE.regressor.init(jax.random.key(0)))
    np.testing.assert_array_equal(whole["head"][0], state.averaged["head.0"])
    np.testing.assert_array_equal(whole["stem"], state.variables["stem"])
    assert not np.array_equal(whole["head"][0], state.variables["head.0"])


def test_the_average_follows_the_variables(tmp_path):
    """One step: half of the start and half of the result, as the config says."""
    state = train(dataclasses.replace(LINE, steps=1), tmp_path)
    start = states.flatten(LINE.regressor.init(jax.random.key(LINE.seed)))[0]
    for name, value in state.averaged.items():
        np.testing.assert_allclose(value, 0.5 * start[name] + 0.5 * state.variables[name], rtol=1e-6)


def test_a_folder_belongs_to_one_run(straight):
    folder, _ = straight
    with pytest.raises(ValueError, match="another optimiser"):
        claim(folder, override(LINE, ["optimiser.lr=0.5"]))
    check_config(json.loads((folder / "config.json").read_text()), dataclasses.replace(LINE, steps=99), "here")
    check_config(None, LINE, "of no run")
    with pytest.raises(ValueError, match=r"config\.batch=3 cannot be split evenly over 4 devices"):
        train(dataclasses.replace(LINE, batch=3), folder / "other")
    with pytest.raises(ValueError, match="Line reads no PyTorch checkpoints"):
        train(dataclasses.replace(LINE, start_from="x.pth"), folder / "other")


@pytest.mark.slow
def test_the_loss_of_the_network_has_a_gradient(config):
    """A batch from the feed through network, loss and their derivative, traced: all terms, and a slope for each variable."""
    batch = training_data.padded(config.feed, next(iter(training_data.rows(config.feed, 4, 0, threads=1))))
    assert batch.images.shape == (4, 96, 96, 3)
    assert batch.targets.people.any()
    regressor = config.regressor
    variables = regressor.init(jax.random.key(0))
    run = jax.value_and_grad(regressor.loss, has_aux=True)
    (value, terms), slope = jax.eval_shape(run, variables, regressor.constants(), batch, jax.random.key(0))
    assert value.shape == () and all(term.shape == () for term in terms.values())
    assert {"layer5/points3d_body", "layer5/points2d_face", "proposals/classes", "layer0/denoising_l1"} <= set(terms)
    assert jax.tree.map(jnp.shape, slope) == jax.tree.map(jnp.shape, variables)


@pytest.mark.slow
@pytest.mark.skipif("ANNYFIT_PUBLISHED_SIZE" not in os.environ, reason="minutes to compile: ANNYFIT_PUBLISHED_SIZE=1")
def test_a_step_of_the_network(config, tmp_path):
    """AiOS with Anny's head on pictures, split over four devices: all terms, finite; the speed is known."""
    state = train(dataclasses.replace(config, steps=1), tmp_path)
    (line,) = training_metrics.read(tmp_path / "metrics.jsonl")
    assert all(np.isfinite(value) for value in line.values())
    assert line["images_per_second"] > 0 and line["tflops"] > 0
    assert {"layer5/points3d_body", "layer5/points2d_face", "proposals/classes", "layer0/denoising_l1"} <= set(line)
    start = states.flatten(config.regressor.init(jax.random.key(config.seed)))[0]
    groups = states.groups_by_name(config.regressor, config.regressor.init(jax.random.key(config.seed)))
    moved = {name: not np.array_equal(state.variables[name], value) for name, value in start.items()}
    assert not any(moved[name] for name, group in groups.items() if group == "frozen")
    assert all(moved[name] for name, group in groups.items() if group == "backbone")


# ------------------------------------------------------------------------------------------------ configs


@pytest.mark.parametrize("name", ["aios", "aios_anny", "aios_anny_tiny"])
def test_shipped_configs(name):
    config: Any = load_config(CONFIGS / f"{name}.py", ["feed.sets.0.path=x", "optimiser.lr=2e-5"])
    assert config.optimiser.lr == 2e-5
    assert sum(part.probability for part in config.feed.sets) == pytest.approx(1.0)
    assert config.feed.head == config.regressor.config.body
    assert json.loads(json.dumps(describe(config))) == describe(config)
    assert hash(config.regressor) == hash(load_config(CONFIGS / f"{name}.py").regressor)


def test_wrong_configs_are_named(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="get_config"):
        load_config(tmp_path / "empty.py")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_config(tmp_path / "absent.py")
    with pytest.raises(ValueError, match="has no field 'speed'"):
        load_config(CONFIGS / "aios.py", ["optimiser.speed=1"])
