"""WebDataset shards: every fitted scene once, with what the fits hold; and the card beside an export."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from export_cases import FITTED, make_job

from annyfit_jax.exports.data_card import data_card, write_card
from annyfit_jax.exports.webdataset_export import write_webdataset
from annyfit_jax.jobs.fit_source import open_fits


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("people-*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, _, kind = entry.name.partition(".")
                file = tar.extractfile(entry)
                assert file is not None and kind not in found.setdefault(key, {})
                found[key][kind] = file.read()
    return found


def test_every_fitted_scene_is_there_once_with_its_fit(job, tmp_path):
    names, scenes, people = write_webdataset(str(job), str(tmp_path), scenes_per_shard=2)
    fits = {fit.name: fit for fit in open_fits(job, details=False) if fit.ok.any()}
    found = samples(tmp_path)
    assert set(found) == set(fits) == set(FITTED)
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert (scenes, people) == (len(fits), sum(int(fit.ok.sum()) for fit in fits.values()))
    for name, files in found.items():
        assert set(files) == {"npz", "json"}
        with np.load(io.BytesIO(files["npz"])) as arrays:
            np.testing.assert_array_equal(arrays["pose"], fits[name].pose)
        assert json.loads(files["json"])["status"] == fits[name].status.tolist()


def test_only_missing_shards_are_written(job, tmp_path):
    names, _, _ = write_webdataset(str(job), str(tmp_path), scenes_per_shard=2)
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    (tmp_path / names[0]).unlink()
    _, scenes, _ = write_webdataset(str(job), str(tmp_path), scenes_per_shard=2)
    assert scenes <= 2
    assert {name: (tmp_path / name).read_bytes() for name in names} == whole


def test_chosen_scenes(job, tmp_path):
    write_webdataset(str(job), str(tmp_path), scenes=["trio", "pair"])
    assert list(samples(tmp_path)) == ["trio", "pair"]


def test_the_card_counts_what_is_there(job, tmp_path):
    source = open_fits(job, details=False)
    path = write_card(source, (), tmp_path, "npz")
    card = json.loads(path.read_text())
    outcomes = list(source.outcomes())
    assert path == tmp_path / "data_card.json" and card == json.loads(json.dumps(data_card(source, outcomes, "npz")))
    assert sum(card["scenes"].values()) == source.total
    assert card["people"]["ok"] == sum(int(outcome.fit.ok.sum()) for outcome in outcomes)
    assert any(name.startswith(("skipped:", "failed:")) for name in card["people"])
    assert card["digest"] == source.fingerprint and card["version"]
    assert write_card(source, ["trio"], tmp_path / "people.parquet", "parquet").name == "people.data_card.json"
    assert json.loads((tmp_path / "people.data_card.json").read_text())["scenes"] == {"ok": 1}
