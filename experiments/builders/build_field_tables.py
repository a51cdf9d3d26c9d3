"""Fills in the tables of fields in the documents, see `annyfit_jax.exports.field_tables`.

python -m experiments.builders.build_field_tables README.md docs/formats.md
"""

from __future__ import annotations

from pathlib import Path

from absl import app

from annyfit_jax.exports.field_tables import filled


def main(argv: list[str]) -> None:
    for name in argv[1:]:
        path = Path(name)
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    app.run(main)
