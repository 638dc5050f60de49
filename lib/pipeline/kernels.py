"""Start the running interpreter as a notebook's kernel, and end it whatever happens.

Kernels talk over sockets in the file system: over TCP, kernels that start side by side take each
other's ports.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_core.utils import run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from papermill.log import logger

ENGINE = "running-interpreter"
# the longest name among those of jupyter_client: kernel-ipc-1 to kernel-ipc-5
SOCKET = "kernel-ipc-5"
FOLDERS = ("/tmp", "/dev/shm", "/var/tmp")  # besides those that the environment names
# kernels side by side would wait for one file of history
IN_MEMORY = "--HistoryManager.hist_file=:memory:"


class KernelFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """A kernel could not be started; the message says why, to be put after a colon."""


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Yield a folder for a kernel's sockets, with a path short enough for them, and remove it.

    The path of a socket has to fit into about a hundred bytes, so that a long TMPDIR is passed
    over.

    Raises
    ------
    KernelFailed
        Naming every folder that was tried, and why it can't be used.
    """
    named = [os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR")]
    bases = {base for base in (*named, *FOLDERS) if os.path.isabs(base)}
    refused = []
    for base in sorted(bases, key=lambda base: (len(os.fsencode(base)), base)):
        try:
            folder = tempfile.TemporaryDirectory(prefix="k-", dir=base, ignore_cleanup_errors=True)
        except OSError as error:
            refused.append(f"{base} ({error.strerror})")
            continue
        with folder as path:
            reason = _no_socket(Path(path) / SOCKET)
            if not reason:
                yield Path(path)
                return
            refused.append(f"{base} ({reason})")
    raise KernelFailed(
        f"none of these folders can hold its sockets: {', '.join(refused)}; let TMPDIR name a "
        "folder with a short path that can be written to"
    )


def _no_socket(path: Path) -> str:
    """Return why there can't be a socket at this path; empty if there can."""
    with socket.socket(socket.AF_UNIX) as attempt:
        try:
            attempt.bind(str(path))
        except OSError as error:  # too long a path, a full disk, a file system without sockets
            return str(error)
    path.unlink()
    return ""


class RunningInterpreter(KernelSpecManager):
    """The interpreter that runs now, whatever name the kernel has and JUPYTER_PATH finds."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """See KernelSpecManager."""
        return KernelSpec(argv=make_ipkernel_cmd(), display_name=kernel_name, language="python")


class Kernel:
    """One kernel, from its start to its end.

    Parameters
    ----------
    sockets : a folder of its own, see `socket_folder`
    environment : its environment variables
    folder : its working directory
    inherit : file descriptors that stay open as long as it lives
    on_start : function (process id), called as soon as there is a process
    """

    def __init__(
        self,
        sockets: Path,
        environment: dict[str, str],
        folder: Path,
        *,
        inherit: Sequence[int] = (),
        on_start: Callable[[int], None] = lambda pid: None,
    ):
        self.environment = environment
        self.folder = folder
        self.inherit = inherit
        self.on_start = on_start
        self.manager = AsyncKernelManager(
            transport="ipc",
            connection_file=str(sockets / "kernel.json"),
            kernel_spec_manager=RunningInterpreter(),
        )

    @contextmanager
    def started(self, timeout_s: float) -> Iterator[AsyncKernelClient]:
        """Start, connect within `timeout_s` and yield the client; at the block's end it ends.

        Raises KernelFailed; then as at any other end no process is left, and no socket that keeps
        ours from ending.
        """
        client = None
        try:
            client = run_sync(self._connect)(timeout_s)
            yield client
        finally:
            run_sync(self._end)(client)

    async def _connect(self, timeout_s: float) -> AsyncKernelClient:
        client = None
        try:
            await self.manager.start_kernel(
                extra_arguments=[IN_MEMORY],
                env=dict(self.environment),
                cwd=str(self.folder),
                pass_fds=self.inherit,
            )
            pid = self.manager.provisioner.pid  # type: ignore[attr-defined]  # of a local process
            self.on_start(pid)
            client = self.manager.client()
            client.start_channels()
            await client.wait_for_ready(timeout_s)
        except Exception as error:
            if client is not None:
                client.stop_channels()
            raise KernelFailed(str(error)) from error
        client.allow_stdin = False
        return client

    async def _end(self, client: AsyncKernelClient | None) -> None:
        """Ask a connected kernel to end, so that it can tidy up; then end it by force."""
        try:
            if client is not None:
                client.stop_channels()
                if await self.manager.is_alive():
                    await self.manager.request_shutdown()
                    await self.manager.finish_shutdown()
        finally:
            if self.manager.has_kernel:
                # at once: what comes next interrupts it first, and Python answers with a traceback
                await self.manager.signal_kernel(signal.SIGKILL)
            # frees sockets as well: open ones would block our own exit
            await self.manager.shutdown_kernel(now=True)


class KernelEngine(Engine):
    """papermill's way to be given a kernel that is already there."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        kernel: Kernel,
        start_timeout: float,
        hooks: dict[str, Callable[..., None]],
        **_: object,
    ) -> None:
        """Execute the cells in `kernel`; `hooks` are nbclient's `on_…` functions."""
        with kernel.started(start_timeout) as client:
            options = {"km": kernel.manager, "kernel_name": kernel_name, "log": logger}
            notebook = PapermillNotebookClient(nb_man, **options, **hooks)
            notebook.kc = client
            notebook.execute()


papermill_engines.register(ENGINE, KernelEngine)
