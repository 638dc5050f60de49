"""Tables in the shapes that other programs write: what is read as it is meant, and what is refused
in a sentence.
"""

import datetime
import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import uuid
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.data import checks, datasets, description, splits
from lib.data.datasets import Dataset
from lib.data.description import SCHEMA, LabelWords
from lib.errors import DataError

N = 40
ROWS = [f"{i},{i / 4},{i % 3}.5,id{i},{int(i % 8 == 0)}" for i in range(N)]
TEXT = "ts,a,eur,who,fraud\n" + "\n".join(ROWS) + "\n"


def table(**changes):
    """The description of TEXT."""
    plain = {
        "time": "ts",
        "label": "fraud",
        "amount": "eur",
        "features": ("a", "eur"),
        "ids": ("who",),
    }
    return Dataset("t", **(plain | changes))


def read(tmp_path, content, name="t.csv", **changes):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return datasets.read_transactions(table(**changes), path)


def refused(tmp_path, content, name="t.csv", **changes):
    with pytest.raises(DataError) as error:
        read(tmp_path, content, name, **changes)
    message = str(error.value)
    assert message.isprintable()
    return message


@pytest.fixture
def expected(tmp_path):
    return read(tmp_path, TEXT, "expected.csv")


# --- CSV as other programs write it
# ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (TEXT.replace(",", ";"), "t.csv"),
        (TEXT.replace(",", "\t"), "t.csv"),
        (TEXT.replace(",", "|"), "t.csv"),
        (TEXT.replace(",", ";").replace(".", ","), "t.csv"),
        ("sep=;\n" + TEXT.replace(",", ";"), "t.csv"),
        ("sep=,\n" + TEXT, "t.csv"),
        ("\ufeff" + TEXT, "t.csv"),
        (TEXT.encode("utf-16"), "t.csv"),
        (TEXT.encode("utf-16-le"), "t.csv"),
        (TEXT.replace(",", "\t").encode("utf-16"), "t.csv"),
        (gzip.compress(TEXT.replace(",", ";").encode("utf-16")), "t.csv.gz"),
        (TEXT.replace("ts,a,eur,who,fraud", " ts , a,eur ,\twho, fraud "), "t.csv"),
        (TEXT.replace("\n", "\r\n"), "t.csv"),
        (TEXT, "T.CSV"),
    ],
)
def test_the_same_table_is_read_from_every_way_of_writing_csv(tmp_path, expected, content, name):
    pd.testing.assert_frame_equal(read(tmp_path, content, name), expected)


def test_keys_say_how_a_csv_file_is_written(tmp_path, expected):
    odd = TEXT.replace(",", ":").replace(".", ",").replace("id1:", "ï1:")
    frame = read(tmp_path, odd.encode("latin-1"), separator=":", decimal=",", encoding="latin-1")
    assert frame["who"][1] == "ï1"
    np.testing.assert_array_equal(frame[["a", "eur"]], expected[["a", "eur"]])


def test_a_folder_finds_files_whatever_the_case_of_their_suffix(tmp_path, expected):
    folder = tmp_path / "parts"
    folder.mkdir()
    read(folder, TEXT, "PART.CSV")
    pd.testing.assert_frame_equal(datasets.read_transactions(table(), folder), expected)


@pytest.mark.parametrize("cell", ["None", "<NA>", "na", r"\N", "-", "NULL", "n/a", "  ", "NaN"])
@pytest.mark.parametrize("row", [0, 5])
def test_missing_values_are_missing_however_they_are_written(tmp_path, cell, row):
    lines = TEXT.splitlines()
    cells = lines[row + 1].split(",")
    cells[1] = cell
    lines[row + 1] = ",".join(cells)
    frame = read(tmp_path, "\n".join(lines), missing="median")
    assert np.flatnonzero(frame["a"].isna()).tolist() == [row]
    assert "'a'" in refused(tmp_path, "\n".join(lines))


def test_text_of_another_encoding_is_named_with_its_cell(tmp_path):
    message = refused(tmp_path, TEXT.replace("id7,", "Müller,").encode("latin-1"))
    assert "row 8 (line 9)" in message
    assert "'who'" in message
    assert "`encoding: cp1252`" in message
    assert (
        read(tmp_path, TEXT.replace("id7,", "Müller,").encode("latin-1"), encoding="cp1252")["who"][
            7
        ]
        == "Müller"
    )


def test_all_columns_of_text_are_refused_at_once_with_some_of_their_values(tmp_path):
    words = ["food", "fuel", "rent", "toys"]
    lines = [f"{line},{words[i % 4]},x{i % 2}" for i, line in enumerate(ROWS)]
    content = "ts,a,eur,who,fraud,kind,shop\n" + "\n".join(lines)
    message = refused(tmp_path, content, features=("a", "kind", "shop"), amount=None)
    assert "2 columns" in message
    assert "'kind' ('food', 'fuel', 'rent')" in message
    assert "'shop' ('x0', 'x1')" in message
    one = refused(tmp_path, content, features=("a", "kind"), amount=None)
    assert "row 1 (line 2)" in one


# --- files that are no tables
# --------------------------------------------------------------------------------------


def packed(kind):
    buffer = io.BytesIO()
    if kind == "xlsx":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("[Content_Types].xml", "<Types/>")
            file.writestr("xl/workbook.xml", "<workbook/>")
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("t.csv", TEXT)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as file:
            info = tarfile.TarInfo("t.csv")
            info.size = len(TEXT)
            file.addfile(info, io.BytesIO(TEXT.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed("xlsx"), ["Excel", "save it as CSV"]),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ["Excel", "save it as CSV"]),
        (packed("zip"), ["zip", "unpack"]),
        (packed("tar"), ["tar", "unpack"]),
        (gzip.compress(packed("tar")), ["tar", "unpack"]),
        (b"BZh91AY&SY" + bytes(99), ["bzip2", "unpack"]),
        (b"\xfd7zXZ\x00" + bytes(99), ["xz", "unpack"]),
        (b"\x28\xb5\x2f\xfd" + bytes(99), ["zstd", "unpack"]),
        (b"\x80\x04\x95\x10\x00\x00" + bytes(99), ["pickle", "CSV"]),
        (
            b"<!DOCTYPE html>\n<html><body>Log in</body></html>",
            ["HTML page", "download the file itself"],
        ),
        (b"\n <html lang='en'>", ["HTML page"]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
            ["Git LFS pointer", "git lfs pull"],
        ),
        (b'[{"ts": 1}]', ["JSON", "CSV"]),
        (b"%PDF-1.7\n" + bytes(99), ["PDF"]),
        (b"ARROW1\x00\x00" + bytes(99), ["Arrow", "Parquet"]),
        (b"\x7fELF" + bytes(99), ["binary"]),
        (b"\n\n \n", ["empty"]),
        (b"", ["empty"]),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.xlsx"])
def test_what_is_no_table_is_named_with_what_to_do(tmp_path, content, words, name):
    message = refused(tmp_path, content, name)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("place", [20, 5000])
def test_a_damaged_gzip_file_is_refused(tmp_path, place):
    lines = [f"{i},{i * 7919 % 1000},1,id{i},0" for i in range(20_000)]
    content = bytearray(gzip.compress(("ts,a,eur,who,fraud\n" + "\n".join(lines)).encode()))
    content[place : place + 40] = b"\xff" * 40
    assert refused(tmp_path, bytes(content))


def test_damaged_notes_of_pandas_are_refused(tmp_path):
    plain = pa.Table.from_pandas(pd.read_csv(io.StringIO(TEXT)))
    pq.write_table(plain.replace_schema_metadata({"pandas": "{"}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        datasets.read_transactions(table(), tmp_path / "t.parquet")


def test_a_database_is_no_table(tmp_path):
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(DataError, match="SQLite database"):
        datasets.read_transactions(table(), tmp_path / "t.db")


# --- Parquet --------------------------------------------------------------------------------------
# ------------------


def test_an_index_of_pandas_is_a_column(tmp_path, expected):
    path = tmp_path / "t.parquet"
    frame = pd.read_csv(io.StringIO(TEXT)).set_index("ts")
    frame.to_parquet(path)
    pd.testing.assert_frame_equal(datasets.read_transactions(table(), path), expected)
    dated = frame.set_axis(pd.date_range("2024-01-01", periods=N, freq="h", name="ts"))
    dated.to_parquet(path)
    assert datasets.read_transactions(table(), path)["ts"].iloc[-1] == pd.Timestamp(
        "2024-01-02 15:00"
    )


def parquet(tmp_path, **columns):
    path = tmp_path / "t.parquet"
    plain = pa.Table.from_pandas(pd.read_csv(io.StringIO(TEXT)))
    for name, values in columns.items():
        plain = plain.set_column(plain.schema.get_field_index(name), name, values)
    pq.write_table(plain, path)
    return datasets.read_transactions(table(), path)


def test_ids_are_text_as_people_write_them(tmp_path):
    numbers = [12345678901.0, *range(N - 2), None]
    assert parquet(tmp_path, who=pa.array(numbers, pa.float64()))["who"][:2].tolist() == [
        "12345678901",
        "0",
    ]
    ids = [uuid.UUID(int=i) for i in range(N)]
    raw = pa.array([each.bytes for each in ids], pa.binary(16))
    assert parquet(tmp_path, who=raw)["who"].tolist() == [str(each) for each in ids]
    assert parquet(tmp_path, who=pa.ExtensionArray.from_storage(pa.uuid(), raw))["who"][3] == str(
        ids[3]
    )
    assert (
        parquet(tmp_path, who=pa.array([f"c{i % 3}" for i in range(N)]).dictionary_encode())["who"][
            4
        ]
        == "c1"
    )


@pytest.mark.parametrize("column", ["a", "who"])
@pytest.mark.parametrize(
    "cells",
    [pa.array([[1.0, 2.0]] * N), pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((N, 2)))],
)
def test_lists_are_refused_by_column(tmp_path, column, cells):
    with pytest.raises(DataError, match=f"{column!r} holds lists"):
        parquet(tmp_path, **{column: cells})


# --- labels ---------------------------------------------------------------------------------------
# ------------------


@pytest.mark.parametrize(
    "words", ["0 1", "false true", "f t", "no yes", "n y", "N Y", "FALSE True", "0.0 1.0"]
)
def test_labels_are_read_as_what_they_say(tmp_path, expected, words):
    genuine, fraud = words.split()
    lines = [line[:-1] + (fraud if line[-1] == "1" else genuine) for line in ROWS]
    frame = read(tmp_path, "ts,a,eur,who,fraud\n" + "\n".join(lines))
    assert frame["fraud"].tolist() == expected["fraud"].tolist()


def test_labels_may_be_unknown(tmp_path):
    lines = [line if i < N - 5 else line[:-1] for i, line in enumerate(ROWS)]
    frame = read(tmp_path, "ts,a,eur,who,fraud\n" + "\n".join(lines))
    assert (frame["fraud"] == datasets.UNLABELLED).tolist() == [False] * (N - 5) + [True] * 5
    assert any("unlabelled" in remark for remark in frame.attrs["remarks"])
    arrays = table().arrays(frame)
    assert len(arrays.training("genuine").X) == (frame["fraud"] == 0).sum()
    assert len(arrays.training("all").X) == N


def test_labels_in_words_of_the_table(tmp_path, expected):
    lines = [line[:-1] + ("Chargeback " if line[-1] == "1" else "ok") for line in ROWS]
    lines[1] = lines[1][: -len("ok")] + "pending"
    content = "ts,a,eur,who,fraud\n" + "\n".join(lines)
    words = LabelWords(
        column="fraud", fraud=("fraud", "chargeback"), genuine=("ok",), unknown=("pending",)
    )
    frame = read(tmp_path, content, label_words=words)
    assert frame["fraud"].tolist() == [1, datasets.UNLABELLED, *expected["fraud"][2:]]
    few = words.model_copy(update={"unknown": ()})
    assert "'pending' is in none of the label's lists" in refused(
        tmp_path, content, label_words=few
    )
    assert "label: {column" in refused(tmp_path, content)


def test_a_table_without_any_label_is_split(tmp_path):
    frame = read(tmp_path, TEXT, label=None)
    split = splits.make(
        table(label=None), frame, tmp_path / "split", source="custom", raw_sha256="", n_batches=2
    )
    assert split.manifest["periods"]["validation"]["n_frauds"] is None
    assert "unknown" in str(split)


# --- time -----------------------------------------------------------------------------------------
# ------------------


def times(tmp_path, texts, **changes):
    lines = [
        ",".join([text, *line.split(",")[1:]]) for text, line in zip(texts, ROWS, strict=False)
    ]
    frame = read(tmp_path, "ts,a,eur,who,fraud\n" + "\n".join(lines), **changes)
    return table(**changes).arrays(frame).time_s, frame.attrs["remarks"]


def test_a_table_without_a_time_keeps_the_order_of_its_rows(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.csv").write_text(
            "a,eur,who,fraud\n" + "\n".join(line.partition(",")[2] for line in ROWS)
        )
    frame = datasets.read_transactions(table(time=None), folder)
    assert table(time=None).arrays(frame).time_s.tolist() == list(range(2 * N))
    assert any("order of the rows" in remark for remark in frame.attrs["remarks"])


def test_a_column_called_time_does_not_collide_with_the_order_of_the_rows(tmp_path):
    changes = {"time": None, "features": ("a", "time", "TIME_")}
    frame = read(
        tmp_path,
        TEXT.replace("ts,a,eur,who", "time,a,eur,TIME_").replace("id", ""),
        ids=(),
        **changes,
    )
    assert table(ids=(), **changes).arrays(frame).X[3].tolist() == [0.75, 3.0, 3.0]


def test_date_and_time_in_two_columns(tmp_path):
    lines = [f"2024-01-0{1 + i // 24},{i % 24:02d}:30,{line}" for i, line in enumerate(ROWS)]
    content = "day,clock,n,a,eur,who,fraud\n" + "\n".join(lines)
    changes = {"time": ("day", "clock")}
    frame = read(tmp_path, content, **changes)
    time_s = table(**changes).arrays(frame).time_s
    assert pd.Timestamp(time_s[25], unit="s") == pd.Timestamp("2024-01-02 01:30")
    american = content.replace("2024-01-0", "01/0").replace(",", "/2024,", 1)
    lines = [f"01/0{1 + i // 24}/2024,{i % 24:02d}:30,{line}" for i, line in enumerate(ROWS)]
    american = "day,clock,n,a,eur,who,fraud\n" + "\n".join(lines)
    with_format = changes | {"time_format": "%m/%d/%Y %H:%M"}
    same = table(**with_format).arrays(read(tmp_path, american, **with_format)).time_s
    np.testing.assert_array_equal(same, time_s)
    assert "time_format" in refused(tmp_path, american, **changes)


def test_a_format_of_dates(tmp_path):
    texts = [f"0{1 + i // 24}.02.2024 {i % 24:02d}h" for i in range(N)]
    time_s, _ = times(tmp_path, texts, time_format="%d.%m.%Y %Hh")
    assert pd.Timestamp(time_s[-1], unit="s") == pd.Timestamp("2024-02-02 15:00")
    texts[9] = "2024-02-30"
    with pytest.raises(DataError, match="row 10"):
        times(tmp_path, texts, time_format="%d.%m.%Y %Hh")


def test_whole_numbers_are_dates_where_a_format_says_so(tmp_path):
    time_s, _ = times(tmp_path, [f"202401{i + 1:02d}" for i in range(31)], time_format="%Y%m%d")
    assert pd.Timestamp(time_s[30], unit="s") == pd.Timestamp("2024-01-31")


@pytest.mark.parametrize("zone", [" UTC", "Z", "+00:00", " utc", ""])
def test_a_zone_may_follow(tmp_path, zone):
    time_s, _ = times(tmp_path, [f"2024-01-31 13:{i:02d}:00{zone}" for i in range(N)])
    assert pd.Timestamp(time_s[7], unit="s") == pd.Timestamp("2024-01-31 13:07")


UNITS = {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60, "h": 3600, "d": 86_400}


@pytest.mark.parametrize(("unit", "seconds"), UNITS.items())
def test_a_unit_of_time(tmp_path, unit, seconds):
    time_s, remarks = times(tmp_path, [str(7 * i) for i in range(N)], time_unit=unit)
    np.testing.assert_allclose(time_s, np.arange(N) * 7 * seconds)
    assert not any("time_unit" in remark for remark in remarks)


IMPLAUSIBLE = {
    "milliseconds": [str(1_711_800_000_000 + 137 * i) for i in range(N)],
    "a long span": [str(i * 50_000_000) for i in range(N)],
    "whole thousands": [str(i * 1000) for i in range(N)],
    "few an hour": [str(i * 777) for i in range(N)],
    "many at one": [str(i // 30) for i in range(N)],
    "hours with few rows": [str(i // 4) for i in range(N)],
    "hours with a fraction": [str(i * 0.317) for i in range(N)],
}


@pytest.mark.parametrize("what", IMPLAUSIBLE)
def test_an_implausible_unit_is_remarked(tmp_path, what):
    _, remarks = times(tmp_path, IMPLAUSIBLE[what])
    assert any("time_unit" in remark for remark in remarks)


@pytest.mark.parametrize(
    "time",
    [
        [i * 31 for i in range(N)],
        [1_711_800_000 + i * 31 for i in range(N)],
        [1_711_800_000 + i * 86_400 for i in range(N)],  # few rows, but dates as seconds are
        [200_000 + i * 311 for i in range(N)],  # the third day of a table
        [i // 4 * 60 for i in range(N)],
    ],
)
def test_a_plausible_unit_is_not_remarked(tmp_path, time):
    _, remarks = times(tmp_path, [str(instant) for instant in time])
    assert not any("time_" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("first", "pattern"), [("", "%Y%m%d"), ("1345", "%Y%m%d%H%M"), ("134500", "%Y%m%d%H%M%S")]
)
def test_dates_written_as_numbers_are_remarked(tmp_path, first, pattern):
    _, remarks = times(tmp_path, [f"202401{i % 31 + 1:02d}{first}" for i in range(N)])
    assert any(f"`time_format: '{pattern}'`" in remark for remark in remarks)


# --- the description
# ------------------------------------------------------------------------------------------------

PLAIN = {"name": "t", "time": "ts", "features": ["a"]}


def test_names_that_yaml_reads_as_something_else(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: t\ntime: ts\nlabel: fraud\nfeatures: [on, no, eur]\nraw: {path: t.csv}\n"
    )
    with pytest.raises(DataError, match="put quotes around"):
        datasets.load_description(path)
    path.write_text(
        "name: t\ntime: ts\nlabel: fraud\nfeatures: ['on', 'no', eur]\nraw: {path: ~/t.csv}\n"
    )
    found = datasets.load_description(path)
    assert found.features == ("on", "no", "eur")
    assert "~" not in str(found.raw_path)


def test_names_and_words_of_digits_are_those_of_the_table(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: t\ntime: 12:30\nfeatures: [007, 1_000, 0x1F, 12]\nraw: {rows: 1_000}\n"
        "label: {column: f, fraud: [010], genuine: [8]}\n"
    )
    found = datasets.load_description(path)
    assert (found.time, found.features) == ("12:30", ("007", "1_000", "0x1F", "12"))
    assert found.label_words.meanings == {"010": 1, "8": 0}
    assert found.raw.rows == 1000


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({}, 0.002),
        ({"alert_budgets": [0.005, 0.01, 0.02]}, 0.005),
        ({"alert_budgets": [0.01, 0.002]}, 0.002),
        ({"alert_budgets": [0.005, 0.01], "alert_budget": 0.03}, 0.03),
    ],
)
def test_the_budget_that_decides(given, budget):
    found = Dataset.from_dict(PLAIN | given)
    assert found.alert_budget == budget
    assert Dataset.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"label": {"column": "fraud", "fraud": ["x"]}}, ["genuine", "missing"]),
        (
            {"label": {"column": "fraud", "frauds": ["x"], "genuine": ["y"]}},
            ["'frauds'", "'fraud'"],
        ),
        ({"time": ["a", "b", "c"]}, ["time"]),
        ({"time_unit": "weeks"}, ["time_unit", "'weeks'"]),
        ({"time_format": "yyyy"}, ["time_format", "'yyyy'"]),
        ({"separator": ";;"}, ["separator", "';;'"]),
        ({"decimal": "x"}, ["decimal", "'x'"]),
        ({"encoding": "utf-9"}, ["encoding", "'utf-9'"]),
        ({"alert_budget": 2}, ["alert_budget", "2", "between 0 and 1"]),
        ({True: "x"}, ["quotes"]),
    ],
)
def test_a_wrong_key_is_named_with_its_value(given, words):
    with pytest.raises(DataError) as error:
        Dataset.from_dict(PLAIN | given)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    "given",
    [
        {"label": {"column": "s", "fraud": ["a"], "genuine": ["b"], "unknown": ["c"]}},
        {"time": None},
        {"time": ["a", "b"], "time_format": "%d/%m/%Y %H:%M", "features": ["x"]},
        {"time_unit": "ms", "separator": "tab", "decimal": ",", "encoding": "latin-1"},
    ],
)
def test_a_description_survives_json(given):
    found = Dataset.from_dict(PLAIN | given)
    assert Dataset.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_schema_for_editors_is_that_of_the_code():
    assert SCHEMA.read_text(encoding="utf-8") == description.schema(), (
        "run python -m lib.data.description"
    )


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"fraud": ["a"], "genuine": ["A", "b"]}, ["'a'", "`fraud`", "`genuine`"]),
        ({"fraud": ["a"], "genuine": ["b"], "unknown": [" B "]}, ["'b'", "`unknown`"]),
        ({"fraud": [1], "genuine": ["1.0"]}, ["'1'"]),
        ({"fraud": [True], "genuine": ["YES"]}, ["'yes'"]),
        ({"fraud": ["a"], "genuine": [None]}, ["`genuine`", "empty"]),
        ({"fraud": [], "genuine": ["b"]}, ["label.fraud is empty"]),
    ],
)
def test_a_word_of_a_label_means_one_thing(label, words):
    with pytest.raises(DataError) as error:
        Dataset.from_dict(PLAIN | {"label": {"column": "f"} | label})
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("fraud", "genuine"), [("chargeback", "none"), ("1", "NA"), ("007", "7"), ("01", "00")]
)
def test_words_of_a_label_are_neither_numbers_nor_missing(tmp_path, fraud, genuine):
    is_fraud = [i == 120 for i in range(150)]  # behind the rows that are looked at first
    lines = [f"{i},1,1,x,{fraud if found else genuine}" for i, found in enumerate(is_fraud)]
    words = LabelWords(column="fraud", fraud=[fraud], genuine=[genuine])
    frame = read(tmp_path, "ts,a,eur,who,fraud\n" + "\n".join(lines), label_words=words)
    assert frame["fraud"].tolist() == is_fraud


@pytest.mark.parametrize("word", ["yes", "True", "on"])
def test_what_yaml_reads_as_true_is_also_the_word(tmp_path, expected, word):
    lines = [line[:-1] + (word if line[-1] == "1" else "ok") for line in ROWS]
    words = LabelWords(column="fraud", fraud=[True], genuine=["ok"])
    frame = read(tmp_path, "ts,a,eur,who,fraud\n" + "\n".join(lines), label_words=words)
    assert frame["fraud"].tolist() == expected["fraud"].tolist()


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("time_unit", {"time_unit": "ms", "time": None}),
        ("time_unit", {"time_unit": "ms", "time": ["d", "c"]}),
        ("time_unit", {"time_unit": "ms", "time_format": "%d.%m.%Y"}),
        ("time_format", {"time_format": "%d.%m.%Y", "time": None}),
    ],
)
def test_a_key_of_time_without_effect_is_refused(key, given):
    with pytest.raises(DataError, match=f"`{key}` has no effect"):
        Dataset.from_dict(PLAIN | given)


def test_a_unit_of_dates_is_refused(tmp_path):
    with pytest.raises(DataError, match="`time_unit` has no effect"):
        times(tmp_path, [f"2024-01-31 13:{i:02d}" for i in range(N)], time_unit="ms")


@pytest.mark.parametrize("empty", ["day", "clock"])
def test_half_a_time_is_refused_with_its_cell(tmp_path, empty):
    frame = pd.read_csv(io.StringIO(TEXT)).assign(day="2024-01-31", clock="13:30")
    frame.loc[4, empty] = None
    message = refused(tmp_path, frame.to_csv(index=False), time=("day", "clock"))
    assert f"row 5 (line 6), column {empty!r}" in message


@pytest.mark.parametrize("day", ["2024-01-31 00:00:00+00:00", "2024-01-31T00:00:00.000+0000"])
def test_the_day_of_a_pair_may_carry_a_midnight(tmp_path, day):
    frame = pd.read_csv(io.StringIO(TEXT)).assign(day=day, clock="13:30")
    pair = table(time=("day", "clock"))
    found = read(tmp_path, frame.to_csv(index=False), time=pair.time)
    assert found[pair.time_column][0] == pd.Timestamp("2024-01-31 13:30")


@pytest.mark.parametrize("as_day", [lambda d: d, lambda d: d.date, lambda d: d.tz_localize("UTC")])
def test_the_day_of_a_pair_may_be_a_date_of_parquet(tmp_path, as_day):
    days = as_day(pd.DatetimeIndex(["2024-01-31"] * N))
    frame = pd.read_csv(io.StringIO(TEXT)).assign(day=days, clock="13:30")
    frame.to_parquet(tmp_path / "t.parquet")
    pair = table(time=("day", "clock"))
    frame = datasets.read_transactions(pair, tmp_path / "t.parquet")
    assert frame[pair.time_column][0] == pd.Timestamp("2024-01-31 13:30")


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1.5, pa.float64()), (2.0**53, pa.float64()), (2.0**24, pa.float32()), (np.inf, pa.float64())],
)
def test_ids_that_a_float_cannot_tell_apart_are_refused(tmp_path, value, kind):
    numbers = pa.array([1.0] * (N - 1) + [value], kind)
    with pytest.raises(DataError, match=r"row 40, column 'who'.*text or integers"):
        parquet(tmp_path, who=numbers)


@pytest.mark.parametrize("cell", ["4.1E+15", "1e+18"])
def test_ids_that_a_spreadsheet_has_rounded_are_refused(tmp_path, cell):
    message = refused(tmp_path, TEXT.replace("id7,", f"{cell},"))
    assert f"row 8 (line 9), column 'who': {cell} is not an exact identifier" in message


@pytest.mark.parametrize(
    "values",
    [
        pa.array([bytes([200, i]) for i in range(N)]),
        pa.array([bytes([200, i]) for i in range(N)]).dictionary_encode(),
        pa.array([bytes([200, i]) for i in range(N)], pa.binary_view()),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * N, pa.binary(16))),
    ],
)
def test_a_feature_of_bytes_is_named(tmp_path, values):
    with pytest.raises(DataError, match=r"column 'a'.*not a number"):
        parquet(tmp_path, a=values)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"time_format": "%Q"}, ["time_format", "'%Q'"]),
        ({"time_format": "%s"}, ["time_format", "'%s'"]),
        ({"time_format": "%Y %Y"}, ["time_format", "'%Y %Y'"]),
        ({"time_format": ["%Y"]}, ["time_format", "expected a pattern"]),
        ({"encoding": "rot13"}, ["encoding", "'rot13'"]),
        ({"encoding": "base64"}, ["encoding", "'base64'"]),
        ({"encoding": "idna"}, ["encoding", "'idna'"]),
        ({"encoding": "punycode"}, ["encoding", "'punycode'"]),
        ({"separator": 1}, ["separator", "1"]),
        ({"features": [None, "a"]}, ["features holds null", "quotes"]),
        ({"features": [1.5]}, ["features", "1.5", "quotes"]),
        ({"features": [datetime.date(2024, 1, 31)]}, ["features holds 2024-01-31", "quotes"]),
        ({"name": True}, ["name holds true", "quotes"]),
        ({"features": [{"category": True}]}, ["`category` is True", "quotes"]),
        ({"features": [{"ratio": ["a", 1.5]}]}, ["`ratio` is ['a', 1.5]", "quotes"]),
        ({"features": [{"category": "a", "name": 12}]}, ["name is 12", "quotes"]),
        ({"features": [{"time": ["a"]}]}, ["`time` is ['a']"]),
        ({"features": [{"count": "a", "within": ["1d"]}]}, ["`within` is ['1d']"]),
        ({"name": ["a"]}, ["name is ['a']", "expected"]),
        ({1: "x"}, ["the key '1' is unknown"]),
        ({None: "x"}, ["a key as null", "quotes"]),
        ({"raw": "x.csv"}, ["raw is 'x.csv'", "expected a block of keys: path"]),
        ({"simulation": False}, ["simulation is false", "expected a block of keys: of, rows"]),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_in_a_sentence(given, words):
    with pytest.raises(DataError) as error:
        Dataset.from_dict(PLAIN | given)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_number_may_name_an_encoding(tmp_path):
    assert Dataset.from_dict(PLAIN | {"encoding": 1252}).encoding == "1252"
    content = TEXT.replace("id7,", "Müller,").encode("cp1252")
    assert read(tmp_path, content, encoding="1252")["who"][7] == "Müller"


def test_a_home_that_is_not_there():
    dataset = Dataset.from_dict(PLAIN | {"raw": {"path": "~nobody-here/x.csv"}})
    with pytest.raises(DataError, match="~nobody-here"):
        datasets.find_raw(dataset)


# --- decimals, encodings, names
# ------------------------------------------------------------------------------------------------


def test_a_decimal_comma_is_found_however_late_it_comes(tmp_path):
    lines = [f"{i};{i};{i};1.5;0" for i in range(300)]
    lines.append("300;0,25;1;1.5;0")
    frame = read(tmp_path, "ts;a;eur;who;fraud\n" + "\n".join(lines))
    assert frame["a"].iloc[-1] == 0.25
    assert frame["who"].iloc[0] == "1.5"


@pytest.mark.parametrize(("first", "odd"), [("0,5", "1.500"), ("0.5", "1,500")])
def test_another_decimal_point_is_refused_with_the_key(tmp_path, first, odd):
    lines = [f"{i};{first};1;x;0" for i in range(200)]
    lines[150] = f"150;{odd};1;x;0"
    message = refused(tmp_path, "ts;a;eur;who;fraud\n" + "\n".join(lines))
    assert "row 151 (line 152), column 'a'" in message
    assert "`decimal`" in message


def test_a_cell_of_another_encoding_is_found_behind_broken_lines(tmp_path):
    content = TEXT.replace("id3,", '"id\n\n3",').replace("id7,", "Müller,").encode("latin-1")
    message = refused(tmp_path, content)
    assert "row 8 (line 11), column 'who': 'Müller'" in message


def test_names_in_messages_are_printable(tmp_path):
    content = TEXT.replace("a,eur", "\x07b\x1b[2J,eur", 1)
    assert r"\x07b\x1b[2J" in refused(tmp_path, content)
    frame = read(tmp_path, content, features=("eur",))
    assert any(r"\x07b\x1b[2J" in remark for remark in frame.attrs["remarks"])
    assert all(remark.isprintable() for remark in frame.attrs["remarks"])


def test_all_of_a_message_is_printable(tmp_path):
    assert r"t\x1b[2J.csv" in refused(tmp_path, TEXT.replace(",eur", ","), "t\x1b[2J.csv")
    with pytest.raises(DataError) as error:
        parquet(tmp_path, a=pa.array([{"\x1b[2J": 1}] * N))
    assert r"struct<\x1b[2J: int64>" in str(error.value)


def test_a_header_in_brackets_is_no_json(tmp_path):
    content = TEXT.replace("ts,", "[ts],", 1)
    assert len(read(tmp_path, content, time="[ts]")) == N


@pytest.mark.parametrize("order", ["utf-32-le", "utf-32-be", "utf-16-le", "utf-8"])
@pytest.mark.parametrize("said", [None, "utf-16-le", "utf-32-be", "cp1252"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, expected, order, said):
    frame = read(tmp_path, ("\ufeff" + TEXT).encode(order), encoding=said)
    pd.testing.assert_frame_equal(frame, expected)


def test_blanks_around_names_of_parquet_are_left_out(tmp_path, expected):
    frame = pd.read_csv(io.StringIO(TEXT)).rename(columns={"a": " a", "who": "who\t"})
    frame.to_parquet(tmp_path / "t.parquet")
    found = datasets.read_transactions(table(), tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found, expected)


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "application/vnd.oasis.opendocument.spreadsheet" * 2)
    return buffer.getvalue()


def parquet_bytes():
    buffer = io.BytesIO()
    pd.read_csv(io.StringIO(TEXT)).to_parquet(buffer)
    return buffer.getvalue()


HTML = "<html><head></head></html>"
FRAME = pd.DataFrame({"a": [1]})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(99), "picture"),
        (b"\x7fELF" + bytes(99), "program"),
        (bytes(range(1, 256)), "binary"),
        (HTML.encode("utf-16"), "HTML page"),
        (b"<head><title>Log in</title></head>", "HTML page"),
        (b"<!-- cached -->\n<html>", "HTML page"),
        (b'<?xml version="1.0"?><!DOCTYPE html>', "HTML page"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "error message"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "error message"),
        (b"<script>location = '/login'</script>", "HTML"),
        (b"<div class='page'>\n<p>Log in</p></div>", "HTML"),
        (b"<rows><row ts='1'/></rows>", "XML"),
        (b"outs:\n- md5: ab\n  size: 9\n  path: t.csv\n", "dvc pull"),
        (b"# made by dvc\ndeps:\n- path: a\n  md5: b\nouts:\r\n- md5: ab\n", "dvc pull"),
        (b"md5: ab\nframe: x\nouts:\n  - path: t.csv\n", "dvc pull"),
        (b"/annex/objects/SHA256E-s9--ab.csv\n", "git annex get"),
        (b"../.git/annex/objects/xX/SHA256E-s9--ab.csv", "git annex get"),
        (b"..\\.git\\annex\\objects\\xX\\SHA256E-s9--ab.csv", "git annex get"),
        (pickle.dumps([1, 2], protocol=0), "pickle"),
        (pickle.dumps({"a": 1}, protocol=1), "pickle"),
        (pickle.dumps(FRAME, protocol=0), "pickle"),
        (gzip.compress(parquet_bytes()), "Parquet file in gzip; unpack"),
        (gzip.compress(gzip.compress(TEXT.encode())), "another gzip file in gzip; unpack"),
        (zipped("_rels/.rels", "docProps/app.xml", "xl/workbook.xml"), "Excel"),
        (zipped("mimetype", "content.xml"), "OpenDocument"),
        (b'[\n {"ts": 1}]', "JSON"),
        (b"[1, 2]", "JSON"),
        (b'[null, {"ts": 1}]', "JSON"),
    ],
)
def test_more_of_what_is_no_table_is_named(tmp_path, content, words):
    assert words in refused(tmp_path, content)


@pytest.mark.parametrize(
    "name",
    ["ORC", "PAR", "BZh", "<DATE>", "<b>ts", "outs:", "[null]", "Obj", "%PDF", "count", "MZ"],
)
def test_a_header_that_looks_like_a_signature_is_read(tmp_path, name):
    assert len(read(tmp_path, TEXT.replace("ts,", f"{name},", 1), time=name)) == N


def test_all_unusable_columns_are_refused_at_once(tmp_path):
    frame = pd.read_csv(io.StringIO(TEXT)).drop(columns="eur")
    frame = frame.assign(kind="food", day=pd.Timestamp("2024-01-31"), tags=[[1.0]] * N)
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    dataset = table(features=("a", "kind", "day", "tags", "agee"))
    with pytest.raises(DataError) as error:
        datasets.read_transactions(dataset, path)
    for words in ("5 columns", "missing 'agee'", "'eur'", "text in 'kind' ('food')"):
        assert words in str(error.value)
    assert "dates in 'day'" in str(error.value)
    assert "in 'tags' (list" in str(error.value)
    with pytest.raises(DataError, match=r"missing 'agee', 'eur'.*'tags'"):
        checks.check_header(dataset, path)


@pytest.mark.parametrize("look", [checks.check_header, datasets.read_transactions])
def test_all_files_of_a_folder_are_refused_at_once(tmp_path, look):
    frame = pd.read_csv(io.StringIO(TEXT))
    for i in range(8):
        frame.drop(columns="a" if i > 2 else []).to_csv(tmp_path / f"{i}.csv", index=False)
    (tmp_path / "1.csv").write_bytes(b"\x89PNG")
    with pytest.raises(DataError) as error:
        look(table(), tmp_path)
    for words in (
        "6 of 8 files cannot be used",
        "1.csv: is a picture",
        "3.csv, 4.csv, 5.csv and 2 more: column 'a' is missing",
    ):
        assert words in str(error.value)


def test_missing_columns_and_text_of_csv_are_refused_at_once(tmp_path):
    message = refused(tmp_path, TEXT, features=("who", "age", "b"), ids=())
    for words in ("3 columns", "'age'", "'b'", "'who' ('id0', 'id1', 'id2')"):
        assert words in message


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "s"])
@pytest.mark.parametrize("as_cell", [float, int])
def test_dates_in_another_unit_are_remarked_with_it(tmp_path, unit, as_cell):
    texts = [str(as_cell((1_711_800_000 + 9137.5 * i) / UNITS[unit])) for i in range(N)]
    _, remarks = times(tmp_path, texts)
    assert any(f"`time_unit: {unit}`" in remark for remark in remarks)


@pytest.mark.parametrize("content", [TEXT, " , ,\n1,2,3\n", "sep=;\n", "ts,a\n", "ts;a\n1\n"])
def test_a_table_of_other_columns_names_all_that_are_missing(tmp_path, content):
    changes = {"time": "day", "features": ("x",), "label": None, "amount": None, "ids": ()}
    message = refused(tmp_path, content, **changes)
    assert "2 columns cannot be used; missing 'day'" in message
    assert "'x'" in message
