"""Tables of fields in documents, printed from the declarations.

A document has a table between two comments. The first names the declaration, and after a colon the fields where not all are
wanted:

    <!-- fields: fit: root_rotvec transl pose -->
    ...
    <!-- end of fields -->

`python -m experiments.builders.build_field_tables` fills them in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from annyfit_jax.exports import tables, training_set
from annyfit_jax.inputs import cue_schema
from annyfit_jax.jobs import job_rows
from annyfit_jax.people import fitted
from annyfit_jax.records import wire
from annyfit_jax.records.wire import Field

_BLOCK = re.compile(r"(<!-- fields: ([\w ]+?)(?:: ([\w ]+?))? -->\n).*?(<!-- end of fields -->)", re.DOTALL)


def declarations() -> Mapping[str, Mapping[str, Field]]:
    """The records that documents describe, by the name that comments use; `fit` is apart."""
    return {
        "job rows": job_rows.FIELDS,
        "parquet": tables.COLUMNS,
        "training set": training_set.fields(),
        "cues": cue_schema.FIELDS,
    }


def filled(document: str) -> str:
    """A document with its tables as they should be. Raises KeyError for a declaration or field that does not exist."""

    def block(match: re.Match[str]) -> str:
        begin, name, chosen, end = match.groups()
        names = chosen.split() if chosen else []
        if name == "fit":
            table = fitted.markdown(names)
        else:
            fields = declarations()[name]
            table = wire.markdown({field: fields[field] for field in names or fields})
        return f"{begin}\n{table}\n{end}"

    return _BLOCK.sub(block, document)
