"""What kind of file it is, told by its first bytes: a table, or something else with a name."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from pathlib import Path

from lib.errors import DataError

HEAD_BYTES = 1 << 16  # of a file that are looked at
AS_CSV = "save it as CSV (UTF-8) or Parquet"
UNPACK = "unpack it first; CSV, CSV.gz and Parquet can be read"
ANOTHER = "name the file that holds the table"
PICKLE = "a Python pickle, which could run code"
GET_FILE = "download the file itself, not the page that offers it"
BINARY = rb"(?=.*[\x00-\x08])"  # what a table of text does not hold
ENTRY = rb"(?=PK).*?PK\x03\x04.{26}"  # of a zip archive, up to its name
XML = rb"(?:<\?xml.*?\?>\s*)?"

# How the file starts, whatever its case -> what it is, what to do about it
SIGNATURES = (
    (rb"PAR1" + BINARY, "a Parquet file", "unpack it first"),
    (rb"\x1f\x8b", "another gzip file", "unpack it first"),
    (rb"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", AS_CSV),
    (ENTRY + rb"xl/", "an Excel workbook (.xlsx)", AS_CSV),
    (rb"(?=PK).*?application/vnd\.oasis\.opendocument", "an OpenDocument file (.ods)", AS_CSV),
    (
        ENTRY + rb"(\[content_types\]\.xml|_rels/|docprops/)",
        "an Office document, such as an Excel workbook",
        AS_CSV,
    ),
    (rb"PK[\x03\x05]", "a zip archive", UNPACK),
    (rb"BZh\d1AY&SY", "a bzip2 archive", UNPACK),
    (rb"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (rb"\x28\xb5\x2f\xfd", "a zstd archive", UNPACK),
    (rb"\x04\x22\x4d\x18", "an lz4 archive", UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (rb"Rar!\x1a", "a RAR archive", UNPACK),
    (rb".{257}ustar", "a tar archive", UNPACK),
    (rb"ARROW1" + BINARY, "an Arrow or Feather file", AS_CSV),
    (rb"FEA1" + BINARY, "a Feather file", AS_CSV),
    (rb"SQLite format 3\x00", "an SQLite database", AS_CSV),
    (rb"\x89HDF", "an HDF5 file", AS_CSV),
    (rb"Obj\x01", "an Avro file", AS_CSV),
    (rb"ORC" + BINARY, "an ORC file", AS_CSV),
    (rb"\x93NUMPY", "a NumPy array", AS_CSV),
    (rb"\x80[\x02-\x05]", PICKLE, AS_CSV),
    (rb"[\]}\(]q[\x00\x01]|\((lp|dp|t)\d*\r?\n", PICKLE, AS_CSV),
    (rb"c[a-z_][\w.]*\r?\n[a-z_]\w*\r?\n(p\d+\r?\n|q.|\()", PICKLE, AS_CSV),
    (rb"%PDF-", "a PDF document", "export the table as CSV"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a", "a picture", ANOTHER),
    (rb"\x7fELF", "a program (ELF binary)", ANOTHER),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the data",
        "run `git lfs pull` to fetch the data",
    ),
    (
        rb"(?:.*?\n)?outs:[ \t]*\r?\n\s*- \w+:",
        "a DVC pointer, not the data",
        "run `dvc pull` to fetch the data",
    ),
    (
        rb"[\w.\\/-]*[\\/]annex[\\/]objects[\\/]",
        "a git-annex pointer, not the data",
        "run `git annex get` to fetch the data",
    ),
    (XML + rb"<(!doctype html|!--|html|head|body)", "an HTML page", GET_FILE),
    (XML + rb"<error\b", "an error message of a server (XML)", "download the file once more"),
    (rb"<\?xml", "an XML document", AS_CSV),
    (rb"<[a-z][^<>\n]*>.*?</[a-z]", "a document in HTML or XML", GET_FILE),
    (rb"\{\s*[\"}]", "a JSON document", AS_CSV),
    (rb"\[\s*([{\[\"]|(-?\d[\d.e+-]*|null|true|false)\s*,)", "a JSON document", AS_CSV),
)
SIGNS = [
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, advice)
    for pattern, what, advice in SIGNATURES
]
BYTE_ORDER_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
BLANKS = b"\x00 \t\r\n\xef\xbb\xbf\xff\xfe"  # and byte-order marks
CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1b")
FEW_CONTROLS = 3  # different ones that text may hold: old programs separate cells by them


def kind(path: Path) -> str:
    """Return 'csv', 'csv.gz' or 'parquet', told by the first bytes, whatever the file is called.

    Raises DataError for anything else: what it is, and what to do.
    """
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if start.startswith(b"PAR1"):
        return "parquet"
    if not start.startswith(b"\x1f\x8b"):
        _refuse_foreign(path, start)
        return "csv"
    try:
        with gzip.open(path) as file:
            inside = file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        reason = f"is a gzip file that cannot be unpacked ({error})"
        raise DataError(f"{path}: {reason}") from error
    _refuse_foreign(path, inside, " in gzip")
    return "csv.gz"


def marked_encoding(start: bytes) -> str | None:
    """Return the encoding of text that begins with a byte-order mark; None without one."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return encoding
    return None


def wide_encoding(start: bytes) -> str | None:
    """Return the encoding of UTF-16 or UTF-32 text: by its byte-order mark or its zero bytes."""
    marked = marked_encoding(start)
    if marked is not None:
        return marked
    half = max(len(start) // 2, 1)
    even = start[::2].count(0) / half
    odd = start[1::2].count(0) / half
    if odd > 0.8 and even < 0.1:
        return "utf-16-le"
    if even > 0.8 and odd < 0.1:
        return "utf-16-be"
    return None


def _refuse_foreign(path: Path, start: bytes, packed: str = "") -> None:
    """Raise DataError unless the first bytes look like text with cells."""
    if not start.strip(BLANKS):
        raise DataError(f"{path}: the file is empty")
    text = _as_utf8(start)
    for pattern, what, advice in SIGNS:
        if pattern.match(start) or pattern.match(text):
            raise DataError(f"{path}: is {what}{packed}; {advice}")
    n_controls = len(CONTROLS.intersection(text))
    if b"\x00" in text or n_controls > FEW_CONTROLS:
        raise DataError(f"{path}: is a binary file of an unknown kind{packed}; {AS_CSV}")


def _as_utf8(start: bytes) -> bytes:
    """Return text as UTF-8 without what stands before its first word."""
    encoding = wide_encoding(start)
    if encoding is not None:
        start = start.decode(encoding, "replace").encode()
    return start.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
