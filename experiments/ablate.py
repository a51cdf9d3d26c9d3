"""Which cue gives what: Anny-Fit's ablation on scenes with exact truth, with confidence intervals.

    annyfit ablate --output=out/ablation
    annyfit ablate --output=out/plus --config=annyfit_plus \\
        --row='no metric depth: map.metric_depth=false' --row='no limits: map.joint_limits=false'
    annyfit ablate --output=out/quick --seeds=1 --scenes=6 --worlds=plain --public=

Rows are Anny-Fit's, whatever the config: Init (the start as it comes), +O (optimised on 2D points alone), +O+S (and the words
of a vision-language model), +O+D (and depth), +O+S+D (everything). A row without S or D is fitted to scenes from which that cue
has been taken. `--row=NAME: PATH=VALUE ...` adds a row with all cues and changes of the config.

Every world (`plain`, `easy`, `standard`, `hard`) comes with both kinds of start: adult-biased (as Multi-HMR gives) and mild (as
CameraHMR gives); the public sets beside the repository are added where they are there. Intervals are 95 %, from drawing scenes
again over all seeds; differences are paired, over the people whom every row fitted.

Writes OUTPUT.md and OUTPUT.json. What stands in OUTPUT.md from the heading `## Reading` on is kept when it is written again.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from absl import flags

from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Result": (
                flags.DEFINE_string("output", "experiments/results/ablation", "Where to write, without .md and .json."),
                flags.DEFINE_integer("bootstrap", 500, "Rounds of the confidence intervals.", lower_bound=2),
            ),
            "Fits": (
                program.config_flag("Python file with get_config(), or the name of a shipped config.", "annyfit"),
                program.set_flag("path=value changes of the config, for all rows."),
                flags.DEFINE_multi_string("row", [], "A further row: 'NAME: path=value path=value'."),
            ),
            "Scenes": (
                flags.DEFINE_list(
                    "worlds",
                    ["plain", "standard"],
                    "Synthetic scenes: some of plain, easy, standard, hard; empty = none.",
                ),
                flags.DEFINE_list("seeds", ["101", "102", "103"], "Seeds of the synthetic scenes."),
                flags.DEFINE_integer("scenes", 24, "Scenes per seed.", lower_bound=1),
                flags.DEFINE_list(
                    "people", ["1", "2", "3", "4", "5", "6"], "World `plain`: people per scene, equal shares."
                ),
                flags.DEFINE_string(
                    "public", "../shared/data/annyfit_scenes", "Folder with adult_bias and mild_bias; empty = none."
                ),
            ),
            "Machine": (program.compile_cache_flag(),),
        }
    )


def main() -> None:
    from annyfit_jax.fit.config import load_config
    from annyfit_jax.records.files import write_json, write_text
    from annyfit_jax.records.settings import apply_overrides
    from annyfit_jax.store.locations import place
    from annyfit_jax.truth.ablation import ROWS, ablate, parse_row, scene_sets
    from annyfit_jax.truth.ablation_report import kept_reading, markdown

    base = place(FLAGS.output).path
    config_file = program.find_config(FLAGS.config)
    config = apply_overrides(load_config(config_file), FLAGS.set)
    rows = (*ROWS, *map(parse_row, FLAGS.row))
    for row in rows:  # a wrong setting stops the program before the first fit
        apply_overrides(config, row.overrides)
    seeds, people = [int(seed) for seed in FLAGS.seeds], tuple(map(int, FLAGS.people))
    sets = scene_sets(FLAGS.worlds, seeds, FLAGS.scenes, people, FLAGS.public)
    if not sets:
        raise ValueError("--worlds and --public are both empty: there is nothing to fit")
    report = ablate(sets, config, rows, rounds=FLAGS.bootstrap)
    report["config"], report["command"] = relative(config_file), command()
    target = base.with_name(base.name + ".md")
    write_text(target, markdown(report) + kept_reading(target))
    write_json(base.with_name(base.name + ".json"), report)
    print(markdown(report))
    print(f"written: {target}")


def relative(path: str) -> str:
    """A path inside the repository seen from its root, any other as it is."""
    root = program.FOLDER.parent
    return str(Path(path).resolve().relative_to(root)) if Path(path).resolve().is_relative_to(root) else path


def command() -> str:
    """The command line without what has its default value."""
    names = ("config", "set", "row", "worlds", "seeds", "scenes", "people", "public", "bootstrap")
    given = [FLAGS[name] for name in names if FLAGS[name].value != FLAGS[name].default]
    return shlex.join(["annyfit", "ablate", *(part for f in given for part in f.serialize().split("\n"))])


if __name__ == "__main__":
    program.run("ablate")
