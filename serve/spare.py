"""A copy of the bundle that is being served, for workers that are started again.

The folder of the bundle may by then hold one that the running workers have refused: broken, or of
another registered name. A worker that took it up would answer beside them with other scores.
"""

import itertools
import logging
import os
import shutil
from pathlib import Path

from lib import bundle
from lib.bundle.bundle import OWN_FILE
from lib.errors import BundleError

log = logging.getLogger("serve.model")

_count = itertools.count(1)


class Spare:
    """Keeps one copy in a folder that the workers of one server share.

    Parameters
    ----------
    folder : None where there is one worker, which then keeps nothing
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @property
    def current(self) -> Path | None:
        """The folder of the copy; None if there is none."""
        if self.folder is None or not (self.folder / "current" / "manifest.json").exists():
            return None
        return self.folder / "current"

    def keep(self, source: Path, manifest: dict) -> None:
        """Copy the bundle in `source`, if that is still the one with this manifest.

        Without room for a copy the server goes on, and a warning is logged.
        """
        if self.folder is None:
            return
        mine = self.folder / f"{os.getpid()}-{next(_count)}"
        # under another name until it is whole: another worker removes older copies
        making = self.folder / f"making_{mine.name.replace('-', '_')}"
        try:
            if self.current and bundle.verify(self.current) == manifest:
                return  # another worker was faster
            _copy(source, making)
            if bundle.verify(making) == manifest:
                making.rename(mine)
                self._point_to(mine)
            else:  # it was replaced meanwhile: the next look at it brings us here again
                shutil.rmtree(making)
        except (OSError, BundleError) as error:
            shutil.rmtree(making, ignore_errors=True)
            log.warning("no copy of the bundle", extra={"data": {"reason": str(error)}})

    def _point_to(self, mine):
        """Make this copy the current one in one step, and remove the others."""
        link = self.folder / f".{mine.name}"
        link.symlink_to(mine.name)
        link.replace(self.folder / "current")
        for other in self.folder.glob("*-*"):
            if other.name != mine.name:
                shutil.rmtree(other, ignore_errors=True)


def _copy(source, target):
    """Copy a bundle's files, but not their modes: a read-only copy could not be removed again."""
    target.mkdir()
    for path in source.iterdir():
        if path.name == "manifest.json" or OWN_FILE.fullmatch(path.name):
            shutil.copyfile(path, target / path.name)
