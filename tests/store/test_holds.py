"""One driver at a time in a bucket, also where the server fails."""

import json
import multiprocessing
import os
import threading
import time

import pytest

from annyfit_jax.records.files import this_process
from annyfit_jax.store import holds
from annyfit_jax.store.holds import Hold, held
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.plan import StoreError


@pytest.fixture
def folder(bucket, monkeypatch) -> Location:
    monkeypatch.setattr(holds, "HEARTBEAT_S", 0.05)
    return bucket


def put(folder: Location, number: int, **changed: object) -> Location:
    """A hold of a process of another machine."""
    owner = this_process()._asdict() | {"machine": "elsewhere", "host": "other", "token": "theirs"}
    at = folder / "held" / f"{number:05d}.json"
    at.put_json({"owner": owner, **changed})
    return at


def test_a_second_driver_is_refused_until_the_first_has_ended(folder):
    with held(folder) as hold:
        with pytest.raises(
            StoreError, match=rf"^{folder}: another process is at work on it \(process {os.getpid()} of"
        ):
            Hold(folder)
        assert hold is not None
        hold.check()
    with held(folder) as hold:
        assert hold is not None
        hold.check()
    numbers = sorted((folder / "held").files())
    assert numbers == ["00000.json", "00001.json"]
    assert all(json.loads((folder / "held" / name).read_bytes())["over"] for name in numbers)


def test_of_several_that_try_one_succeeds(folder):
    at_once, taken, refused = threading.Barrier(5), [], []

    def drive(_: int) -> None:
        at_once.wait()
        try:
            taken.append(Hold(folder))
        except StoreError as error:
            refused.append(error)

    # Owners are told apart by process; here each thread is one.
    owners = iter(range(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holds, "this_process", lambda: this_process()._replace(token=f"{next(owners)}"))
        threads = [threading.Thread(target=drive, args=(k,)) for k in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(taken), len(refused)) == (1, 4)
    taken[0].release()


def _die(folder: str) -> None:
    holds.Hold(place(folder))
    os._exit(0)


def test_the_hold_of_a_process_that_is_gone_passes_at_once(server, tmp_path):
    folder = place(f"s3://{server.bucket}/{tmp_path.name}")
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(str(folder),))
    process.start()
    process.join()
    with held(folder) as hold:
        assert hold is not None
        hold.check()
    assert sorted((folder / "held").files()) == ["00000.json", "00001.json"]


def test_the_hold_of_another_machine_passes_when_it_is_silent(folder, monkeypatch):
    monkeypatch.setattr(holds, "SILENCE_S", 0.3)
    put(folder, 0)
    started = time.monotonic()
    with held(folder) as hold:
        assert time.monotonic() - started >= 0.3
        assert hold is not None
        hold.check()


def test_the_hold_of_another_machine_that_gives_a_sign_does_not(folder, monkeypatch):
    monkeypatch.setattr(holds, "SILENCE_S", 600.0)
    put(folder, 0)
    ended = threading.Event()

    def give_signs() -> None:
        beats = 0
        while not ended.wait(0.1):
            put(folder, 0, beats=(beats := beats + 1))

    signs = threading.Thread(target=give_signs)
    signs.start()
    try:
        with pytest.raises(StoreError, match="of other"):
            Hold(folder)
    finally:
        ended.set()
        signs.join()


def test_who_was_only_slow_commits_nothing_more(folder):
    hold = Hold(folder)
    put(folder, 1)
    hold._thread.join()
    with pytest.raises(StoreError, match="another process has taken over"):
        hold.check()
    hold.release()
    assert "over" not in json.loads((folder / "held" / "00000.json").read_bytes())


def test_a_store_without_conditional_puts_takes_the_later_one(folder, monkeypatch):
    hold = Hold(folder)
    put(folder, 0)
    hold._thread.join()
    with pytest.raises(StoreError, match="another process has taken over"):
        hold.check()
