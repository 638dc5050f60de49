import gzip
import hashlib
import http.server
import io
import json
import multiprocessing
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import datasets
from lib.data.datasets import Dataset
from lib.data.download import progress_on
from lib.errors import DataError, RawFileMissing

SHOP = {
    "name": "shop",
    "time": "when",
    "label": "fraud",
    "amount": "eur",
    "weight": "stands_for",
    "features": ["eur", "age", "night"],
    "ids": ["card"],
}


def shop(**changes) -> Dataset:
    return Dataset.from_dict(SHOP | changes)


def table(n=6, **changes) -> pd.DataFrame:
    columns = {
        "when": np.arange(n, dtype=float),
        "eur": 10.0 + np.arange(n),
        "age": np.arange(n) / 3,
        "night": np.arange(n) % 2 == 0,
        "card": [f"{i:04d}" for i in range(n)],
        "fraud": (np.arange(n) % 3 == 2).astype(int),
    }
    return pd.DataFrame(columns | changes)


def written(folder, frame, name="t.csv"):
    path = folder / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


def refusal(function, *arguments, **named) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **named)
    return str(caught.value)


# --- the description
# -------------------------------------------------------------------------------------------


def test_the_card_description_has_29_features_in_order():
    card = datasets.load_description("creditcard")
    assert card.features == (*(f"V{i}" for i in range(1, 29)), "Amount")
    assert (card.raw.rows, card.raw.frauds) == (284_807, 492)
    assert card.raw_path == datasets.ROOT / "data" / "raw" / "creditcard.csv"


@pytest.mark.parametrize("name", ["creditcard", "simulated"])
def test_a_description_survives_json(name):
    dataset = datasets.load_description(name)
    assert Dataset.from_dict(json.loads(json.dumps(dataset.to_dict()))) == dataset


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feature": ["a"]}, ["'feature'", "did you mean 'features'"]),
        ({"raw": {"pth": "x"}}, ["'pth'", "did you mean 'path'"]),
        ({"raw": {"rows": "many"}}, ["rows", "'many'"]),
        ({"simulation": {"row": 1}}, ["'row'", "did you mean 'rows'"]),
        ({"missing": "mean"}, ["missing", "'mean'", "'refuse' or 'median'"]),
        ({"negative_amount": "abs"}, ["negative_amount", "'abs'"]),
        ({"features": ["eur", "fraud"]}, ["'fraud'", "label and feature"]),
        ({"features": ["when"]}, ["'when'", "time and feature"]),
        ({"features": ["age", "age"]}, ["'age'", "named 2 times as feature"]),
        ({"weight": "when"}, ["'when'", "time and weight"]),
        ({"features": "age"}, ["features", "'age'", "list"]),
        ({"features": []}, ["features is empty"]),
        ({"alert_budgets": [2]}, ["alert_budgets", "2", "between 0 and 1"]),
        ({"reviews_per_day": 0.5}, ["reviews_per_day", "0.5", "whole number"]),
        ({"reviews_per_day": 0}, ["reviews_per_day", "0", "whole number"]),
        ({"reviews_per_day": 50, "alert_budget": 0.01}, ["0.01", "50", "leave one out"]),
        ({"time": ["a"]}, ["time", "['a']"]),
        ({"name": "../up"}, ["name", "'../up'"]),
    ],
)
def test_a_wrong_description_is_refused_by_key_and_value(changes, words):
    message = refusal(shop, **changes)
    assert [word for word in words if word not in message] == []


def test_amount_may_be_a_feature_and_column_order_is_the_description_s():
    assert shop().columns == ("when", "eur", "age", "night", "stands_for", "card", "fraud")


def test_an_own_yaml_finds_its_raw_file_beside_itself(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SHOP | {"raw": {"path": "t.csv"}}))
    raw = written(tmp_path, table())
    assert datasets.find_raw(datasets.load_description(path)) == raw


def test_unknown_names_and_broken_yaml_are_said(tmp_path):
    assert "did you mean 'creditcard'" in refusal(datasets.load_description, "creditcrad")
    assert "there is no description" in refusal(datasets.load_description, "shop.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    assert str(broken) in refusal(datasets.load_description, broken)


# --- reading --------------------------------------------------------------------------------------
# -------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "a file without suffix"])
def test_every_format_reads_the_same(tmp_path, name):
    frame = datasets.read_transactions(shop(), written(tmp_path, table(), name))
    assert list(frame.columns) == list(shop().columns)
    assert frame["card"].tolist() == [f"{i:04d}" for i in range(6)]
    assert frame["night"].tolist() == [1, 0, 1, 0, 1, 0]
    assert frame["stands_for"].tolist() == [1.0] * 6
    assert str(frame["fraud"].dtype) == "int8"


def test_a_folder_is_one_table_in_time_order_and_ties_keep_the_files_order(tmp_path):
    folder = tmp_path / "parts"
    (folder / "day=2").mkdir(parents=True)
    written(folder, table(when=[3.0, 1.0, 1.0, 0.0, 5.0, 4.0]), "a.csv")
    written(folder / "day=2", table(when=[1.0] * 6, card=list("uvwxyz")), "b.parquet")
    written(folder, table(), "_notes.csv")
    (folder / "README.txt").write_text("not data")
    frame = datasets.read_transactions(shop(), folder)
    assert frame["when"].tolist() == [0, *[1] * 8, 3, 4, 5]
    assert frame["card"].tolist() == ["0003", "0001", "0002", *"uvwxyz", "0000", "0005", "0004"]


ZONED = [
    "2024-03-01 00:30:00+01:00",
    "2024-03-01",
    "2024-03-01T02:00:00.5Z",
    "2024-03-02 00:00",
    "2024-03-03 12:00",
]
ZONED_S = [1709249400, 1709251200, 1709258400.5, 1709337600, 1709467200]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("as_dates", [False, True])
def test_dates_become_utc_and_seconds(tmp_path, name, as_dates):
    when = pd.to_datetime(ZONED, format="ISO8601", utc=True) if as_dates else ZONED
    frame = datasets.read_transactions(shop(), written(tmp_path, table(5, when=when), name))
    assert frame["when"].dt.tz is None
    np.testing.assert_array_equal(shop().arrays(frame).time_s, ZONED_S)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-3e38, 3e38), min_size=1, max_size=30))
def test_values_survive_csv_and_parquet_to_the_last_bit(values):
    plain = Dataset("plain", "t", ("x",))
    frame = pd.DataFrame({"t": np.arange(len(values)), "x": values})
    with tempfile.TemporaryDirectory() as folder:
        once = datasets.read_transactions(plain, written(Path(folder), frame))
        twice = datasets.read_transactions(plain, written(Path(folder), once, "t.parquet"))
    assert once["x"].tolist() == values
    assert twice["x"].to_numpy().tobytes() == once["x"].to_numpy().tobytes()


def test_a_stream_gives_what_reading_gives(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    written(folder, table(7), "a.csv")
    written(folder, table(5, when=np.arange(7.0, 12.0)).drop(columns="fraud"), "b.parquet")
    chunks = list(datasets.iter_transactions(shop(), folder, rows_per_chunk=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1, 3, 2]
    whole = datasets.read_transactions(shop(), folder, labelled=False)
    pd.testing.assert_frame_equal(pd.concat(chunks), whole)
    assert set(shop().arrays(whole).y) == {datasets.UNLABELLED}


def test_extra_columns_duplicates_and_missing_cells_are_remarked(tmp_path):
    frame = pd.concat([table(), table().iloc[[2]]])
    frame["merchant"] = "said 'no',\nthen yes"
    frame.loc[frame["when"] == 4, "age"] = np.nan
    read = datasets.read_transactions(shop(missing="median"), written(tmp_path, frame))
    extra, weight, missing, twice = read.attrs["remarks"]
    assert "merchant" in extra
    assert "'stands_for'" in weight
    assert "'age'" in missing
    assert twice.endswith(": 1")
    assert datasets.check(shop(missing="median"), frame, "memory") == read.attrs["remarks"]


def test_arrays_have_the_shapes_and_types_of_the_contract():
    frame = datasets.prepare(
        shop(missing="median"), table(eur=[np.nan, 1, 2, 3, np.inf, 5]), "memory"
    )
    arrays = shop().arrays(frame)
    assert (arrays.X.shape, arrays.X.dtype, arrays.X.flags.c_contiguous) == (
        (6, 3),
        np.float32,
        True,
    )
    assert np.isnan(arrays.X[[0, 4], 0]).all()
    assert arrays.amount.tolist() == [0, 1, 2, 3, 0, 5]
    assert (arrays.y.dtype, arrays.weight.dtype, arrays.time_s.dtype) == (
        np.int8,
        np.float64,
        np.float64,
    )
    assert arrays.training("genuine").time_s.tolist() == [0, 1, 3, 4]
    assert arrays.training("all") is arrays
    assert "'genuine' or 'all'" in refusal(arrays.training, "known")
    assert "needs labels" in refusal(
        arrays._replace(y=np.full(6, datasets.UNLABELLED)).training, "genuine"
    )


# --- refusals
# --------------------------------------------------------------------------------------------------

BAD_CELLS = [
    ("age", "12,5", "'12,5' is not a number"),
    ("age", "", "not a finite number"),
    ("age", "inf", "not a finite number"),
    ("age", "1e39", "not a finite number"),  # float32 ends at 3.4e38
    ("eur", "-3.5", "-3.5 is negative"),
    ("night", "maybe", "'maybe' is not a number"),
    ("fraud", "2", "2 is not a valid label"),
    ("fraud", "perhaps", "'perhaps' is not a valid label"),
    ("stands_for", "-1", "-1 is not a valid weight"),
    ("stands_for", "nan", "not a valid weight"),
    ("when", "", "is not a time"),
    ("when", "01/02/2024", "'01/02/2024' is not a number"),
]


@pytest.mark.parametrize(("column", "cell", "words"), BAD_CELLS)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_a_bad_cell_is_named_by_file_column_row_and_value(tmp_path, column, cell, words, name):
    frame = table(300, stands_for=1.0).astype({column: "str"})
    frame.loc[231, column] = cell
    message = refusal(datasets.read_transactions, shop(), written(tmp_path, frame, name))
    line = "" if name == "t.parquet" else " (line 233)"
    assert message.startswith(f"{tmp_path / name}, row 232{line}, column {column!r}: ")
    assert words in message


@pytest.mark.parametrize(
    "cell", ["01/02/2024", "2024-13-01", "20240101", "2024-01", "yesterday", ""]
)
def test_an_ambiguous_or_impossible_date_is_refused(tmp_path, cell):
    when = [*(f"2024-01-0{i} 10:00" for i in range(1, 6)), cell]
    message = refusal(datasets.read_transactions, shop(), written(tmp_path, table(when=when)))
    assert "row 6 (line 7), column 'when'" in message
    assert "ISO 8601" in message


def test_the_line_is_the_one_an_editor_shows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        'when,eur,age,night,card,fraud,note\n\n0,1,1,0,a,0,"two\nlines"\n\n1,1,x,0,a,0,n\n'
    )
    assert "row 2 (line 6), column 'age': 'x'" in refusal(datasets.read_transactions, shop(), path)


def test_a_stream_names_the_row_of_the_file(tmp_path):
    frame = table(50).astype({"age": "str"})
    frame.loc[41, "age"] = "old"
    for name in ("t.csv", "t.parquet"):
        path = written(tmp_path, frame, name)
        stream = datasets.iter_transactions(shop(), path, rows_per_chunk=10)
        assert f"{path}, row 42" in refusal(list, stream)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "when,eur,Age,night,card,fraud\n0,1,1,0,a,0\n",
            "column 'age' is missing; the nearest is 'Age'",
        ),
        ("when;eur;age\n0;1;1\n", "missing 'night', 'card'"),
        ("when,eur,age,night,card,fraud\n", "there are no rows"),
        ("when,eur,age,age,night,card,fraud\n0,1,1,1,0,a,0\n", "column 'age' is there 2 times"),
        (
            "when,eur,age,night,card,fraud\n0,1,1,0,a,0\n1,1,1,0\n",
            "row 2 (line 3): 4 cells where the header has 6",
        ),
        ("", "the file is empty"),
        ("PK\x03\x04", "zip archive"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    message = refusal(datasets.read_transactions, shop(), path)
    assert str(path) in message
    assert words in message


def test_what_is_damaged_or_mixed_is_refused(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    assert "holds no file" in refusal(datasets.read_transactions, shop(), folder)
    whole = written(folder, table(500), "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(whole[:-9])
    assert "cannot be read" in refusal(datasets.read_transactions, shop(), folder)
    (folder / "a.parquet").write_bytes(whole)
    written(folder, table(when="2024-01-01"), "b.csv")
    assert "is a number in" in refusal(datasets.read_transactions, shop(), folder)
    (folder / "b.csv").write_bytes(gzip.compress(written(tmp_path, table(500)).read_bytes())[:-20])
    assert "b.csv: is a gzip file that cannot be unpacked" in refusal(
        datasets.read_transactions, shop(), folder
    )


def test_the_description_can_allow_missing_and_negative(tmp_path):
    frame = table(eur=[-1.0, 2, 3, 4, 5, 6], age=[np.nan, np.inf, 1, 2, 3, 4])
    read = datasets.read_transactions(
        shop(missing="median", negative_amount="allow"), written(tmp_path, frame, "t.parquet")
    )
    assert read["age"].isna().tolist() == [True, True, False, False, False, False]
    assert read["eur"][0] == -1


# --- the raw file
# ----------------------------------------------------------------------------------------------


def test_the_fingerprint_is_over_values_not_text(tmp_path):
    dataset = shop()
    expected = hashlib.sha256(
        np.arange(6, dtype="<f8").tobytes()
        + np.array([1000, 1100, 1200, 1300, 1400, 1500], "<i8").tobytes()
        + bytes([0, 0, 1, 0, 0, 1])
    ).hexdigest()
    text = written(tmp_path, table(), "a.csv").read_text().replace("10.0,", "1e1,")
    (tmp_path / "b.csv").write_text(text)
    written(tmp_path, table(stands_for=7.0), "c.parquet")
    marked = shop(raw={"fingerprint": expected})
    for name in ("a.csv", "b.csv", "c.parquet"):
        frame = datasets.read_transactions(dataset, tmp_path / name)
        assert datasets.fingerprint(dataset, frame) == expected
        assert datasets.source(marked, frame) == "full"
    other = written(tmp_path, table(when=np.arange(6.0)[::-1]), "d.csv")
    assert datasets.source(marked, datasets.read_transactions(dataset, other)) == "custom"
    assert datasets.source(dataset, frame) == "custom"  # nobody has said which rows to expect


def test_a_file_that_is_not_there_is_said_with_what_to_do(tmp_path):
    assert "nowhere.csv" in refusal(datasets.find_raw, shop(), tmp_path / "nowhere.csv")
    absent = Dataset.from_dict(SHOP | {"raw": {"path": "raw/t.csv"}}, folder=tmp_path)
    for dataset, words in [(shop(), "raw.path"), (absent, "raw/t.csv")]:
        with pytest.raises(RawFileMissing, match=words) as caught:
            datasets.find_raw(dataset)
        assert "--raw FILE" in str(caught.value)


class Shelf(http.server.BaseHTTPRequestHandler):
    """Serves one text with byte ranges; hangs up after `cut` bytes as long as `n_cuts` lasts."""

    content, cut, n_cuts, asked, ranges = b"", 0, 0, [], True

    def do_GET(self):
        shelf = type(self)
        asked = self.headers.get("Range") if shelf.ranges else None
        shelf.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(shelf.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(shelf.content)}")
            self.end_headers()
            return
        rest = shelf.content[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(shelf.content) - 1}/{len(shelf.content)}"
            )
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if shelf.n_cuts:
            shelf.n_cuts -= 1
            rest = rest[: shelf.cut]
        self.wfile.write(rest)

    def log_message(self, *_):
        """Quiet: what was asked is in `asked`."""


@pytest.fixture
def shelf(tmp_path):
    """A server of table(2000) as CSV, and a dataset whose raw file is there -> (handler class,
    dataset).
    """
    frame = table(2_000)
    content = frame.to_csv(index=False).encode()
    handler = type("Handler", (Shelf,), {"content": content, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    raw = {
        "path": "raw/t.csv",
        "url": f"http://127.0.0.1:{server.server_port}/t.csv",
        "rows": 2_000,
        "frauds": int(frame["fraud"].sum()),
        "fingerprint": datasets.fingerprint(shop(), datasets.prepare(shop(), frame, "memory")),
    }
    yield handler, Dataset.from_dict(SHOP | {"raw": raw}, folder=tmp_path)
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_goes_on_where_the_connection_broke(shelf, tmp_path):
    handler, dataset = shelf
    handler.cut, handler.n_cuts = 20_000, 2
    seen = []
    path = datasets.find_raw(dataset, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "raw" / "t.csv"
    assert path.read_bytes() == handler.content
    assert handler.asked == [None, "bytes=20000-", "bytes=40000-"]
    assert seen[-1] == (len(handler.content), len(handler.content))
    datasets.find_raw(dataset)
    assert len(handler.asked) == 3


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("n_there", [100, None])
def test_a_later_call_takes_up_what_an_earlier_one_left(shelf, tmp_path, n_there, ranges):
    handler, dataset = shelf
    handler.ranges = ranges
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "t.csv.part").write_bytes(handler.content[:n_there])
    path = datasets.find_raw(dataset)
    assert path.read_bytes() == handler.content
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "t.csv"]


def test_a_download_with_other_content_is_not_kept(shelf, tmp_path):
    handler, dataset = shelf
    handler.content = handler.content.replace(b"\n7.0,17.0", b"\n7.0,17.5")
    with pytest.raises(RawFileMissing, match="fingerprint should be") as caught:
        datasets.find_raw(dataset)
    assert "--raw FILE" in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == [".lock"]


def test_without_a_connection_the_message_says_what_to_do(shelf):
    handler, dataset = shelf
    handler.cut, handler.n_cuts = 0, 1
    with pytest.raises(RawFileMissing, match="the connection ended after 0 of") as caught:
        datasets.find_raw(dataset)
    assert "put it there, or name it with --raw FILE" in str(caught.value)
    with pytest.raises(RawFileMissing, match="there is no raw file"):
        datasets.find_raw(dataset, download=False)


def test_two_downloads_at_once_fetch_once(shelf, tmp_path):
    handler, dataset = shelf
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=datasets.find_raw, args=(dataset,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(handler.asked) == 1
    assert (tmp_path / "raw" / "t.csv").read_bytes() == handler.content


def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere():
    terminal, pipe = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True
    for stream in (terminal, pipe):
        show = progress_on(stream, "downloading t.csv")
        for done in range(0, 151):
            show(done * 1_000_000, 150_000_000)
    assert terminal.getvalue().count("\n") == 1  # a bar that is rewritten
    assert "downloading t.csv: 100%" in terminal.getvalue()
    lines = pipe.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == "downloading t.csv: 150 of 150 MB"
