"""The benchmark's arithmetic, report, workers and cost model on tiny sizes; no torch, nothing timed for long."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
from fit_cases import TRAJECTORIES, released_config, trajectory
from helpers import SHARED

from annyfit_jax.fit.fit_body import anny_body
from annyfit_jax.people.scene import SceneError
from experiments.benchmarks import benchmark, benchmark_report, benchmark_scenes, cost_model
from experiments.benchmarks.benchmark_worker import Stopwatch, Worker, WorkerError


def run(seconds: float) -> dict[str, float]:
    return {"cpu_s": seconds, "wall_s": 10 * seconds}


def measurements() -> dict:
    """Hand-made measurements: everything of torch 100 times slower, or so."""
    entry = lambda people, *seconds: {  # noqa: E731
        "people": people, "batches": 1, "lanes": 8, "runs": [run(s) for s in seconds],
    }  # fmt: skip
    body = {
        "ours": {"points": [run(0.0064)], "mesh": [run(0.064)]},
        "torch": {"points": [run(0.128)]},
        "body_models": {"points": [run(0.64)], "points_own": [run(0.32)]},
    }
    return {
        "clock": "cpu_s",
        "missing": {},
        "facts": {"machine": "a machine"},
        "fit": {
            "counts": [2, 4, 6],
            "lone_scene": 1,
            "torch_single": {"0": entry(2, 7.0, 7.2, 90.0), "1": entry(4, 9.2)},
            "torch_batched": entry(12, 12.0),
            "ours": entry(12, 0.3, 0.2, 0.9),
            "ours_subset": entry(12, 0.4),
            "ours_lone": entry(4, 0.1),
        },
        "body": {"32": body},
        "compile": {"people": 12, "cold": run(11.0), "cached": run(1.0)},
    }


# ------------------------------------------------------------------------------------------------ arithmetic


def test_scene_seconds() -> None:
    assert benchmark_report.scene_seconds([], [1, 2]) is None
    assert benchmark_report.scene_seconds([(2, 4.0)], [1, 2, 3]) == pytest.approx(12.0)
    # 5 s a scene and 1 s a person.
    assert benchmark_report.scene_seconds([(2, 7.0), (4, 9.0)], [1, 6]) == pytest.approx(6.0 + 11.0)
    # A measured size is taken as measured, by its median.
    assert benchmark_report.scene_seconds([(2, 7.0), (4, 9.0), (4, 9.0), (4, 99.0)], [4]) == pytest.approx(9.0)


def test_summary_numbers() -> None:
    line = benchmark_report.summary(measurements())
    # Medians: 7.2 and 9.2 s, so 1 s a person and 5.2 s a scene; (7.2 + 9.2 + 11.2) s for 12 people, against 0.3 s.
    assert line["torch_single_s_per_person"] == pytest.approx(27.6 / 12, rel=1e-3)
    assert line["fit_speedup_vs_torch_single"] == pytest.approx(27.6 / 0.3, rel=1e-3)
    assert line["fit_speedup_vs_torch_batched"] == pytest.approx(12.0 / 0.4, rel=1e-3)
    assert line["fit_speedup_one_scene"] == pytest.approx(9.2 / 0.1, rel=1e-3)
    assert line["people_per_second"] == pytest.approx(40.0)
    assert line["points_gradient_ms_per_person"] == pytest.approx(0.2)
    assert line["body_points_ratio_torch_b32"] == pytest.approx(20.0)
    assert line["body_points_ratio_body_models_b32"] == pytest.approx(50.0)  # the faster of its two ways
    assert line["body_mesh_ratio_torch_b32"] is None
    assert (line["compile_seconds"], line["compile_seconds_cached"]) == (11.0, 1.0)
    assert json.loads(json.dumps(line)) == line


def test_summary_without_torch() -> None:
    results = measurements()
    results["fit"] |= {"torch_single": {}, "torch_batched": {"people": 0, "runs": []}}
    results["missing"] = {"torch": "not installed"}
    line = benchmark_report.summary(results)
    names = ("fit_speedup_vs_torch_single", "fit_speedup_vs_torch_batched", "fit_speedup_one_scene")
    assert [line[name] for name in names] == [None] * 3
    assert line["people_per_second"] == pytest.approx(40.0)
    assert line["missing"] == {"torch": "not installed"}
    assert "not measured: torch: not installed" in benchmark_report.markdown(results)


def test_wall_clock_is_used_where_nothing_is_pinned() -> None:
    line = benchmark_report.summary(measurements() | {"clock": "wall_s"})
    assert line["people_per_second"] == pytest.approx(4.0)


def test_markdown() -> None:
    text = benchmark_report.markdown(measurements())
    row = next(line for line in text.splitlines() if line.startswith("| ours, all scenes"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:6] == ["12", "3", "0.025", "40", "92"]
    header, rule, first = benchmark_report.table(["a", "b"], [[None, 0.12345]]).splitlines()
    assert (header, rule, first) == ("| a | b |", "| --- | --- |", "| – | 0.123 |")


def test_agreement_is_the_worst_of_each_person() -> None:
    rng = np.random.default_rng(0)
    exact = {
        "transl": rng.normal(size=(3, 3)),
        "root_rotvec": rng.normal(size=(3, 3)),
        "pose": rng.normal(size=(3, 5, 3)),
        "shape": rng.normal(size=(3, 6)),
    }
    ours = {name: value.copy() for name, value in exact.items()}
    ours["transl"][1] += [0.003, 0.0, 0.004]
    ours["pose"][2, 4] += [0.0, -0.3, 0.4]
    ours["shape"][0, 2] -= 0.25
    groups = benchmark_report.agreement(ours, exact, "x")["groups"]
    assert groups["transl"]["max"] == pytest.approx(5.0)
    assert groups["transl"]["median"] == 0.0
    assert groups["pose"]["max"] == pytest.approx(0.5)
    assert groups["shape"]["max"] == pytest.approx(0.25)


def test_values_apart() -> None:
    assert benchmark_report.values_apart({"8": {"values": {"ours": {"points": 2.0}}}}) is None
    body = {
        "1": {"values": {"ours": {"points": 2.0}, "body_models": {"points_own": 2.002}}},
        "8": {"values": {"ours": {"points": 2.0, "mesh": 1.0}, "torch": {"points": 2.0, "mesh": 0.99}}},
    }
    assert benchmark_report.values_apart(body) == pytest.approx(0.01)


def test_scene_choice_and_interleaving() -> None:
    assert benchmark._first_people([2, 3, 4], 5) == [0, 1]
    assert benchmark._first_people([9, 1], 5) == [0]
    called: list[str] = []

    def side(name: str):
        def call(repeats: int) -> dict:
            called.append(f"{name}{repeats}")
            return run(0.2)

        return call

    out = benchmark._interleaved(2, "cpu_s", {("a", "w"): side("a"), ("b", "w"): side("b")})
    assert called == ["a1", "b1"] + ["a1", "b1"] * 2
    assert out["a"]["w"] == [run(0.2)] * 2


# ------------------------------------------------------------------------------------------------ scenes


def test_problem_round_trip() -> None:
    scenes = [trajectory(k)[0] for k in TRAJECTORIES]
    for scene, k in zip(scenes, TRAJECTORIES):
        scene.start = trajectory(k)[1]
    problem = benchmark_scenes.from_scenes(scenes)
    assert list(problem["counts"]) == [len(s) for s in scenes]
    back = benchmark_scenes.scenes_of(problem, [2, 0])
    assert [len(s) for s in back] == [len(scenes[2]), len(scenes[0])]
    np.testing.assert_allclose(back[0].keypoints, scenes[2].keypoints, rtol=1e-6)
    assert back[0].start is not None and scenes[2].start is not None
    np.testing.assert_allclose(back[0].start.pose, scenes[2].start.pose)


def test_regrouped_people() -> None:
    problem = {"counts": np.array([2, 1]), "transl": np.arange(9.0).reshape(3, 3)}
    grouped = benchmark_scenes.regrouped(problem, 4, 10)
    assert list(grouped["counts"]) == [4, 4]
    np.testing.assert_array_equal(grouped["transl"][3], problem["transl"][0])


@pytest.mark.slow
def test_synthetic_scenes_can_be_fitted(load_anny) -> None:
    problem = benchmark_scenes.synthesise(load_anny("float32"), [1, 3], seed=1)
    assert all(np.isfinite(value).all() for value in problem.values())
    assert problem["keypoints"].shape == (4, 17, 3)
    assert problem["dense"].shape == (4, 138, 3)
    inside = (np.abs(problem["keypoints"][..., :2] - [320, 240]) < [640, 720]).all(-1)
    assert inside.mean() > 0.9
    # Upright: noses above ankles in the image (y down).
    assert (problem["keypoints"][:, 0, 1] < problem["keypoints"][:, 15:17, 1].min(1)).all()


def test_read_development_scenes() -> None:
    folder = SHARED / "data" / "annyfit_scenes"
    if not folder.is_dir():
        pytest.skip("shared data not present: ../shared/data/annyfit_scenes")
    problem = benchmark_scenes.read(folder)
    assert (len(problem["counts"]), problem["counts"].sum()) == (40, 140)
    words = problem["words"]
    np.testing.assert_array_equal(problem["shape"][:, :2][words >= 0], words[words >= 0])


def test_read_nothing(tmp_path) -> None:
    with pytest.raises(SceneError, match="no scene files with a start"):
        benchmark_scenes.read(tmp_path)


# ------------------------------------------------------------------------------------------------ workers


@pytest.fixture
def echo(tmp_path):
    """A worker module that is not part of the project."""
    code = """
from experiments.benchmarks.benchmark_worker import serve
class Echo:
    def twice(self, x):
        print("noise on stdout")
        return {"x": 2 * x}
    def fails(self):
        raise ValueError("no such thing")
    def dies(self):
        import os, sys
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
serve(Echo())
"""
    (tmp_path / "echo_worker.py").write_text(code)
    with Worker("echo_worker", environment={"PYTHONPATH": str(tmp_path)}, log=tmp_path / "log") as worker:
        yield worker


def test_worker_answers(echo: Worker) -> None:
    assert echo("twice", x=21) == {"x": 42}
    assert echo("memory")["peak_memory_mb"] > 1
    with pytest.raises(WorkerError, match="fails: ValueError: no such thing"):
        echo("fails")
    assert echo("twice", x=1) == {"x": 2}
    with pytest.raises(WorkerError, match="ended with code 3: last words"):
        echo("dies")


def test_worker_without_its_packages(tmp_path) -> None:
    with (
        Worker("no_such_module_anywhere", log=tmp_path / "log") as worker,
        pytest.raises(WorkerError, match="no_such_module_anywhere"),
    ):
        worker("setup")


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux")
def test_worker_is_pinned(tmp_path) -> None:
    import os

    core = min(os.sched_getaffinity(0))
    code = (
        "import os\nfrom experiments.benchmarks.benchmark_worker import serve\n"
        "class W:\n    def cores(self):\n        return {'cores': sorted(os.sched_getaffinity(0))}\nserve(W())\n"
    )
    (tmp_path / "pinned_worker.py").write_text(code)
    with Worker("pinned_worker", cores=(core,), environment={"PYTHONPATH": str(tmp_path)}) as worker:
        assert worker("cores") == {"cores": [core]}


def test_stopwatch_separates_work_from_waiting(monkeypatch) -> None:
    """Clocks that a test turns: 0.5 s of work, then 2 s of waiting that counts as the block's too."""
    wall, cpu = 10.0, 3.0
    monkeypatch.setattr("time.perf_counter", lambda: wall)
    monkeypatch.setattr("time.process_time", lambda: cpu)

    def wait() -> None:
        nonlocal wall
        wall += 2.0

    with Stopwatch(wait) as watch:
        wall, cpu = wall + 0.5, cpu + 0.5
    assert watch.times == {"cpu_s": 0.5, "wall_s": 2.5}


def test_torch_side_is_left_out_with_a_reason(tmp_path) -> None:
    bench = benchmark.Benchmark(tmp_path, benchmark.Options(torch_python=f"{tmp_path}/no-python"))
    assert bench.torch() is None
    assert "torch" in bench.missing
    assert str(tmp_path) not in bench.missing["torch"]
    assert bench.body_models() is None
    assert "body_models" in bench.missing


def test_a_section_is_put_into_the_results_of_an_earlier_run(tmp_path, monkeypatch) -> None:
    options = benchmark.Options(again=("throughput",))
    with pytest.raises(ValueError, match="no earlier results"):
        benchmark.main(options, str(tmp_path))
    bench = benchmark.Benchmark(tmp_path, options)
    monkeypatch.setattr(bench, "_make_problem", lambda: None)
    monkeypatch.setattr(bench, "ours", lambda: contextlib.nullcontext("side"))
    monkeypatch.setattr(bench, "throughput", lambda side: {"measured by": side})
    before = {"facts": {"date": "then"}, "fit": {"x": 1}, "throughput": {"old": 1}}
    after = bench.run_again(before)
    assert after["throughput"] == {"measured by": "side"}
    assert (after["fit"], after["facts"]["date"]) == ({"x": 1}, "then")
    assert "measured again" in after["facts"]["throughput"]


# ------------------------------------------------------------------------------------------------ cost model

SIZES = cost_model.Sizes(rank=10, bones=5, vertices=8, pairs=6, stored=32, links=20, projected=7, mesh=3, variables=12)


def test_cost_model_counts_matrix_products() -> None:
    before = {p.name: p for p in cost_model.parts(SIZES)}
    assert before["rest bones"].forward == 2 * 10 * 3 * 2 * 5
    assert before["rest points"].forward == 2 * 10 * 3 * (8 + 6)
    skin = before["transforms of one-vertex points"]
    assert skin.forward == 2 * 12 * 32
    assert skin.zeros == 2 * (2 * 12 * (32 - 20))
    assert cost_model.step_flops(SIZES) - cost_model.step_flops(SIZES, ideal=True) == skin.zeros


def test_cost_model_bytes_share_constants_among_people() -> None:
    one, many = cost_model.step_bytes(SIZES, 1), cost_model.step_bytes(SIZES, 1000)
    constants = 4 * (10 * (cost_model.CORNERS + 30 + 42) + 32)
    assert one - many == pytest.approx(2 * constants * (1 - 1 / 1000))


def test_floor_is_the_slower_of_the_two() -> None:
    machine = cost_model.Machine("m", flops=1e9, bandwidth=1e9)
    assert cost_model.floor_us(1e3, 5e3, machine) == pytest.approx(5.0)
    assert cost_model.floor_us(9e3, 5e3, machine) == pytest.approx(9.0)


def test_sizes_of_the_real_body(load_anny) -> None:
    config = released_config()
    body = anny_body(load_anny("float32"), config)
    sizes = cost_model.sizes_of(body)
    assert (sizes.projected, sizes.variables) == (155, 6 + 6 + 3 * 37)
    assert 138 <= sizes.vertices <= body.layout.counts[1] + body.layout.counts[2]
    assert sizes.vertices < sizes.links < sizes.stored < sizes.vertices * sizes.bones
    # The forward pass on points alone takes about 0.8 MFLOP (COCO-17 and 138 points, zeros not counted).
    share = 138 / sizes.vertices
    points_only = sizes._replace(vertices=138, stored=int(sizes.stored * share), links=int(sizes.links * share), mesh=0)
    forward = sum(p.forward for p in cost_model.parts(points_only)) - 24 * (points_only.stored - points_only.links)
    assert 0.5e6 < forward < 1.5e6
    text, numbers = cost_model.report(sizes, 128, [cost_model.Machine("m", 1e10, 1e10)], 100.0, {})
    assert numbers["floor_us"]["m"] == pytest.approx(
        max(cost_model.step_flops(sizes), cost_model.step_bytes(sizes, 128)) / 1e10 * 1e6
    )
    assert "| m |" in text


def test_machine_peaks_are_plausible() -> None:
    machine = cost_model.measure_machine(size=256, megabytes=4)
    assert 1e8 < machine.flops < 1e14
    assert 1e8 < machine.bandwidth < 1e13
