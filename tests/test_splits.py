import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib import files
from lib.data import cuts, datasets, fingerprints, splits
from lib.data.datasets import UNLABELLED, Dataset
from lib.errors import DataError

SHOP = Dataset(
    "shop", "when", ("eur", "age"), label="fraud", amount="eur", weight="w", ids=("card",)
)
SHARES = {"reference": 0.5, "validation": 0.2, "n_batches": 10}
BATCHES = [f"batch_{k:02d}" for k in range(1, 11)]


def table(n=200, **changes) -> pd.DataFrame:
    """A checked frame: every fifth transaction is a fraud, times are 0, 1, 2, …"""
    columns = {
        "when": np.arange(n, dtype=float),
        "eur": np.arange(n) / 7,
        "age": np.arange(n) / 3,
        "w": 1.0,
        "card": [f"{i:04d}" for i in range(n)],
        "fraud": (np.arange(n) % 5 == 4).astype(int),
    }
    return datasets.prepare(SHOP, pd.DataFrame(columns | changes), "memory")


def made(folder, frame=None, dataset=SHOP, **shares) -> splits.Split:
    frame = table() if frame is None else frame
    return splits.make(
        dataset, frame, folder / "split", source="custom", raw_sha256="abc", **(SHARES | shares)
    )


def test_shares_by_hand(tmp_path):
    split = made(tmp_path)
    sizes = {name: period["n"] for name, period in split.manifest["periods"].items()}
    assert sizes == {"reference": 100, "validation": 40, "untouched": 60} | dict.fromkeys(
        BATCHES, 6
    )
    assert split.manifest["periods"]["validation"] == {
        "n": 40,
        "n_labelled": 40,
        "n_frauds": 8,
        "weight": 40.0,
        "labelled_weight": 40.0,
        "fraud_weight": 8.0,
        "start_s": 100.0,
        "end_s": 139.0,
    }
    assert split.manifest["periods"]["batch_10"]["start_s"] == 194.0


def test_shares_count_weight_not_rows():
    # the first 40 rows weigh 4 each, the other 160 one each: half of 320 is reached after 40 rows
    parts = cuts.cut(SHOP, table(w=np.r_[np.full(40, 4.0), np.ones(160)]), 0.5, 0.25, 2)
    assert parts["reference"] == slice(0, 40)
    assert parts["validation"] == slice(40, 120)
    assert [parts["batch_01"], parts["batch_02"]] == [slice(120, 160), slice(160, 200)]


@settings(max_examples=150, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 2), min_size=30, max_size=120),
    seed=st.integers(0, 1_000),
    reference=st.floats(0.2, 0.6),
    validation=st.floats(0.1, 0.3),
)
def test_no_instant_is_parted_and_no_share_misses_by_more_than_half_an_instant(
    gaps, seed, reference, validation
):
    weight = np.random.default_rng(seed).uniform(0.5, 5, len(gaps))
    frame = table(len(gaps), when=np.cumsum(gaps).astype(float), w=weight)
    try:
        parts = cuts.cut(SHOP, frame, reference, validation, 3)
    except DataError:
        assume(False)  # too few instants for the shares drawn
    edges = [
        parts[name] for name in ("reference", "validation", "batch_01", "batch_02", "batch_03")
    ]
    assert [edge.start for edge in edges] == [0, *(edge.stop for edge in edges[:-1])]
    assert edges[-1].stop == len(frame)
    when = frame["when"].to_numpy()
    assert all(when[edge.stop - 1] < when[edge.stop] for edge in edges[:-1])
    heaviest = frame.groupby("when")["w"].sum().max()
    total = weight.sum()
    for period, share in [("reference", reference), ("validation", reference + validation)]:
        assert (
            abs(frame["w"].to_numpy()[: parts[period].stop].sum() - share * total)
            <= heaviest / 2 + 1e-9
        )


def test_what_is_written_is_what_was_given_in_order(tmp_path):
    frame = table(when=np.arange(200) // 3 * 1.0)
    split = made(tmp_path, frame)
    opened = splits.open_split(split.path)
    assert (opened.dataset, opened.source, opened.fingerprint) == (
        SHOP,
        "custom",
        split.fingerprint,
    )
    parts = [opened.frame(period) for period in ("reference", "validation", "untouched")]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frame)
    batches = [opened.frame(name) for name in opened.batches]
    pd.testing.assert_frame_equal(pd.concat(batches, ignore_index=True), parts[2])
    assert opened.arrays("validation").X.shape == (len(parts[1]), 2)


def test_dates_and_unlabelled_data_split_and_print(tmp_path):
    plain = Dataset("plain", "when", ("age",))
    when = pd.date_range("2024-03-01", periods=200, freq="1s", tz="UTC")
    split = made(
        tmp_path,
        datasets.prepare(plain, table().drop(columns="when").assign(when=when), "memory"),
        plain,
    )
    assert split.manifest["periods"]["reference"]["n_frauds"] is None
    assert split.manifest["periods"]["validation"]["start_s"] == when[100].timestamp()
    assert "2024-03-01 00:01:40" in str(split)
    assert set(split.arrays("batch_01").y) == {UNLABELLED}


def test_it_prints_itself_as_a_table(tmp_path):
    split = made(tmp_path)
    rows = str(split).splitlines()
    assert rows[0] == "shop (custom)"
    assert rows[1].split()[:3] == ["period", "from", "to"]
    assert rows[3].split() == [
        "validation",
        "100",
        "s",
        "139",
        "s",
        "40",
        "8",
        "40",
        "20.0%",
        "20.000%",
    ]
    assert len(rows) == 15
    assert split._repr_html_().count("<tr") == 14


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"reference": 0.0}, "reference=0"),
        ({"reference": 0.8}, "validation=0.2"),
        ({"reference": float("nan")}, "reference=nan"),
        ({"n_batches": 0}, "n_batches is 0"),
        ({"n_batches": 61}, "200 rows at 200 instants are too few: batch_"),
        ({"validation": 0.001}, "validation would be empty"),
    ],
)
def test_impossible_shares_are_refused_with_their_values(tmp_path, shares, words):
    with pytest.raises(DataError, match="(?i)" + words):
        made(tmp_path, **shares)
    assert list(tmp_path.iterdir()) == []


def test_a_validation_without_fraud_is_remarked(tmp_path):
    fraud = np.where((np.arange(200) >= 100) & (np.arange(200) < 140), 0, 1)
    split = made(tmp_path, table(fraud=fraud))
    assert split.manifest["periods"]["validation"]["n_frauds"] == 0
    assert any("nobody will have judged" in remark for remark in split.manifest["remarks"])


def test_a_batch_or_a_reference_without_fraud_is_remarked(tmp_path):
    fraud = np.where(
        ((np.arange(200) >= 100) & (np.arange(200) < 140)) | (np.arange(200) >= 146), 1, 0
    )
    split = made(tmp_path, table(fraud=fraud))
    about = [remark.split()[0] for remark in split.manifest["remarks"]]
    assert about == ["reference", "batch_01"]


def test_what_is_not_whole_is_refused_in_one_sentence(tmp_path):
    split = made(tmp_path)
    last = split.path / "untouched" / "batch_10.parquet"
    content = last.read_bytes()
    for broken in (content[:-5], b"", None):
        last.unlink()
        if broken is not None:
            last.write_bytes(broken)
        with pytest.raises(DataError, match="02_split"):
            splits.open_split(split.path)
    shutil.copy(split.path / "untouched" / "batch_09.parquet", last)
    splits.open_split(split.path)
    shutil.copy(split.path / "reference.parquet", last)
    with pytest.raises(DataError, match="batch_10 does not hold the rows"):
        splits.open_split(split.path)
    (split.path / splits.MANIFEST).write_text("{")
    with pytest.raises(DataError, match="no whole split"):
        splits.open_split(split.path)
    with pytest.raises(DataError, match="'batch_99' is unknown"):
        split.frame("batch_99")


def test_a_changed_byte_is_noticed_when_the_period_is_read(tmp_path):
    split = made(tmp_path)
    file = split.path / "reference.parquet"
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"reference\.parquet: cannot be read"):
        split.frame("reference")


def test_making_again_changes_no_byte_and_other_rows_replace_the_folder(tmp_path):
    first = made(tmp_path)
    inode = (first.path / splits.MANIFEST).stat().st_ino
    assert made(tmp_path).fingerprint == first.fingerprint
    assert (first.path / splits.MANIFEST).stat().st_ino == inode
    (tmp_path / ".making").mkdir()  # left by a process that was killed
    second = made(tmp_path, table(300))
    assert splits.open_split(second.path).manifest["periods"]["reference"]["n"] == 150
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "split"]
    assert sorted(path.name for path in second.path.iterdir()) == [
        "reference.parquet",
        "splits.json",
        "untouched",
        "validation.parquet",
    ]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        made(tmp_path / "file")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project root with the descriptions of the real one."""
    shutil.copytree(
        datasets.ROOT / "data",
        tmp_path / "data",
        ignore=lambda _, names: {*names} - {"simulated.yaml"},
    )
    monkeypatch.setattr(datasets, "ROOT", tmp_path)
    return tmp_path


def test_ensure_simulates_once_and_each_seed_has_its_folder(root):
    first = splits.ensure(rows=8_000, seed=1)
    made_at = (first / splits.MANIFEST).stat().st_mtime_ns
    assert first.parent == root / "data" / "simulated"
    assert splits.ensure("simulated", 8_000, 1) == first
    assert (first / splits.MANIFEST).stat().st_mtime_ns == made_at
    assert splits.ensure(rows=8_000, seed=2) != first
    split = splits.open_split(first)
    assert (split.source, split.manifest["seed"], len(split.manifest["raw_sha256"])) == (
        "simulated",
        1,
        64,
    )
    with pytest.raises(DataError, match="takes no raw file"):
        splits.ensure(raw="t.csv")


def test_ensure_goes_by_content_shares_and_description(root, tmp_path):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("{name: mine, time: when, label: fraud, features: [eur, age]}")
    table().to_csv(tmp_path / "a.csv", index=False)
    shutil.copy(tmp_path / "a.csv", tmp_path / "b.csv")
    folder = splits.ensure(yaml, raw=tmp_path / "a.csv")
    assert splits.ensure(yaml, raw=tmp_path / "b.csv") == folder
    assert splits.ensure(yaml, raw=tmp_path / "b.csv", reference=0.4) != folder
    table(fraud=1).to_csv(tmp_path / "b.csv", index=False)
    assert splits.ensure(yaml, raw=tmp_path / "b.csv") != folder
    yaml.write_text(yaml.read_text().replace("eur, age", "age"))
    assert splits.ensure(yaml, raw=tmp_path / "a.csv") != folder
    assert json.loads((folder / splits.MANIFEST).read_text())["source"] == "custom"


def test_a_raw_file_is_hashed_and_parsed_once(root, tmp_path, monkeypatch):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("{name: mine, time: when, label: fraud, features: [eur, age]}")
    raw = tmp_path / "a.csv"
    table().to_csv(raw, index=False)
    time.sleep(1.5 * fingerprints.SETTLED_NS / 1e9)
    done = []
    whole_sha256, read = files.sha256, splits.read_transactions
    monkeypatch.setattr(files, "sha256", lambda path: done.append("hash") or whole_sha256(path))
    monkeypatch.setattr(splits, "read_transactions", lambda *a: done.append("parse") or read(*a))
    folder = splits.ensure(yaml, raw=raw)
    assert splits.ensure(yaml, raw=raw) == folder
    assert done == ["hash", "parse"]

    times = raw.stat()
    raw.write_text(raw.read_text().replace(",0\n", ",1\n", 1))  # as many bytes as before
    os.utime(raw, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert splits.ensure(yaml, raw=raw) != folder
    assert done == ["hash", "parse"] * 2


def test_a_file_that_is_still_being_written_is_not_remembered(root, tmp_path):
    raw = tmp_path / "a.csv"
    raw.write_text("a")
    fingerprints.of_bytes(raw, tmp_path)
    assert not (tmp_path / fingerprints.MEMORY).exists()


def test_bad_rows_leave_nothing_behind(root, tmp_path):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("{name: mine, time: when, label: fraud, features: [eur, age]}")
    table().assign(fraud=3).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match="is not a valid label"):
        splits.ensure(yaml, raw=tmp_path / "a.csv")
    assert not (root / "data" / "mine").exists()


def ensure_in(folder, queue):
    datasets.ROOT = folder
    queue.put(str(splits.ensure(rows=8_000, seed=3)))


def test_two_processes_at_once_make_one_whole_split(root):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    children = [context.Process(target=ensure_in, args=(root, queue)) for _ in range(3)]
    for child in children:
        child.start()
    folders = {queue.get(timeout=60) for _ in children}
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    (folder,) = folders
    assert splits.open_split(folder).source == "simulated"
    assert sorted(path.name for path in (root / "data" / "simulated").iterdir())[0] == ".lock"


def test_a_split_of_an_older_version_is_made_anew(tmp_path):
    split = made(tmp_path)
    path = split.path / splits.MANIFEST
    manifest = json.loads(path.read_text())
    for period in manifest["periods"].values():
        del period["n_labelled"]
    path.write_text(json.dumps(manifest))
    assert not splits.is_whole(split.path)
    with pytest.raises(DataError, match="does not count the labels"):
        splits.open_split(split.path)
