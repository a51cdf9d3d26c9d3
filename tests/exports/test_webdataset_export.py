"""WebDataset shards: every fitted scene once, with what the fits hold; and the card beside an export."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from export_cases import FITTED, make_job

from annyfit_jax.exports.data_card import Counts, data_card
from annyfit_jax.exports.export_fits import export_fits
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
    written, _ = export_fits(str(job), str(tmp_path), "webdataset", scenes_per_shard=2)
    fits = {fit.name: fit for fit in open_fits(job, details=False) if fit.ok.any()}
    found = samples(tmp_path)
    assert set(found) == set(fits) == set(FITTED)
    assert written == sorted(tmp_path.glob("*.tar")) and len(written) == 3
    for name, files in found.items():
        assert set(files) == {"npz", "json"}
        with np.load(io.BytesIO(files["npz"])) as arrays:
            np.testing.assert_array_equal(arrays["pose"], fits[name].pose)
        assert json.loads(files["json"])["status"] == fits[name].status.tolist()


def test_only_missing_shards_are_written(job, tmp_path):
    written, _ = export_fits(str(job), str(tmp_path), "webdataset", scenes_per_shard=2)
    whole = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in written}
    written[0].unlink()
    assert export_fits(str(job), str(tmp_path), "webdataset", scenes_per_shard=2)[0] == written
    again = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in written}
    assert again.pop(written[0])[0] == whole.pop(written[0])[0] and again == whole


def test_other_fits_are_written_anew(job, tmp_path):
    """Shards of the fits before are not taken for those of today, and none of them is left."""
    export_fits(str(job), str(tmp_path / "out"), "webdataset", scenes_per_shard=1)
    other = make_job(tmp_path / "other", names=("trio", "pair"))
    written, _ = export_fits(str(other), str(tmp_path / "out"), "webdataset", scenes_per_shard=1)
    assert written == sorted((tmp_path / "out").glob("*.tar")) and set(samples(tmp_path / "out")) == {"trio", "pair"}


def test_chosen_scenes(job, tmp_path):
    export_fits(str(job), str(tmp_path), "webdataset", ["trio", "pair"])
    assert list(samples(tmp_path)) == ["trio", "pair"]


@pytest.mark.parametrize("scenes_per_shard", [1, 100])
def test_the_card_counts_what_is_there(job, tmp_path, scenes_per_shard):
    source, counts = open_fits(job, details=False), Counts()
    export_fits(str(job), str(tmp_path), "npz", scenes_per_shard=scenes_per_shard)
    card = json.loads((tmp_path / "data_card.json").read_text())
    outcomes = list(counts.passing(source.outcomes()))
    assert card == json.loads(json.dumps(data_card(source, counts, "npz", len(FITTED) + 1)))
    assert sum(card["scenes"].values()) == source.total
    assert card["people"]["ok"] == sum(int(outcome.fit.ok.sum()) for outcome in outcomes)
    assert any(name.startswith(("skipped:", "failed:")) for name in card["people"])
    assert card["digest"] == source.fingerprint and card["version"]
    export_fits(str(job), str(tmp_path / "people.parquet"), "parquet", ["trio"])
    assert json.loads((tmp_path / "people.data_card.json").read_text())["scenes"] == {"ok": 1}
