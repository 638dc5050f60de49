"""The copy of the served bundle that several workers share."""

import json
import shutil

import bundles
import pytest

from lib import bundle
from serve.spare import Spare


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def kept(shared):
    """Names of the copies."""
    return sorted(path.name for path in shared.iterdir() if path.name != "current")


def test_a_copy_is_the_bundle_and_the_next_one_replaces_it(tmp_path, shared):
    spare, folder = Spare(shared), bundles.write(tmp_path / "bundle", hashed_names=True)
    assert spare.current is None
    spare.keep(folder, bundle.verify(folder))
    (first,) = kept(shared)
    assert bundle.verify(spare.current) == bundle.verify(folder)
    bundles.write(folder, seed=1, hashed_names=True, version="4")
    Spare(shared).keep(folder, bundle.verify(folder))
    assert kept(shared) != [first]
    assert len(kept(shared)) == 1
    assert bundle.load(spare.current).version == "4"


def test_the_second_worker_makes_no_second_copy(tmp_path, shared):
    folder = bundles.write(tmp_path / "bundle")
    for _ in range(2):
        Spare(shared).keep(folder, bundle.verify(folder))
    assert kept(shared) == kept(shared)[:1]


def test_a_bundle_that_was_replaced_meanwhile_is_not_kept(tmp_path, shared):
    folder = bundles.write(tmp_path / "bundle")
    manifest = bundle.verify(folder)
    bundles.write(folder, version="4")
    Spare(shared).keep(folder, manifest)
    assert kept(shared) == []


def test_the_copy_of_a_read_only_bundle_can_be_removed(tmp_path, shared):
    folder = bundles.write(tmp_path / "bundle")
    (folder / "parity.npz").write_bytes(b"large")
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    spare = Spare(shared)
    spare.keep(folder, bundle.verify(folder))
    copy = spare.current
    assert all(path.stat().st_mode & 0o200 for path in (copy, *copy.iterdir()))
    assert not (copy / "parity.npz").exists()
    folder.chmod(0o755)


def test_no_room_for_a_copy_is_a_warning(tmp_path, shared, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    folder = bundles.write(tmp_path / "bundle")
    monkeypatch.setattr(shutil, "copyfile", full)
    Spare(shared).keep(folder, bundle.verify(folder))
    assert kept(shared) == []
    (record,) = caplog.records
    assert "No space" in json.dumps(record.data)


def test_one_worker_keeps_no_copy(tmp_path):
    folder = bundles.write(tmp_path / "bundle")
    Spare(None).keep(folder, bundle.verify(folder))
    assert Spare(None).current is None
