"""Files by address: a path of this machine, or s3://, gs://, abfs:// and hdfs:// through pyarrow.

A store of one's own is named by a query: `s3://bucket/key?endpoint_override=host:9000&scheme=http`.
What is written appears whole or not at all.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from lib.errors import DataError

PARTIAL = ".part-"  # how names of files begin that are being written
CREDENTIALS = re.compile(r"//[^/@]*@")


@dataclass(frozen=True)
class File:
    """A file that was found.

    Parameters
    ----------
    address : of the file
    name : within the folder that was looked into
    size : in bytes
    changed_ns : time of its last change, nanoseconds since 1970
    """

    address: str
    name: str
    size: int
    changed_ns: int


def is_remote(address: str) -> bool:
    """Return whether an address is not a path of this machine."""
    return "://" in address


def join(address: str, name: str) -> str:
    """Return the address of what is called `name` in a folder; a query stays behind it."""
    if not is_remote(address):
        return str(Path(address) / name)
    folder, mark, query = address.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def shown(address: str) -> str:
    """Return an address for messages: without its query and its credentials."""
    if not is_remote(address):
        return address
    return CREDENTIALS.sub("//", address.partition("?")[0])


def is_within(address: str, folder: str) -> bool:
    """Return whether an address lies in a folder, or is it."""
    inner, outer = (_plain(place) for place in (address, folder))
    return inner == outer or inner.startswith(f"{outer}/")


def _plain(address: str) -> str:
    if is_remote(address):
        return shown(address).rstrip("/")
    return str(Path(address).resolve())


@lru_cache(maxsize=64)
def _opened(root: str) -> fs.FileSystem:
    """Return the file system of an address; one for each, as connections are made anew."""
    filesystem, _ = fs.FileSystem.from_uri(root)
    return filesystem


def _located(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address and the path in it; DataError if there is none."""
    if not is_remote(address):
        return fs.LocalFileSystem(), str(Path(address).absolute())
    scheme, _, rest = address.partition("://")
    place, mark, query = rest.partition("?")
    bucket, _, key = place.partition("/")
    try:
        filesystem = _opened(f"{scheme}://{bucket}{mark}{query}")
        _, path = fs.FileSystem.from_uri(f"{scheme}://{bucket}/{key}{mark}{query}")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown(address)}: cannot be opened ({_first_line(error)})") from error
    return filesystem, path


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn what goes wrong with files of the driver into a DataError that names the address."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{shown(address)}: cannot be read or written ({_first_line(error)})"
        ) from error


def files(address: str) -> list[File]:
    """Return the file at an address, or all files below it sorted by name; DataError for none."""
    filesystem, path = _located(address)
    with explained(address):
        there = filesystem.get_file_info(path)
        if there.type is fs.FileType.File:
            return [File(address, there.base_name, there.size, there.mtime_ns or 0)]
        if there.type is fs.FileType.NotFound:
            raise DataError(f"{shown(address)}: there is no such file or folder")
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    listed = []
    for info in found:
        if info.type is fs.FileType.File:
            name = info.path.removeprefix(path).lstrip("/")
            listed.append(File(join(address, name), name, info.size, info.mtime_ns or 0))
    return sorted(listed, key=lambda file: file.name)


def exists(address: str) -> bool:
    """Return whether there is a file."""
    filesystem, path = _located(address)
    return filesystem.get_file_info(path).type is fs.FileType.File


def parquet(address: str) -> pq.ParquetFile:
    """Open a Parquet file; the caller closes it."""
    filesystem, path = _located(address)
    return pq.ParquetFile(
        path,
        filesystem=filesystem,
        page_checksum_verification=True,
        pre_buffer=is_remote(address),  # few long requests rather than one a column
    )


def read(address: str) -> bytes:
    """Return the content of a file; OSError if it cannot be read."""
    filesystem, path = _located(address)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write(address: str, content: bytes | pa.Buffer) -> None:
    """Write a file, which appears whole or not at all.

    An object of a store appears when its upload is completed, and pyarrow completes it also where
    its stream is left by an exception (apache/arrow#40502). Nothing can come in between here: the
    content is there before the stream is, and is given to it at once.
    """
    if not is_remote(address):
        _write_here(Path(address), content)
        return
    filesystem, path = _located(address)
    stream = filesystem.open_output_stream(path)
    stream.write(content)
    stream.close()


def _write_here(path: Path, content: bytes | pa.Buffer) -> None:
    """Write a file of this machine, or of a folder that several machines share.

    The temporary name is unique: processes of two containers may have the same number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def delete(address: str) -> None:
    """Delete a file if it is there."""
    filesystem, path = _located(address)
    if filesystem.get_file_info(path).type is fs.FileType.File:
        filesystem.delete_file(path)
