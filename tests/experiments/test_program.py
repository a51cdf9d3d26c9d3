"""What all programs share: complete help, wrong usage in one line with the nearest name, exit codes, short programs."""

from __future__ import annotations

import ast
import importlib
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import smplx_synthetic
import yaml
from absl import app, flags
from helpers import REPO
from PIL import Image

from annyfit_jax.distillation.distillation_steps import STEPS
from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.exports.export_fits import FORMATS
from annyfit_jax.exports.scene_files import FRAMES
from annyfit_jax.fit.config import load_config
from annyfit_jax.jobs import fit_store
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.store import plan
from annyfit_jax.store.locations import JobWriteError
from annyfit_jax.truth.ablation import WORLDS
from annyfit_jax.truth.evaluation import ALL_PROTOCOLS
from annyfit_jax.truth.image_evaluation import WITHOUT_FIT
from annyfit_jax.truth.protocols import KINDS
from experiments import program, smplx_flags
from experiments.program import PROGRAMS, Usage

FOLDER = REPO / "experiments"
SHARED = ("program", "input_flags", "photo_flags", "smplx_flags", "__init__")
LONGEST = 150


@pytest.fixture
def usage_of():
    """module -> its `Usage`; the flags leave the table of this process with the test."""
    before = set(flags.FLAGS)

    def define(module: str) -> Usage:
        forget()
        return importlib.import_module(f"experiments.{module}").define_flags()

    def forget() -> None:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)

    yield define
    forget()


def call(*command: str, cwd=REPO) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )


# ------------------------------------------------------------------------------------------------ programs


def test_every_program_is_listed_with_a_line():
    modules = {path.stem for path in FOLDER.glob("*.py")} - set(SHARED)
    assert modules == set(PROGRAMS.values())
    lines = program.listing().splitlines()
    for name, module in PROGRAMS.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert program.summary(module).endswith(".") and line.endswith(program.summary(module))
        assert len(line) <= 120


@pytest.mark.parametrize("module", PROGRAMS.values())
def test_programs_are_thin(module):
    """Under 150 lines, no classes: what a program does can be called from Python without it."""
    text = (FOLDER / f"{module}.py").read_text()
    assert len(text.splitlines()) < LONGEST
    assert not [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    others = set(PROGRAMS.values()) - {module}
    imported = re.findall(r"from experiments import ([\w, ]+)", text) + re.findall(r"from experiments\.(\w+)", text)
    assert not {name for names in imported for name in names.split(", ")} & others, "programs do not import programs"


def test_no_program_hides_a_module_of_python():
    """`python experiments/fit.py` puts this folder first on the path."""
    assert not {path.stem for path in FOLDER.glob("*.py")} & set(sys.stdlib_module_names)


@pytest.mark.process
@pytest.mark.parametrize(
    "way", [["-m", "annyfit_cli", "status"], ["-m", "experiments.status"], ["experiments/status.py"]]
)
def test_ways_to_start_a_program(way, tmp_path):
    done = call(*way, f"--output={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == (
        f"annyfit status: {tmp_path}: nothing was noted (a program that was just started reads its input first); expected the "
        "--output of annyfit fit, precompute, synthesize, pack, predict, export or train\n"
    )


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize(("name", "module"), PROGRAMS.items())
def test_help_shows_every_flag_with_its_default_and_nothing_else(usage_of, name, module):
    before = set(flags.FLAGS)
    usage = usage_of(module)
    defined = set(flags.FLAGS) - before
    assert set(usage.flags) == defined, "each flag is in a group"
    assert set(usage.required) <= defined
    text = program.help_text(name, "What it does.", usage)
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)
    assert sorted(shown) == sorted(defined) and len(shown) == len(set(shown))
    blocks = re.split(r"^  --", text, flags=re.MULTILINE)[1:]
    assert all(re.search(r"\(required\)|\(default: .+\)|[Dd]efault", re.sub(r"\s+", " ", block)) for block in blocks), (
        text
    )
    assert "alsologtostderr" not in text and not any("repeat this option" in block for block in blocks)


@pytest.mark.process
def test_help_of_a_program_as_a_user_calls_it():
    done = call("-m", "experiments.export", "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("annyfit export: Export fits for other programs")
    formats = "npz|glb|ply|obj|usd|bvh|parquet|coco|humandata|amass|bedlam|tfds|webdataset"
    assert f"  --format={formats}\n      What to write. (default: npz)" in done.stdout
    assert "verbosity" not in done.stdout


def test_choices_and_defaults_are_those_of_the_library(usage_of):
    """They are written again in the programs, whose help must not wait for JAX."""

    def choices(name: str) -> tuple[str, ...]:
        return program.choices(flags.FLAGS[name])

    usage_of("export")
    assert (choices("format"), choices("frame")) == (FORMATS, tuple(FRAMES))
    usage_of("evaluate")
    assert choices("protocol") == ALL_PROTOCOLS
    assert (choices("predictions"), choices("without_fit")) == (KINDS, WITHOUT_FIT)
    usage_of("distill")
    assert flags.FLAGS["steps"].default == list(STEPS)
    usage_of("ablate")
    assert all(world in (flags.FLAGS["worlds"].help or "") for world in WORLDS)
    usage_of("fit")
    assert flags.FLAGS["scenes_per_shard"].default == fit_store.DEFAULT_SCENES_PER_SHARD
    for module in ("pack", "synthesize"):
        usage_of(module)
        assert flags.FLAGS["scenes_per_shard"].default == plan.DEFAULT_SCENES_PER_SHARD


# ------------------------------------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        ("fit", ["--imput=a"], "there is no flag --imput; did you mean --input?"),
        ("fit", ["--nopicturs"], "there is no flag --nopicturs; did you mean --pictures?"),
        ("fit", ["--zzz"], "there is no flag --zzz; annyfit fit --help lists the flags"),
        ("fit", [], "--input and --output are missing"),
        ("fit", ["--input=", "--output=a"], "--input is missing"),
        ("fit", ["--input=a", "--output=b", "c"], "'c' is not understood; flags are given as --name=value"),
        ("fit", ["--limit=few"], "--limit=few: expected a whole number"),
        ("fit", ["--log_every_s=long"], "--log_every_s=long: expected a number"),
        ("fit", ["--limit=0"], "--limit=0: 0 is not a positive integer"),
        ("export", ["--format=parqet"], "did you mean parquet?"),
        ("evaluate", ["--protocol=relativehuman"], "did you mean relative_human?"),
    ],
)
def test_wrong_flags_are_named(usage_of, module, arguments, expected):
    said = program.complaint_about(module, usage_of(module), ["annyfit", *arguments])
    assert expected in said and "\n" not in said


def test_right_flags_are_accepted(usage_of):
    assert program.complaint_about("fit", usage_of("fit"), ["annyfit", "--input=a", "--output=b", "--set=x=1"]) == ""
    assert flags.FLAGS["set"].value == ["x=1"]


@pytest.mark.parametrize("path", sorted((REPO / "experiments" / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_commands_of_the_templates_are_understood(usage_of, path):
    command = shlex.split(yaml.safe_load(path.read_text())["spec"]["entrypoint"])
    assert command[0] == "annyfit"
    assert program.complaint_about(command[1], usage_of(command[1]), command[1:]) == ""
    engine = program.engine_from_flags()
    assert (engine.kind, engine.address) == ("ray", "auto") and engine.workers > 0


@pytest.mark.parametrize("flag", ["process_index=3", "process_count=8", "steal", "lease_s=5"])
def test_flags_that_are_gone_name_the_new_command(usage_of, flag):
    for module in ("fit", "precompute", "pack", "synthesize"):
        given = ["annyfit", f"--{flag}", "--input=a", "--images=a", "--output=b", "--scenes=1"]
        usage = usage_of(module)
        known = [
            argument for argument in given if argument.partition("=")[0].removeprefix("--") in (*usage.flags, "annyfit")
        ]
        said = program.complaint_about(module, usage, [*known, f"--{flag}"])
        assert f"annyfit {module} ... --engine=ray" in said and "docs/fleet.md" in said


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "TPU_WORKER_ID"])
def test_one_process_of_many_that_a_launcher_started_is_refused(usage_of, monkeypatch, name):
    usage = usage_of("fit")
    assert not program.complaint_about("fit", usage, ["annyfit", "--input=a", "--output=b"])
    assert program.engine_from_flags().in_process
    flags.FLAGS["resources"].parse("CPU=4,GPU=1")
    flags.FLAGS["engine"].parse("ray")
    assert program.engine_from_flags().resources == {"CPU": 4.0, "GPU": 1.0}
    flags.FLAGS["engine"].parse("process")
    with pytest.raises(ValueError, match=r"--resources: only with --engine=ray"):
        program.engine_from_flags()
    flags.FLAGS["resources"].parse("")
    monkeypatch.setenv(name, "0")
    assert program.engine_from_flags().in_process
    monkeypatch.setenv(name, "3")
    with pytest.raises(ValueError, match=r"this is process 3 of several .* --engine=ray"):
        program.engine_from_flags()


@pytest.mark.parametrize(
    ("module", "given", "said"),
    [
        ("fit", ["--input=PHOTOS", "--hand_labels", "--words=w.json"], "--words and --hand_labels: only for keypoints"),
        ("fit", ["--input=PHOTOS", "--images=PHOTOS"], "--images: only for keypoints"),
        ("fit", ["--input=coco.json", "--experts=whole_body"], "--experts: only where --input names photos"),
        ("fit", ["--input=PHOTOS", "--credits=c.json"], "--credits: only with --pictures"),
        ("predict", ["--images=PHOTOS", "--config=lifter", "--calibration=c.toml"], "--calibration: only with --input"),
        ("predict", ["--input=coco.json", "--config=lifter", "--expert=a=b"], "--expert: only for the lifter"),
    ],
)  # fmt: skip
def test_flags_that_would_change_nothing_are_refused(usage_of, tmp_path, module, given, said):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    given = [argument.replace("PHOTOS", str(tmp_path)) for argument in given]
    usage = usage_of(module)
    assert not program.complaint_about(module, usage, ["annyfit", *given, f"--output={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match=f"^{said}"):
        importlib.import_module(f"experiments.{module}").main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--num_betas=16", "--kid_template=kid.npy"])
def test_settings_of_smplx_without_smplx_are_refused(usage_of, flag):
    usage = usage_of("fit")
    given = ["annyfit", "--input=a", "--output=b"]
    assert not program.complaint_about("fit", usage, given)
    assert smplx_flags.choice() is None
    assert not program.complaint_about("fit", usage, [*given, flag])
    with pytest.raises(ValueError, match=rf"{flag.partition('=')[0]}: only with --body=smplx"):
        smplx_flags.choice()


def test_a_config_that_is_not_for_smplx_is_refused_before_anything_is_written(usage_of, tmp_path):
    file = smplx_synthetic.save(tmp_path)
    given = ["annyfit", "--input=a", "--output=b", "--body=smplx", f"--body_file={file}"]
    assert not program.complaint_about("fit", usage_of("fit"), given)
    config = load_config(program.find_config("annyfit_plus"))
    assert smplx_flags.choice(config) is not None
    with pytest.raises(ValueError, match="is for Anny"):
        smplx_flags.choice(apply_overrides(config, ["lm.objective=released"]))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fti"], "annyfit: there is no program 'fti'; did you mean fit?"),
        (["qqq"], "annyfit: there is no program 'qqq'; `annyfit` alone lists the programs"),
        (["--input=a"], "annyfit: the name of a program comes first, got --input=a; `annyfit` alone lists the programs"),
        (
            ["distill", "--config=distill_tiny", "--output=o", "--steps=fitt"],
            "annyfit distill: --steps: there is no step 'fitt'; did you mean fit?",
        ),
        (
            ["train", "--config=aios_any", "--output=o"],
            "annyfit train: --config=aios_any: no such file; did you mean aios_anny?",
        ),
        (
            ["predict", "--config=aios", "--images=a", "--output=o"],
            "annyfit predict: no weights of AiosRegressor are shipped; give --run or --checkpoint",
        ),
        (
            ["fit", "--input=a", "--output=o", "--body=smplx"],
            "annyfit fit: --body=smplx and --body_file belong together",
        ),
        (["synthesize", "--scenes=1"], "annyfit synthesize: --output is missing"),
        (["inspect"], "annyfit inspect: --cues and --output are missing"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, expected, tmp_path):
    done = call("-m", "annyfit_cli", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected + "\n")
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.process
@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"], ["-h"]])
def test_the_front_door_lists_the_programs(arguments):
    done = call("-m", "annyfit_cli", *arguments)
    assert (done.returncode, done.stdout) == (0, program.listing() + "\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SceneError("a.npz: broken"), 2), (app.UsageError("no"), 2), (FileNotFoundError("a"), 2), (ValueError("a"), 2),
        (JobWriteError("disk"), 74), (PermissionError("a"), 74), (Interrupted(), 75), (RuntimeError("a mistake"), None),
    ],
)  # fmt: skip
def test_exit_codes(error, code):
    assert program.exit_code(error) == code


def test_errors_of_the_operating_system_name_the_file():
    with pytest.raises(OSError) as caught:
        Path("/nowhere/at/all").read_bytes()
    assert program._said(caught.value) == "/nowhere/at/all: cannot be read or written (No such file or directory)"
    assert "again" in program._said(Interrupted())


# ------------------------------------------------------------------------------------------------ configs, compiled programs


def test_configs_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = str(FOLDER / "configs" / "annyfit_plus.py")
    assert program.find_config("annyfit_plus") == program.find_config("annyfit_plus.py") == shipped
    assert program.find_config("experiments/configs/annyfit_plus.py") == shipped
    with pytest.raises(FileNotFoundError, match="did you mean annyfit_plus"):
        program.find_config("anyfit_plus")
    with pytest.raises(FileNotFoundError, match="no such file"):
        program.find_config("elsewhere/annyfit_plus.py")
    (tmp_path / "annyfit_plus.py").write_text("")
    assert program.find_config("annyfit_plus.py") == "annyfit_plus.py", "a file that is there comes first"


def test_the_start_is_quiet_unless_the_user_wants_to_see_it(monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    program._quieten_start()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    program._quieten_start()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    assert not logging.getLogger("jax._src.xla_bridge").isEnabledFor(logging.INFO)


@pytest.mark.parametrize(("told", "expected"), [({}, "kept"), ({"JAX_COMPILATION_CACHE_DIR": "x"}, None)])
def test_the_compile_cache_is_where_the_user_says(usage_of, monkeypatch, told, expected):
    import jax

    changes: dict[str, str] = {}
    monkeypatch.setattr(jax, "config", SimpleNamespace(update=changes.__setitem__))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    usage = usage_of("train")
    assert not program.complaint_about("train", usage, ["annyfit", "--config=a", "--output=b", "--compile_cache=kept"])
    program.use_compile_cache()
    assert changes.get("jax_compilation_cache_dir") == expected
