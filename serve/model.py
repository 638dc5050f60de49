"""The bundle that answers: loaded at start-up, then replaced while requests go on.

It is kept when its successor is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from lib import bundle
from lib.bundle import Bundle
from lib.bundle.raw import RawTable
from lib.errors import BundleError
from serve import examples, telemetry
from serve.errors import RequestError
from serve.rows import Rows
from serve.settings import Settings
from serve.spare import Spare

log = logging.getLogger("serve.model")
encode = msgspec.json.Encoder().encode

Signature = tuple[int, int, int] | str  # of a manifest: time, size and inode; "absent" without one


class OtherModelError(BundleError):
    """The bundle is whole, but no successor of the one that is being served."""


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle with what a request needs of it; a request keeps the one it began with."""

    bundle: Bundle
    rows: Rows
    version: str
    loaded_at: float
    normal: examples.Example
    anomalous: examples.Example
    raw: RawTable | None = None  # None where the model takes features alone

    @property
    def name(self) -> str:
        """The registered name; of a bundle that was never registered, the kind of its model."""
        manifest = self.bundle.manifest
        return str(manifest.get("name") or manifest.get("model") or "model")

    @property
    def labels(self) -> tuple[str, str, str]:
        """Its labels in the metrics: name, version and a short hash."""
        return self.name, self.version, self.bundle.hash[:16]

    @functools.cached_property
    def header(self) -> tuple[bytes, bytes]:
        """X-Model: <registered name>/<version>, name and version percent-encoded as in a URL.

        A header holds no line breaks and, to be safe, nothing but ASCII; a registered name may be
        any text, and the slash between the two must be the only one.
        """
        parts = (quote(part, safe="", errors="replace") for part in (self.name, self.version))
        return b"x-model", "/".join(parts).encode("ascii")

    def card(self) -> dict[str, Any]:
        """Return what GET /model answers."""
        manifest, provenance = self.bundle.manifest, self.bundle.manifest.get("provenance", {})
        return {
            "name": self.labels[0],
            "version": self.version,
            "model": manifest.get("model"),
            "dataset": manifest.get("dataset", {}),
            "features": list(self.bundle.features),
            "amount": manifest.get("amount"),
            "missing": self.rows.missing,
            "threshold": manifest["threshold"],
            "metrics": manifest.get("metrics", {}),
            "fit": manifest.get("fit", {}),
            "bundle_hash": self.bundle.hash,
            "files": manifest["files"],
            "trained_at": provenance.get("trained_at"),
            "exported_at": provenance.get("exported_at"),
            "provenance": provenance,
            "loaded_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.loaded_at)),
        }


class Model:
    """Holds the served bundle and watches its folder.

    Attributes
    ----------
    served : what answers, replaced in one assignment; None before the first
    reason : why there is none, or why the last one was refused; '' if all is well
    """

    def __init__(self, settings: Settings, spare: Path | None = None) -> None:
        self.settings = settings
        self.spare = Spare(spare)
        self.served: Served | None = None
        self.reason = "The bundle has not been loaded yet."
        self._seen: Signature | None = None
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    def require(self) -> Served:
        """Return the served bundle; RequestError with 503 while there is none."""
        if self.served is None:
            raise self.not_ready()
        return self.served

    def not_ready(self) -> RequestError:
        """Return a 503 with the reason why there is no bundle."""
        return RequestError(503, "not_ready", self.reason, headers=[(b"retry-after", b"1")])

    def wake(self) -> None:
        """Have `watch` look at the folder now; for SIGHUP."""
        self._seen = None
        self._wake.set()

    async def watch(self) -> None:
        """Look at manifest.json every `poll_s` and take up what is new; never returns."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.settings.poll_s)
            self._wake.clear()
            await self.refresh()

    async def recover(self) -> None:
        """Begin with what the other workers serve, so that the folder must hold a successor."""
        folder = self.spare.current
        if folder is None:
            return
        try:
            served = await asyncio.to_thread(self._load, folder)
        # a newer copy may have replaced it: the folder is looked at next
        except Exception as error:
            log.warning("no copy of the bundle", extra={"data": {"reason": str(error)}})
            return
        self._take_up(served)

    async def refresh(self, force: bool = False) -> bool:
        """Load the bundle if its manifest changed, and return whether another one answers now."""
        async with self._lock:
            # before the files are read: a later change is seen by the next look
            signature = self._signature()
            if signature == self._seen and not force:
                return False
            start = time.perf_counter()
            try:
                successor = await asyncio.to_thread(self._load, self.settings.bundle)
                await asyncio.to_thread(
                    self.spare.keep, self.settings.bundle, successor.bundle.manifest
                )
            except Exception as error:  # whatever is wrong with the files, the old bundle goes on
                self._refuse(error)
                if isinstance(error, OtherModelError):
                    self._seen = signature  # waiting does not make it one: no second look
                return False
            self._seen = signature
            before = self._take_up(successor)
            name, version, short = successor.labels
            data: dict[str, str | float] = {"model": name, "version": version, "bundle_hash": short}
            data["milliseconds"] = round((time.perf_counter() - start) * 1e3, 1)
            log.info("bundle loaded", extra={"data": data})
            return (
                before is None
                or before.bundle.hash != successor.bundle.hash
                or before.version != successor.version
            )

    def _signature(self) -> Signature:
        try:
            stat = (self.settings.bundle / "manifest.json").stat()
        except OSError:
            return "absent"
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _take_up(self, successor: Served) -> Served | None:
        """Answer with this bundle from now on, and return the one before."""
        before, self.served, self.reason = self.served, successor, ""
        telemetry.reloads.labels("ok").inc()
        if before is not None:
            telemetry.served.labels(*before.labels).set(0)
        telemetry.served.labels(*successor.labels).set(1)
        return before

    def _load(self, folder: Path) -> Served:
        # clients send rows by position
        expected = self.served.bundle.features if self.served else None
        loaded = bundle.load(folder, threads=self.settings.threads, features=expected)
        if loaded.threshold is None or loaded.calibration is None:
            raise BundleError(
                f"{folder} is a candidate without calibration or threshold; export it first."
            )
        self._check_name(loaded)
        raw = _raw_table(loaded)
        rows = Rows(
            loaded.features,
            loaded.manifest.get("missing", "refuse"),
            self.settings.max_rows,
            or_raw=raw is not None,
        )
        normal, anomalous = examples.find(loaded)
        version = loaded.version or "baked-in"
        served = Served(loaded, rows, version, time.time(), normal, anomalous, raw)
        try:
            encode(served.card())
        except (TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"The manifest in {folder} cannot be shown: {error}.") from error
        return served

    def _check_name(self, loaded: Bundle) -> None:
        """Refuse another registered name: clients would not notice whose scores they get."""
        if self.served is None:
            return
        ours, theirs = (each.manifest.get("name") for each in (self.served.bundle, loaded))
        if ours != theirs:
            raise OtherModelError(
                f"The bundle in {self.settings.bundle} is of the registered name {theirs!r}, and "
                f"this server answers for {ours!r}: restart the server to serve another model."
            )

    def _refuse(self, error: Exception) -> None:
        """Keep the served bundle; tell once."""
        sentence = (
            str(error)
            if isinstance(error, BundleError)
            else f"The bundle cannot be loaded: {error!r}."
        )
        if sentence != self.reason:
            telemetry.reloads.labels("refused").inc()
            goes_on = f"version {self.served.version} goes on" if self.served else "not ready"
            log.error("bundle refused", extra={"data": {"reason": sentence, "result": goes_on}})
        self.reason = sentence


def _raw_table(loaded: Bundle) -> RawTable | None:
    """Return what raw transactions mean to a bundle; None if it was made without a recipe."""
    if not loaded.manifest.get("recipe"):
        return None
    try:
        return RawTable(loaded.manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"The recipe in {loaded.where} cannot be followed: {error!r}.") from error
