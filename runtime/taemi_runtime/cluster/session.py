"""Joining a Ray cluster, or starting one on this machine for as long as the job lasts."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from taemi_runtime.cluster.address import LOCAL, OPTION, check_address
from taemi_runtime.cluster.shares import Node
from taemi_runtime.errors import DeviceError, MissingExtraError, UsageError
from taemi_runtime.host import usable_cores
from taemi_runtime.telemetry import disable_telemetry

# A decoded clip is some 60 MB (400 frames of 3 x 224 x 224 bytes). Ray's store holds those that are read
# ahead: two or three for each processor that decodes, and two batches for each model.
_STORE_BYTES_PER_CPU = 512 * 2**20
_STORE_SHARE = 0.3
_LEAST_STORE_BYTES = 128 * 2**20
# Of control groups, version 2 and 1, as a container sees its own.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_PREFIX = "taemi-ray-"
# Ray's sockets lie some 75 characters below its folder, and no socket's path has more than 107 (unix(7)).
_LONGEST_FOLDER = 30
_CLIENT = "ray://"
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """A cluster that has been joined.

    Args:
        nodes: Its machines.
        here: Ray's identifier of the machine that the driver runs on.
        own: Whether it was started for this job.
    """

    nodes: tuple[Node, ...]
    here: str
    own: bool


@contextlib.contextmanager
def open_cluster(address: str, *, processors: int = 0, debug: bool = False) -> Iterator[Cluster]:
    """Yield a cluster; one that was started is stopped at the end, one that was joined is left.

    Args:
        address: ``local`` starts one on this machine; ``auto`` and ``HOST:PORT`` name a running one.
        processors: How many tasks a started cluster runs at a time; 0 is one for each core, two at least.
        debug: Whether Ray's own log is shown.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: The address is none, or one of a kind that cannot be used.
        DeviceError: There is no cluster, it cannot be joined, or none can be started.
    """
    check_address(address)
    if address.startswith(_CLIENT):
        head = address.removeprefix(_CLIENT).partition(":")[0]
        raise UsageError(
            f"cannot spread work over {address}",
            "Ray's client cannot drive the streams of Ray Data from outside of the cluster",
            f"Run this on a machine of the cluster (ssh {head}, or ray job submit) with {OPTION}=auto",
        )
    with contextlib.ExitStack() as stack:
        disable_telemetry()
        own = address == LOCAL
        if own:
            stack.enter_context(_environment(_own_environment(debug=debug)))
        elif not debug:
            stack.enter_context(_environment({"RAY_BACKEND_LOG_LEVEL": "fatal"}))
        ray = _import_ray()
        folder = stack.enter_context(_ray_folder()) if own else None
        stdout = _Stdout(sys.stdout, sys.stderr if debug else None)
        stack.enter_context(contextlib.redirect_stdout(cast("TextIO", stdout)))
        # Ended by an error or not: processes of ours are stopped, and what others started is only left.
        stack.callback(ray.shutdown)
        # It prints from this thread what Ray's had kept back.
        stack.callback(stdout.silence)
        _join(ray, address, folder, processors, debug=debug)
        stdout.close_list()
        _hush(debug=debug)
        yield Cluster(_nodes(ray), ray.get_runtime_context().get_node_id(), own)


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        missing = (error.name or "ray").partition(".")[0]
        raise MissingExtraError(
            "cannot spread work over a cluster",
            f"{missing} is not installed",
            'pip install "taemi[ray]"',
        ) from error
    return ray


def _join(ray: Any, address: str, folder: str | None, processors: int, *, debug: bool) -> None:
    settings: dict[str, object] = {
        "address": address,
        "log_to_driver": debug,
        "logging_level": logging.INFO if debug else logging.CRITICAL,
    }
    if folder is not None:
        cpus = processors or max(2, usable_cores())
        settings |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": _store_bytes(cpus),
            "_temp_dir": folder,
        }
    if folder is None:
        _knock(address)
    try:
        with contextlib.nullcontext() if debug else _without_stderr():
            ray.init(**settings)
    except Exception as error:  # Ray says it in many ways
        found = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder is not None:
            raise DeviceError(
                "cannot start a Ray cluster on this machine", found, "See Ray's log: --debug"
            ) from error
        raise _no_cluster(address, found) from error


def _knock(address: str) -> None:
    """Refuse an address where nobody listens: Ray would go on trying for many minutes.

    Raises:
        DeviceError: Nothing answers there.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S):
            pass
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, f"nothing answers there ({error})") from error


def _no_cluster(address: str, found: str) -> DeviceError:
    return DeviceError(
        f"cannot join the Ray cluster at {address}",
        found.rstrip("."),
        f"Check it with: ray status, start it with: ray start --head, or give {OPTION} alone",
    )


class _Stdout:
    """Standard output without what Ray's threads print to it: what befalls its processes is no result.

    Args:
        stream: The real one.
        elsewhere: Where those go; nowhere when ``None``.
    """

    def __init__(self, stream: TextIO, elsewhere: TextIO | None) -> None:
        self._stream = stream
        self._elsewhere = elsewhere
        self._before = set(threading.enumerate())
        self._rays: set[threading.Thread] | None = None

    def close_list(self) -> None:
        """Take the threads that were started until now for Ray's, and no later ones."""
        self._rays = set(threading.enumerate()) - self._before

    def silence(self) -> None:
        """Take every thread for Ray's from now on."""
        self._before, self._rays = set(), None

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        thread = threading.current_thread()
        if thread not in self._before if self._rays is None else thread in self._rays:
            return len(text) if self._elsewhere is None else self._elsewhere.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what Ray's compiled part prints while it starts; what goes wrong is raised."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _own_environment(*, debug: bool) -> dict[str, str]:
    """Return the variables that a cluster of ours is started with; who has set one keeps it."""
    wanted = {} if debug else {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    if "RAY_AUTH_MODE" not in os.environ:
        # From 2.60 on Ray guards a local cluster by a token. Without one it writes one into the home folder.
        wanted["RAY_AUTH_TOKEN"] = _token()
    return wanted


@functools.cache
def _token() -> str:
    # One a process: Ray's compiled part keeps the first that it sees.
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    before = set(os.environ)
    try:
        yield
    finally:
        # Ray sets variables of its own, which would bind what is started next.
        for name in [*new, *(name for name in set(os.environ) - before if name.startswith("RAY_"))]:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _ray_folder() -> Iterator[str]:
    """Yield a folder for a cluster's files that is gone afterwards, and remove those of killed jobs."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST_FOLDER:
        base = Path("/tmp")
    _remove_orphans(base)
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            ours = folder.stat().st_uid == os.getuid()
            if ours and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _store_bytes(cpus: int) -> int:
    """Return how much memory decoded clips may take: some for each processor, not too much of all."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file
            memory = min(memory, int(limit.read_text()))
    return max(_LEAST_STORE_BYTES, min(cpus * _STORE_BYTES_PER_CPU, int(memory * _STORE_SHARE)))


def _hush(*, debug: bool) -> None:
    """Keep Ray Data's log out of stderr; it goes on in its files."""
    if debug:
        return
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler).__name__ == "PlainRayHandler":
            handler.setLevel(logging.CRITICAL + 1)


def _nodes(ray: Any) -> tuple[Node, ...]:
    return tuple(
        Node(
            found["NodeID"],
            found.get("NodeManagerHostname") or found.get("NodeManagerAddress", "?"),
            float(found["Resources"].get("CPU", 0)),
            float(found["Resources"].get("GPU", 0)),
        )
        for found in ray.nodes()
        if found["Alive"]
    )
