"""Every cue of a dataset drawn on its photo, in a page that is opened from disk.

    annyfit inspect --cues=dataset --output=out/cues
    annyfit inspect --cues=annotations.json --images=photos --output=out/cues --limit=20

--cues takes whatever `annyfit fit` reads. Per photo: boxes with words, skeletons, whole-body and dense points, initial bodies,
masks, depth as colour, a table of people, who was set aside and why, and where each cue comes from.

This program was once `python -m experiments.inspect`; a module of that name hid the one of Python's own library.
"""

from __future__ import annotations

from absl import flags

from experiments import program

FLAGS = flags.FLAGS


def define_flags() -> program.Usage:
    return program.Usage(
        {
            "Cues": (
                flags.DEFINE_string("cues", None, "Cue dataset, or any other input of `annyfit fit`."),
                flags.DEFINE_string("images", None, "Folder of the photos (COCO input)."),
                flags.DEFINE_integer("limit", 50, "Number of scenes, counted from the first.", lower_bound=1),
            ),
            "Result": (flags.DEFINE_string("output", None, "Folder of the page."),),
        },
        required=("cues", "output"),
    )


def main() -> None:
    from experts.cue_page import write_cue_page

    print(f"open {write_cue_page(FLAGS.cues, FLAGS.output, limit=FLAGS.limit, images=FLAGS.images)}")


if __name__ == "__main__":
    program.run("inspect_cues")
