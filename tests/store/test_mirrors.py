"""Files of buckets on the local disk: whole, kept while unchanged, and making way."""

import os
import pickle
from pathlib import Path

import pytest

from annyfit_jax.store import locations, mirrors
from annyfit_jax.store.locations import Location
from annyfit_jax.store.mirrors import Mirror, local


@pytest.fixture(autouse=True)
def nothing_held() -> None:
    mirrors._held.cache_clear()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_and_a_file(bucket):
    for name in ("a.json", "sub/b.JSON", "c.jpg"):
        (bucket / "folder" / name).put(name.encode() * 1000)
    mirror = Mirror.of(bucket / "folder", (".json",))
    folder = mirror.fetch()
    assert names(folder) == ["a.json", "sub/b.JSON"] and folder.name == "folder"
    assert (folder / "sub" / "b.JSON").read_bytes() == b"sub/b.JSON" * 1000
    assert mirror.named(f"{folder}/a.json: x") == f"{bucket}/folder/a.json: x"
    one = Mirror.of(bucket / "folder" / "c.jpg")
    assert one.fetch().name == "c.jpg" and one.path.read_bytes() == b"c.jpg" * 1000
    assert one.named(f"{one.path}: x") == f"{bucket}/folder/c.jpg: x"
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(FileNotFoundError):
        Mirror.of(bucket / "nothing")


def test_a_local_path_stays_and_one_of_a_bucket_is_fetched(bucket, tmp_path):
    assert local(str(tmp_path / "x")) == str(tmp_path / "x")
    (bucket / "x").put(b"x")
    assert Path(local(str(bucket / "x"))).read_bytes() == b"x"


def test_what_another_process_did_not_finish_is_fetched(bucket, monkeypatch):
    for k in range(5):
        (bucket / "f" / f"{k}").put(b"%d" % k * 100)
    mirror = Mirror.of(bucket / "f")
    monkeypatch.setattr(mirrors, "_BATCH", 2)
    fetch_to = Location.fetch_to
    fetched: list[str] = []

    def killed(self, target, info):
        if self.name == "4" and not fetched:
            raise KeyboardInterrupt
        return fetch_to(self, target, info)

    monkeypatch.setattr(Location, "fetch_to", killed)
    with pytest.raises(KeyboardInterrupt):
        mirror.fetch()
    monkeypatch.setattr(
        Location, "fetch_to", lambda self, *given: (fetched.append(self.name), fetch_to(self, *given))[1]
    )
    assert names(mirror.fetch()) == list("01234") and fetched == ["4"]


def test_content_that_is_not_what_the_store_states_is_not_taken(bucket, server, monkeypatch):
    if str(bucket).startswith("memory"):
        pytest.skip("states no checksum")
    file = bucket / "file"
    file.put(b"right")
    store, wrong = locations._fs(file), [b"wrong", b"other"]
    right = store.get_file

    def get_file(key, target):
        if wrong:
            Path(target).write_bytes(wrong.pop())
        else:
            right(key, target)

    monkeypatch.setattr(store, "get_file", get_file)
    assert Path(local(str(file))).read_bytes() == b"right" and not wrong
    # Of encrypted objects the store states something else: what arrives twice alike is the content.
    monkeypatch.setattr(locations, "_md5_of", lambda info: "0" * 32)
    file.put(b"again")
    assert Path(local(str(file))).read_bytes() == b"again"


def test_mirrors_make_way_but_not_those_in_use(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(locations, "CACHE_BYTES", 2500)
    for name in "abc":
        (bucket / name / "file").put(name.encode() * 1000)
    folders = [Mirror.of(bucket / name).fetch() for name in "ab"]
    os.close(mirrors._held(Mirror.of(bucket / "a").root))  # as if the process that used it had ended
    mirrors._held.cache_clear()
    held = [mirrors._held(Mirror.of(bucket / "b").root)]
    folders.append(Mirror.of(bucket / "c").fetch())
    assert [folder.is_dir() for folder in folders] == [False, True, True] and held
