"""Documents hold the tables of fields that the declarations print."""

from __future__ import annotations

import pytest
from helpers import REPO

from annyfit_jax.exports.field_tables import declarations, filled

DOCUMENTS = [
    path for path in (REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))) if "<!-- fields:" in path.read_text()
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_documents_are_those_of_the_declarations(path):
    """If this fails: python -m experiments.builders.build_field_tables README.md docs/formats.md"""
    assert path.read_text() == filled(path.read_text())


def test_every_declaration_is_documented_in_full():
    text = (REPO / "docs" / "formats.md").read_text()
    for name, fields in declarations().items():
        assert f"<!-- fields: {name} -->" in text
        assert all(field.meaning for field in fields.values()), name
        assert all(f"| `{field}` |" in text for field in fields)
    assert "<!-- fields: fit -->" in text
    assert "README.md" in {path.name for path in DOCUMENTS}


def test_a_wrong_table_is_put_right():
    document = "a\n<!-- fields: fit: transl -->\nold\n<!-- end of fields -->\nb\n"
    assert "| `transl` | (n, 3) | metres" in filled(document)
    assert "old" not in filled(document)
    assert filled(filled(document)) == filled(document)
    with pytest.raises(KeyError):
        filled("<!-- fields: nothing -->\n<!-- end of fields -->")
