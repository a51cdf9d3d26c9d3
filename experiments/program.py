"""What all programs share: flags in groups, help, wrong usage, exit codes, compiled programs on disk, shipped configs.

A program is a module of this folder that has

    def define_flags() -> Usage: ...    # defines its flags with absl and says how they are shown and which must be given
    def main() -> None: ...             # reads `flags.FLAGS`, makes one call of the library, prints what came of it

and ends with `program.run("name")`. Wrong usage is one line on stderr, with the nearest name where there is one.

| exit code | meaning |
| --- | --- |
| 0 | finished |
| 2 | wrong usage or wrong input: another try cannot help |
| 74 | a file could not be read or written, or a server not be reached (EX_IOERR of sysexits.h): run the same command again |
| 75 | stopped by SIGTERM or SIGINT (EX_TEMPFAIL of sysexits.h): run the same command again to go on |
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import logging as standard_logging
import os
import re
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging

if TYPE_CHECKING:
    from annyfit_jax.engine.stages import Engine

EXIT_USAGE = 2
EXIT_FILES = 74
EXIT_INTERRUPTED = 75

PROGRAMS = {
    "fit": "fit", "status": "status", "report": "report", "view": "view", "export": "export", "convert": "convert",
    "precompute": "precompute", "pack": "pack", "inspect": "inspect_cues",
    "evaluate": "evaluate", "synthesize": "synthesize", "ablate": "ablate",
    "train": "train", "predict": "predict", "distill": "distill",
}  # fmt: skip
"""What is typed after `annyfit` -> module of this folder. `inspect.py` would hide a module of Python's own library."""
FOLDER = Path(__file__).resolve().parent
CONFIGS = FOLDER / "configs"
_WIDTH = 100
_NUMBERS = {r"invalid literal for int.*": "expected a whole number", r"could not convert.*": "expected a number"}
"""How Python and we say that a flag's value is no number."""
_RETIRED = ("process_index", "process_count", "steal", "lease_s")
"""Flags of the time when processes shared a folder by claims."""
_MANY = ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "TPU_WORKER_ID")
"""What launchers tell each of many processes; the first one is 0."""
_HELP = ("-h", "-help", "--help", "-?", "--helpshort")


@dataclass(frozen=True)
class Usage:
    """The flags of a program as `--help` shows them."""

    groups: Mapping[str, Sequence[flags.FlagHolder]]
    """Title -> flags, in the order in which they are shown."""
    required: tuple[str, ...] = ()
    """Names of the flags that must be given and not be empty."""

    @property
    def flags(self) -> dict[str, flags.Flag]:
        """All flags by name."""
        return {holder.name: flags.FLAGS[holder.name] for group in self.groups.values() for holder in group}


# ------------------------------------------------------------------------------------------------ running


def front_door(arguments: Sequence[str]) -> None:
    """`annyfit ARGUMENTS`: lists the programs, or runs one of them."""
    name = arguments[0] if arguments else "help"
    if name in ("help", *_HELP):
        _show(listing())
    elif name == "--version":
        import annyfit_jax

        print(annyfit_jax.__version__)
    elif name in PROGRAMS.values() or name in PROGRAMS:
        run(PROGRAMS.get(name, name), arguments[1:])
    elif name.startswith("-"):
        _refuse("", f"the name of a program comes first, got {name}; `annyfit` alone lists the programs")
    else:
        near = nearest(name, PROGRAMS)
        _refuse("", f"there is no program {name!r}; " + (near or "`annyfit` alone lists the programs"))


def listing() -> str:
    """Every program with a line that says what it does."""
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}}  {summary(module)}" for name, module in PROGRAMS.items()]
    return "\n".join(["usage: annyfit PROGRAM --flag=value ...", "", *lines, "", "annyfit PROGRAM --help: its flags"])


def summary(module: str) -> str:
    """The first line of a program's docstring, read without running the module."""
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def run(module: str, arguments: Sequence[str] | None = None) -> None:
    """Runs a program of this folder with the flags given (default: those of the command line), and exits the process."""
    _quieten_start()
    program: Any = importlib.import_module(f"experiments.{module}")
    name = next(name for name, own in PROGRAMS.items() if own == module)
    usage: Usage = program.define_flags()

    def parse(argv: Sequence[str]) -> Sequence[str]:
        if any(argument in _HELP for argument in argv[1:]):
            _show(help_text(name, program.__doc__, usage))
            raise SystemExit(0)
        complaint = complaint_about(name, usage, argv)
        if complaint:
            _refuse(name, complaint)
        return argv[:1]

    def main(_: Sequence[str]) -> None:
        use_compile_cache()
        try:
            program.main()
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            logging.debug("%s", name, exc_info=True)
            _refuse(name, _said(error), code)

    given = sys.argv[1:] if arguments is None else arguments
    app.run(main, argv=[f"annyfit {name}", *given], flags_parser=parse)


def _quieten_start() -> None:
    """Nothing of searches for devices and credentials and of XLA's alarm about slow machines is said; before JAX is imported.

    Errors of XLA reach the program as exceptions, so that its own log below that level only repeats them. Who wants to see it
    sets TF_CPP_MIN_LOG_LEVEL to 0.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("jax._src.xla_bridge", "botocore", "aiobotocore"):  # the latter tell where credentials were found
        standard_logging.getLogger(name).setLevel(standard_logging.WARNING)


def complaint_about(name: str, usage: Usage, argv: Sequence[str]) -> str:
    """Parses the flags of a command line into `flags.FLAGS`; returns what is wrong with them, empty where nothing is."""
    known = usage.flags
    try:
        left = flags.FLAGS(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        if error.flagname.removeprefix("no") in _RETIRED:
            return (
                f"--{error.flagname} is gone: one command drives all machines, `annyfit {name} ... --engine=ray`, and goes on "
                "where it stopped (docs/fleet.md)"
            )
        near = nearest(error.flagname.removeprefix("no"), known, "--")
        return f"there is no flag --{error.flagname}; " + (near or f"annyfit {name} --help lists the flags")
    except flags.IllegalFlagValueError as error:
        text = str(error).removeprefix("flag ")
        for from_python, said in _NUMBERS.items():
            text = re.sub(from_python, said, text)
        wrong, _, value = text.partition(":")[0].removeprefix("--").partition("=")
        near = nearest(value, choices(known[wrong]) if wrong in known else ())
        return text + (f"; {near}" if near else "")
    except flags.Error as error:
        return str(error)
    if left:
        return f"{left[0]!r} is not understood; flags are given as --name=value"
    missing = [flag for flag in usage.required if not flags.FLAGS[flag].value]
    return (
        f"{' and '.join(f'--{flag}' for flag in missing)} {'are' if missing[1:] else 'is'} missing" if missing else ""
    )


def exit_code(error: Exception) -> int | None:
    """The exit code for an error that the user can do something about; None for one that is a mistake of the program."""
    from annyfit_jax.engine.stopping import Interrupted
    from annyfit_jax.store.locations import JobWriteError

    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED
    # All errors about input in this project are ValueErrors: SceneError, FitFileError, StoreError, ExpertError, ...
    if isinstance(error, app.UsageError | ValueError | FileNotFoundError):
        return EXIT_USAGE
    return EXIT_FILES if isinstance(error, JobWriteError | OSError) else None


def _said(error: Exception) -> str:
    """An error in words; those of the operating system with the file in front."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: cannot be read or written ({error.strerror})"
    return str(error) or "stopped; run the same command again to go on"


def _refuse(name: str, message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Says what is wrong in one line and exits."""
    said = " ".join(message.split())
    print(f"{f'annyfit {name}'.strip()}: {said}", file=sys.stderr)
    raise SystemExit(code)


def _show(text: str) -> None:
    """Prints; whoever reads may stop before the end (`| head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit


def nearest(name: str, known: Mapping[str, Any] | Sequence[str], prefix: str = "") -> str:
    """`did you mean ...?` with the known name that is most like a mistyped one; empty where none is like it."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {prefix}{near[0]}?" if near else ""


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, for programs that stop between two pieces of work."""
    from annyfit_jax.engine.stopping import stop_on_signal

    stop = threading.Event()
    with stop_on_signal(stop):
        yield stop


# ------------------------------------------------------------------------------------------------ help


def help_text(name: str, docstring: str | None, usage: Usage) -> str:
    """What `--help` prints: the program's docstring and all its flags."""
    lines = [f"annyfit {name}: {(docstring or '').strip()}"]
    for title, holders in usage.groups.items():
        lines += ["", f"{title}:"]
        for holder in holders:
            flag = flags.FLAGS[holder.name]
            told = f"{_told(flag)} {_default(flag, holder.name in usage.required)}"
            lines += [f"  {_spelled(flag)}"]
            lines += textwrap.wrap(told, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def choices(flag: flags.Flag) -> tuple[str, ...]:
    """The values that a flag may have, where they are listed."""
    return tuple(flag.parser.enum_values) if isinstance(flag.parser, flags.EnumParser) else ()


def _spelled(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    if choices(flag):
        return f"--{flag.name}={'|'.join(choices(flag))}"
    kind = {"int": "N", "float": "X", "comma separated list of strings": "A,B,..."}.get(flag.flag_type(), "TEXT")
    return f"--{flag.name}={kind}" + (" (may be repeated)" if isinstance(flag, flags.MultiFlag) else "")


def _told(flag: flags.Flag) -> str:
    """The help of a flag as its program wrote it: absl adds the choices in front and how to repeat it behind."""
    text = (flag.help or "").partition(";\n")[0]
    return text.partition(">: ")[2] if choices(flag) else text


def _default(flag: flags.Flag, required: bool) -> str:
    if required:
        return "(required)"
    if flag.default in (None, "") or flag.default == []:
        return "" if "efault" in (flag.help or "") else "(default: none)"
    text = ",".join(map(str, flag.default)) if isinstance(flag.default, list) else str(flag.default)
    return f"(default: {text.lower() if flag.boolean else text})"


# ------------------------------------------------------------------------------------------------ flags of many programs


def compile_cache_flag() -> flags.FlagHolder:
    """`--compile_cache`; `run` does what it says."""
    return flags.DEFINE_string(
        "compile_cache", "~/.cache/annyfit-jax/xla", "Folder of compiled programs, kept between runs; empty = none."
    )


def use_compile_cache() -> None:
    """Compiled programs on disk, where the program has the flag and the user has not told JAX where to keep them."""
    folder = flags.FLAGS["compile_cache"].value if "compile_cache" in flags.FLAGS else ""
    if folder and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        import jax

        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser()))


def engine_flags() -> tuple[flags.FlagHolder, ...]:
    """`--engine` and what belongs to it; read by `engine_from_flags`."""
    return (
        flags.DEFINE_enum("engine", "process", ["process", "ray"], "Who works: this process, or workers of a Ray cluster."),
        flags.DEFINE_string("address", "", "Ray: address of the cluster. Default: RAY_ADDRESS, else one on this machine."),
        flags.DEFINE_integer("workers", 0, "Ray: workers per stage; 0 = what the cluster has room for.", lower_bound=0),
        flags.DEFINE_string(
            "resources", "",
            "Ray: what a worker takes, e.g. CPU=4,GPU=1, or that of a stage, e.g. detector:GPU=0.5,decode:CPU=2. Default: an "
            "accelerator or a core.",
        ),
    )  # fmt: skip


def engine_from_flags() -> Engine:
    """The engine that the flags ask for. Raises ValueError where a launcher started many processes that would do the same."""
    from annyfit_jax.engine.stages import Engine

    resources: dict[str, float] = {}
    of_stage: dict[str, dict[str, float]] = {}
    for part in filter(None, flags.FLAGS.resources.split(",")):
        name, _, amount = part.partition("=")
        stage, _, resource = name.strip().rpartition(":")
        try:
            if not float(amount) > 0:
                raise ValueError
            (of_stage.setdefault(stage, {}) if stage else resources)[resource] = float(amount)
        except ValueError:
            raise ValueError(
                f"--resources: expected amounts above 0, e.g. CPU=4,GPU=1 or detector:GPU=0.5, got {flags.FLAGS.resources!r}"
            ) from None
    index = next((os.environ[name] for name in _MANY if os.environ.get(name, "0") not in ("", "0")), None)
    if index is not None and flags.FLAGS.engine == "process":
        raise ValueError(
            f"this is process {index} of several that a launcher started, but one process drives a job: start it once, with "
            "--engine=ray for all machines (docs/fleet.md)"
        )
    if flags.FLAGS.engine == "process":
        refuse_given(("address", "workers", "resources"), "with --engine=ray")
    return Engine(flags.FLAGS.engine, flags.FLAGS.address, flags.FLAGS.workers, resources, of_stage)


def refuse_given(names: Sequence[str], when: str) -> None:
    """Raises ValueError where flags were given that only have a meaning `when`, e.g. `with --engine=ray`."""
    given = [
        f"--{name}"
        for name in names
        if flags.FLAGS[name].present and flags.FLAGS[name].value not in (None, "", False, [])
    ]
    if given:
        raise ValueError(f"{' and '.join(given)}: only {when}")


def config_flag(help: str, default: str = "") -> flags.FlagHolder:
    """`--config`: a file, or the name of a shipped config (`find_config`)."""
    return flags.DEFINE_string("config", default, help)


def set_flag(help: str) -> flags.FlagHolder:
    """`--set=path=value`, any number of times."""
    return flags.DEFINE_multi_string("set", [], help)


def find_config(text: str) -> str:
    """The path of a config: `annyfit_plus` or `experiments/configs/annyfit_plus.py` is the shipped one, seen from any folder.

    A file that is there comes first. Raises FileNotFoundError that names the nearest shipped config.
    """
    path = Path(text)
    if path.is_file():
        return text
    shipped = sorted(file.stem for file in CONFIGS.glob("*.py"))
    if path.parent.as_posix() in (".", "experiments/configs") and path.name.removesuffix(".py") in shipped:
        return str(CONFIGS / f"{path.name.removesuffix('.py')}.py")
    near = nearest(path.name.removesuffix(".py"), shipped)
    raise FileNotFoundError(
        f"--config={text}: no such file; " + (near or f"the shipped configs are {', '.join(shipped)}")
    )
