"""The documents a user meets: commands that parse, settings that exist, links that lead somewhere, code that runs."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from export_cases import FITTED, make_job
from helpers import HANG_S, REPO
from scipy.spatial.transform import Rotation

from annyfit_jax.distillation import distillation_config as distillation_configs
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.fit import config as fit_configs
from annyfit_jax.fit import objective
from annyfit_jax.inputs import keypoint_files, open_input
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records import fit_files
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.synthetic import world_config as worlds
from annyfit_jax.training import training_config as training_configs
from experiments.program import PROGRAMS, find_config
from experts import registry

GUIDES = [REPO / name for name in ("README.md", "WORKSPACE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS = [*GUIDES, *sorted((REPO / "docs").rglob("*.md"))]
TUTORIALS = REPO / "docs" / "tutorials"
PACKAGES = ("annyfit_jax", "body_models", "experts")
"""Those of the API reference."""
DEFAULT_CONFIG = {"fit": "experiments/configs/annyfit_plus.py", "ablate": "experiments/configs/annyfit.py"}
OWN_CONFIGS = ("upright.py",)
"""Of the reader: written in a tutorial, which is run below."""
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:python -m experiments\.|(?<![\w/-])annyfit )([a-z_.\d]+)(?=\s|$)(.*)")

# Flags live in one table of the process, under names that several programs use. So programs are imported one after another, and
# what a module defined is taken out of the table before the next.
_PARSER = """
import importlib, json, sys
from absl import flags
from experiments import program as programs

def flags_of(name):
    before = set(flags.FLAGS)
    module = importlib.import_module("experiments." + name)
    usage = module.define_flags() if hasattr(module, "define_flags") else None
    own = flags.FlagValues()
    for flag in set(flags.FLAGS) - before:
        if usage is not None or flags.FLAGS.find_module_defining_flag(flag) == module.__name__:
            own[flag] = flags.FLAGS[flag]
        delattr(flags.FLAGS, flag)
    return own

def complaint(own, program, arguments):
    own.unparse_flags()
    try:
        left = own([program, *arguments])[1:]
    except flags.Error as error:
        return str(error)
    return f"not understood: {left}" if left else ""

answers = {}
for program, commands in json.load(sys.stdin).items():
    own = flags_of(programs.PROGRAMS.get(program, program))
    answers[program] = [complaint(own, program, arguments) for arguments in commands]
print(json.dumps(answers))
"""


class Command(NamedTuple):
    where: str
    program: str
    arguments: tuple[str, ...]

    def values(self, flag: str) -> list[str]:
        return [a.partition("=")[2] for a in self.arguments if a.startswith(f"--{flag}=")]


def relative(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def blocks(text: str, language: str) -> Iterator[tuple[str, str]]:
    """(rest of the opening line, contents) of the fenced blocks of a language; the empty language is a shell."""
    for match in _FENCE.finditer(text):
        name, _, rest = match[1].strip().partition(" ")
        if (name or "bash") == language:
            yield rest, match[2]


def lines_of_shell(text: str) -> Iterator[str]:
    """Lines of the shell blocks, continued lines joined, and inline code."""
    for _, block in blocks(text, "bash"):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    spans = re.findall(r"`((?:[^`]*python -m experiments\.|annyfit [a-z])[^`]+)`", _FENCE.sub("", text))
    yield from (span.replace("\n", " ") for span in spans)


def commands_of(document: Path) -> list[Command]:
    found = []
    for line in lines_of_shell(document.read_text(encoding="utf-8")):
        if match := _COMMAND.search(line):
            arguments = tuple(shlex.split(match[2], comments=True))
            found.append(Command(relative(document), match[1], arguments))
    return found


COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]


# ------------------------------------------------------------------------------------------------ commands


def parse(commands: list[Command]) -> list[str]:
    """The complaint of each command's program about its flags, empty where there is none; one process for all."""
    asked: dict[str, list[list[str]]] = {}
    for command in commands:
        # `--difficulty=...` stands for any value: only the name is looked at, in `test_flags_named_in_the_text_exist`.
        arguments = [a for a in command.arguments if "..." not in a]
        asked.setdefault(command.program, []).append(arguments)
    done = subprocess.run(
        [sys.executable, "-c", _PARSER], input=json.dumps(asked), capture_output=True, text=True, cwd=REPO,
        timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = {program: iter(said) for program, said in json.loads(done.stdout.splitlines()[-1]).items()}
    return [next(answers[command.program]) for command in commands]


@pytest.mark.process
def test_every_command_is_understood_by_its_program():
    """Programs exist, and take the flags and the values that the documents give them."""
    assert {c.where for c in COMMANDS} >= {relative(p) for p in (*TUTORIALS.glob("[1-6]_*.md"), REPO / "README.md")}
    modules = [PROGRAMS.get(c.program, c.program).replace(".", "/") for c in COMMANDS]
    missing = [c for c, module in zip(COMMANDS, modules) if not (REPO / "experiments" / f"{module}.py").is_file()]
    assert not missing, missing
    named = [f"{c.where}: {c.program} {' '.join(c.arguments)}" for c in COMMANDS]
    wrong = [f"{name}: {said}" for name, said in zip(named, parse(COMMANDS)) if said]
    assert not wrong, "\n".join(wrong)


@pytest.mark.process
def test_a_wrong_command_is_found():
    def command(program: str, *arguments: str) -> Command:
        return Command("here", program, arguments)

    wrong = [
        command("export", "--fits=a", "--format=fbx"),
        command("export", "--input=a"),
        command("fit", "--limit=0"),
        command("pack", "--overwrite"),
        command("status", "out"),
    ]
    right = [command("fit", "--input=a", "--nopictures"), command("pack", "--fov=50", "--limit=2"), command("export")]
    said = parse(wrong + right)
    assert all(said[: len(wrong)]), said
    assert not any(said[len(wrong) :]), said


def apply_settings(command: Command) -> int:
    """Applies a command's `--set`s to its config; how many there were. Raises ValueError, FileNotFoundError."""
    settings = [s for s in command.values("set") if "..." not in s]
    path = (command.values("config") or [DEFAULT_CONFIG.get(command.program, "")])[0]
    if command.program == "precompute":
        if any(":" in s for s in settings):
            return 0  # an expert of the reader's own; `test_precompute` runs it
        registry.build((command.values("experts") or ["default"])[0], settings)
    elif command.program == "synthesize":
        preset = worlds.preset((command.values("difficulty") or ["standard"])[0], "multihmr")
        worlds.override(preset, settings)
    elif path and path in OWN_CONFIGS:
        return 0  # a config of the reader's own; that of tutorial 4 is run below
    elif command.program in DEFAULT_CONFIG:
        apply_overrides(fit_configs.load_config(find_config(path)), settings)
    elif command.program in ("train", "predict") and path:
        training_configs.load_config(find_config(path), settings)
    elif command.program == "distill" and path:
        distillation_configs.load_config(find_config(path), settings)
    return len(settings)


def test_every_setting_is_accepted():
    """`--config` files exist, and every `--set` fits into the config that it is given to."""
    checked = 0
    for command in COMMANDS:
        if any("..." in a for a in command.arguments if a.startswith("--difficulty=")):
            continue  # `--difficulty=...`: any of them
        try:
            checked += apply_settings(command)
        except (ValueError, FileNotFoundError) as error:  # an ExpertError is a ValueError
            pytest.fail(f"{command.where}: {command.program} {' '.join(command.arguments)}: {error}")
    assert checked >= 20


def test_a_wrong_setting_is_found():
    wrong = {
        "fit": "stages.poze.steps=3", "train": "steps=many", "precompute": "detector.colour=1", "synthesize": "noise=1",
        "distill": "train.step=1",
    }  # fmt: skip
    configs = {"train": "multihmr_anny_tiny", "distill": "distill_tiny"}
    for program, setting in wrong.items():
        config = [f"--config=experiments/configs/{configs[program]}.py"] if program in configs else []
        with pytest.raises(ValueError):
            apply_settings(Command("here", program, (*config, f"--set={setting}")))


def test_flags_named_in_the_text_exist():
    """A flag in inline code belongs to some program of this project, or to a program that is named beside it."""
    source = "\n".join(p.read_text() for p in (REPO / "experiments").rglob("*.py"))
    known = {"help", *re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source)}
    unknown = []
    for document in DOCUMENTS:
        for span in re.findall(r"`([^`\n]+)`", _FENCE.sub("", document.read_text(encoding="utf-8"))):
            if span.startswith(("--", "annyfit ")) or "experiments." in span:
                names = re.findall(r"(?<!\S)--(?:no)?(\w+)", span)
                unknown += [f"{relative(document)}: {span}" for n in names if n not in known and f"no{n}" not in known]
    assert "set" in known
    assert not unknown, unknown


# ------------------------------------------------------------------------------------------------ names


def resolve(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part) and part not in getattr(found, "__dataclass_fields__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def test_names_and_files_in_the_text_exist():
    """Dotted names of the packages and paths in inline code lead to something, and so do the imports of Python blocks."""
    wrong = []
    for document in DOCUMENTS:
        if document.name == "migration.md":
            continue  # it is about old names; `test_moved_modules` checks it
        for span in re.findall(r"`([^`\n]+)`", _FENCE.sub("", document.read_text(encoding="utf-8"))):
            if re.fullmatch(r"(?:annyfit_jax|body_models|experts)(?:\.\w+)+", span):
                good = resolve(span)
            elif re.fullmatch(r"(?:annyfit_jax|body_models|experts|experiments|tests)/[\w./]+", span):
                good = (REPO / span).exists()
            else:
                continue
            if not good:
                wrong.append(f"{relative(document)}: {span}")
        for _, code in blocks(document.read_text(encoding="utf-8"), "python"):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                    wrong += [f"{relative(document)}: {name}" for name in names if not resolve(name)]
    assert resolve("annyfit_jax.records.fit_files.SceneFit.transl") and not resolve("annyfit_jax.records.fit_files.Fit")
    assert not wrong, wrong


def test_the_reference_can_be_built_without_extras():
    """Every module of the three documented packages is imported by this environment alone, and says what it is."""
    silent = []
    for package in PACKAGES:
        for path in sorted((REPO / package).rglob("*.py")):
            name = ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
            if not importlib.import_module(name).__doc__:
                silent.append(name)
    assert not silent


# ------------------------------------------------------------------------------------------------ links


def anchors(text: str) -> set[str]:
    """The names that headings can be linked by."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_and_pictures_lead_somewhere(document):
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_index():
    """docs/index.md names each document and each tutorial."""
    index = (REPO / "docs" / "index.md").read_text()
    pages = [p.relative_to(REPO / "docs").as_posix() for p in DOCUMENTS if p.is_relative_to(REPO / "docs")]
    assert not [page for page in pages if page != "index.md" and f"({page})" not in index]


def test_every_page_has_a_place_in_the_site():
    """mkdocs.yml names each document, the pages of results, and nothing that does not exist."""
    named = set(re.findall(r"[\w./]+\.md\b", (REPO / "mkdocs.yml").read_text()))
    results = (REPO / "experiments" / "results").glob("*.md")
    assert named == {relative(path) for path in (*DOCUMENTS, *results)}


def test_pictures_are_small_and_used():
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    for picture in (REPO / "docs" / "images").iterdir():
        assert picture.stat().st_size < 150_000, picture.name
        assert f"images/{picture.name}" in text, f"{picture.name} is shown nowhere"


# ------------------------------------------------------------------------------------------------ code


def runnable(page: str) -> list[tuple[str, str]]:
    """(name of a file to save it as, code) of the blocks that are marked to be run; the path is from the tutorials."""
    found = []
    for rest, code in blocks((TUTORIALS / page).read_text(), "python"):
        if rest.startswith("run"):
            found.append((rest.partition("file=")[2], code))
    return found


def run_page(page: str, folder: Path) -> dict[str, Any]:
    """Runs the marked blocks of a page one after another in one namespace, in `folder`."""
    names: dict[str, Any] = {}
    for file, code in runnable(page):
        if file:
            (folder / file).write_text(code)
        exec(compile(code, f"{page}: {code.splitlines()[0]}", "exec"), names)
    return names


@pytest.fixture
def finished_job(tmp_path, monkeypatch) -> Path:
    """A folder with what tutorial 3 reads: a job, fit files, a Parquet table, a training set."""
    out = tmp_path / "out"
    job = make_job(out / "demo")
    fits = {fit.name: fit for fit in open_fits(job)}
    (job / "fits").mkdir()
    for name in FITTED:
        fit_files.save(fits[name], job / "fits" / f"{name}.npz")
    export_fits(str(job), str(out / "people.parquet"), "parquet")
    export_fits(str(job), str(out / "training_set"), "tfds")
    monkeypatch.chdir(tmp_path)
    return job


def test_the_code_of_tutorial_3_reads_results(finished_job, capsys):
    names = run_page("3_reading_results.md", finished_job.parents[1])
    assert len(runnable("3_reading_results.md")) == 5
    fits = {fit.name: fit for fit in open_fits(finished_job)}
    first = fits[sorted(FITTED)[0]]
    assert f"{first.name} {first.person_ids[0]}: {first.height_m[0]:.2f} m tall" in capsys.readouterr().out
    # The camera convention of the page is that of the fits: points in camera axes, K, pixels.
    joints = first.fitted_keypoints_3d[first.ok]
    expected = np.stack([joints[..., i] / joints[..., 2] * first.K[i, i] + first.K[i, 2] for i in (0, 1)], -1)
    np.testing.assert_allclose(names["pixels"], expected, rtol=1e-4)
    assert len(names["fitted"]) == sum(FITTED.values())
    assert np.asarray(names["vertices"]).shape[1:] == (13718, 3)


@pytest.mark.slow
def test_the_term_of_tutorial_4_pulls_people_upright(tmp_path, monkeypatch):
    shutil.copytree(REPO / "experiments" / "configs", tmp_path / "experiments" / "configs")
    shutil.copytree(REPO / "experiments" / "demo_data", tmp_path / "experiments" / "demo_data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(objective, "TERMS", dict(objective.TERMS))
    names = run_page("4_changing_the_objective.md", tmp_path)
    fit, lean = names["fit"], names["lean"]
    assert (fit.status == "ok").all() and len(fit) == 3
    assert (lean(fit.root_rotvec) < 3).all()


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0])
def test_the_value_of_that_term(degrees, monkeypatch):
    """Against SciPy: a body that faces the camera, turned about the optical axis by an angle t, costs 1 - cos t."""
    monkeypatch.setattr(objective, "TERMS", dict(objective.TERMS))
    ((_, code), *_) = runnable("4_changing_the_objective.md")
    names: dict[str, Any] = {}
    exec(code, names)
    upright = Rotation.from_rotvec([np.pi / 2, 0, 0])
    turned = Rotation.from_rotvec([0, 0, np.radians(degrees)]) * upright
    person = SimpleNamespace(variables=SimpleNamespace(root_rotvec=jnp.asarray(turned.as_rotvec())))
    value = names["upright"](person, None, None)
    np.testing.assert_allclose(value, 1 - np.cos(np.radians(degrees)), atol=1e-6)


def test_an_input_format_of_the_readers_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keypoint_files, "FAMILIES", dict(keypoint_files.FAMILIES))
    scene = run_page("../inputs.md", tmp_path)["scene"]
    assert capsys.readouterr().out == "ours photo (1, 17, 3)\n"
    np.testing.assert_allclose(scene.keypoints[0, 3], [115.0, 227.0, 0.9])
    (tmp_path / "photo.json").write_text('{"made_by": "our detector", "size": [640, 480], "poses": [[[1, 2, 3]]]}')
    with pytest.raises(SceneError, match=r"photo\.json: nobody .*pose 0: expected 17 x 3 numbers"):
        open_input("photo.json")


def test_blocks_and_joined_lines():
    text = (
        "a\n```bash\nx --a=1 \\\n    --b=2\n```\n```python run\ny\n```\n```\npython -m experiments.fit --input=a\n```\n"
    )
    assert list(itertools.islice(lines_of_shell(text), 2)) == ["x --a=1 --b=2", "python -m experiments.fit --input=a"]
    assert list(blocks(text, "python")) == [("run", "y\n")]
