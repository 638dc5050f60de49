"""Where functions of a part run: this process, processes of this machine, or a Dask cluster.

All are `concurrent.futures` executors. Standard library only, so that a worker with other packages
can still say which they are; Dask is imported where an address asks for it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import io
import itertools
import multiprocessing
import os
import platform
import queue
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lib.errors import DataError

LOCAL = "local:"
TLS = "tls://"
CLUSTER = ("tcp://", TLS)
PACKAGES = ("numpy", "pandas", "pyarrow", "onnxruntime")  # that scores and files depend on
SOURCES = (".py", ".j2", ".js")
AHEAD = 1000  # parts with the engine at a time
RETRIES = 3  # of a part whose files could not be read or written
CONNECT_S = 20
EXPECTED = "expected local:4 for four processes, or a Dask scheduler such as tcp://10.0.0.1:8786"
# glibc's mallopt: parameters and values
TRIM_THRESHOLD, TRIM_BYTES = -1, 1 << 30
MMAP_THRESHOLD, MMAP_BYTES = -3, 32 << 20


class Inline(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        """Return a future that is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def opened(address: str = "") -> Iterator[Executor]:
    """Yield the executor of an address.

    Parameters
    ----------
    address : "" for this process, `local:4` for four processes, `tcp://…` or `tls://…` for a Dask
        scheduler

    Raises
    ------
    DataError
        For another address, a scheduler that does not answer, or workers with other packages.
    """
    if not address:
        yield Inline()
    elif address.startswith(LOCAL):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(_processes(address), mp_context=context) as pool:
            yield pool
    elif address.startswith(CLUSTER):
        with connected(address) as client:
            yield client.get_executor(pure=False, retries=RETRIES)
    else:
        raise DataError(f"--engine is {address!r}; {EXPECTED}")


def _processes(address: str) -> int:
    number = address.removeprefix(LOCAL)
    if not number.isdecimal() or int(number) < 1:
        raise DataError(f"--engine is {address!r}; {EXPECTED}")
    return int(number)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Yield the client of a Dask scheduler whose workers have this `lib` and these packages.

    Raises DataError where no scheduler answers, or a worker has other versions.
    """
    try:
        from distributed import Client
        from distributed.security import Security
    except ImportError as error:
        raise DataError(
            f"--engine {address} needs Dask, which is not installed: pip install '.[cluster]'"
        ) from error
    if address.startswith(TLS) and Security().get_connection_args("client")["ssl_context"] is None:
        raise DataError(
            f"--engine {address} needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "…__TLS__CLIENT__CERT and …__TLS__CLIENT__KEY, see docs/scale.md"
        )
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise DataError(f"no Dask scheduler answers at {address}") from error
    with client:
        _bring_code(client)
        _refuse_other_versions(client)
        yield client


def _bring_code(client: Any) -> None:
    """Give scheduler and workers, later ones too, the `lib` that this process has.

    Modules of another `lib`, of a driver before, are forgotten first. A scheduler within this
    process, as of a `LocalCluster`, keeps what it has. `forget` is a local function because only
    such ones travel as code: others are looked up in the `lib` that is there.
    """
    from distributed.diagnostics.plugin import SchedulerUploadFile, UploadFile

    def forget(name: str, driver: tuple[str, int]) -> bool:
        import os
        import platform
        import sys

        if (platform.node(), os.getpid()) == driver:
            return False
        for path in list(sys.path):
            file = os.path.basename(path)
            if file.startswith("lib-") and file.endswith(".zip"):
                sys.path.remove(path)
        there = sys.modules.get("lib")
        if there is not None and name not in (there.__file__ or ""):
            for module in list(sys.modules):
                if module == "lib" or module.startswith("lib."):
                    del sys.modules[module]
        return True

    content = code()
    name = f"lib-{hashlib.sha256(content).hexdigest()[:16]}.zip"
    driver = (platform.node(), os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        client.run(forget, name, driver)
        client.register_plugin(UploadFile(str(path)))
        if client.run_on_scheduler(forget, name, driver):
            client.register_plugin(SchedulerUploadFile(str(path)))


def code() -> bytes:
    """Return the sources of `lib` as a zip archive, the same bytes for the same files."""
    folder = Path(__file__).resolve().parents[1]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sources(folder):
            name = path.relative_to(folder.parent).as_posix()
            zipped.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def sources(folder: Path) -> list[Path]:
    """Return the Python files of a folder, and the templates that they fill in, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCES)


def versions() -> dict[str, str]:
    """Return {package: its version here}, Python among them."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    return installed(PACKAGES)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return {package: its version, or "missing"}, Python's first two numbers among them."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def _refuse_other_versions(client: Any) -> None:
    """Raise DataError where a worker has other packages: its scores may differ."""
    found = client.run(versions)
    if not found:
        raise DataError(f"the scheduler at {client.scheduler.address} has no workers yet")
    for worker, theirs in sorted(found.items()):
        different = difference(theirs, versions())
        if different:
            raise DataError(f"worker {worker} has {different}")


def difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """Return the end of a sentence on the first package of another version; empty for none."""
    for package, version in ours.items():
        if theirs[package] != version:
            return (
                f"{package} {theirs[package]} where this machine has {version}; install the same "
                "versions everywhere, or use one image"
            )
    return ""


@cache
def _settle() -> None:
    """Let a worker compute with one thread, and keep the memory that it frees for its next part.

    Dask's nanny makes glibc give memory back at once (MALLOC_TRIM_THRESHOLD_), which costs ten
    times as many page faults. Elsewhere than with glibc nothing is set.
    """
    import pyarrow as pa

    pa.set_cpu_count(1)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(TRIM_THRESHOLD, TRIM_BYTES)
    mallopt(MMAP_THRESHOLD, MMAP_BYTES)


def attempt(function: Callable, task: Any, ours: dict[str, str]) -> Any:
    """Run a part's function on a worker; return a DataError, which an engine would try again.

    Parameters
    ----------
    ours : versions of the driver; a worker may have joined after they were compared
    """
    different = difference(_versions(), ours)
    if different:
        return DataError(f"worker {platform.node()} has {different}")
    _settle()
    try:
        return function(task)
    except DataError as error:
        return error


def completed(
    pool: Executor, function: Callable, tasks: Iterable[Any], ahead: int = AHEAD
) -> Iterator[Any]:
    """Yield the results of a function of each task, as they come.

    Each is fetched at once and forgotten by the engine: with a worker only what it was doing is
    lost. Raises DataError, the first that a task raises, and where workers or files fail for good.
    """
    waiting: dict[Future, Any] = {}
    ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
    left = iter(tasks)

    def submit(n: int) -> None:
        for task in itertools.islice(left, n):
            if isinstance(pool, Inline):
                future = pool.submit(function, task)
            else:
                future = pool.submit(attempt, function, task, versions())
            waiting[future] = task
            future.add_done_callback(ended.put)

    try:
        submit(1 if isinstance(pool, Inline) else ahead)
        while waiting:
            future = ended.get()
            task = waiting.pop(future)
            result = _result(future, task)
            del future
            yield result
            submit(1)
    finally:
        for future in waiting:
            future.cancel()


def _result(future: Future, task: Any) -> Any:
    """Return what a task returned; DataError for what it raised, by whatever an engine says."""
    try:
        result = future.result()
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{task}: {error}") from error
    except BrokenProcessPool as error:
        raise DataError(f"{task}: its process died, perhaps for want of memory") from error
    except CancelledError as error:
        raise DataError(f"{task}: the scheduler is gone; the same command goes on") from error
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        raise DataError(
            f"{task}: every worker that took it died, perhaps for want of memory; give workers "
            "more and run the same command, which goes on where this one stopped"
        ) from error
    if isinstance(result, DataError):
        raise result
    return result
