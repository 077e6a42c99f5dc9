"""Building pycuda from its source distribution, in a folder of its own; the environment stays as it is.

pycuda's setup takes the folder above ``nvcc`` on the path for the toolkit, which is wrong where ``nvcc``
is a wrapper, wants cuRAND's headers, which reduced toolkits lack, and links against ``libcuda.so``, of
which a driver may only install ``libcuda.so.1``. A ``siteconf.py`` settles all three.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from taemi_bench.gpu_steps.contract import NotRunError

BUILD_SECONDS = 220
_HEADER = Path("include") / "cuda.h"


def build_pycuda(work: Path) -> Path:
    """Build pycuda.

    Args:
        work: Where it is built, and installed into ``pycuda``.

    Returns:
        The folder to put on the import path.

    Raises:
        NotRunError: It cannot be built here; says why in one line.
    """
    if shutil.which("g++") is None:
        raise NotRunError("pycuda cannot be built: there is no g++")
    root = toolkit_root()
    source = _fetch(work / "pycuda-source")
    links = work / "pycuda-links"
    links.mkdir(exist_ok=True)
    driver = loaded_library("libcuda.so.1")
    if driver is not None and not (links / "libcuda.so").exists():
        (links / "libcuda.so").symlink_to(driver)
    folders = [str(links), *(str(root / name) for name in ("lib64", "lib64/stubs", "lib", "lib/stubs"))]
    settings = {
        "CUDA_ROOT": str(root),
        "CUDA_INC_DIR": [str(root / "include")],
        "CUDADRV_LIB_DIR": folders,
        "CUDART_LIB_DIR": folders,
        "CUDA_ENABLE_CURAND": False,
        # The bindings only pass calls on: optimising them costs minutes and gains nothing.
        "CXXFLAGS": ["-O1", "-w"],
    }
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    (source / "siteconf.py").write_text("\n".join(lines) + "\n")
    target = work / "pycuda"
    _pip(["install", "--target", str(target), str(source)])
    return target


def toolkit_root() -> Path:
    """Find the CUDA toolkit that has headers: by the environment, by asking nvcc, by custom.

    Raises:
        NotRunError: There is none.
    """
    candidates = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if shutil.which("nvcc") is not None:
        done = subprocess.run(
            ["nvcc", "--dryrun", "-c", "none.cu"], capture_output=True, text=True, timeout=30, check=False
        )
        # One line is "#$ _HERE_=/usr/local/cuda/bin", whatever wrapper or link was called.
        for line in done.stderr.splitlines():
            name, _, value = line.removeprefix("#$ ").partition("=")
            if name == "_HERE_":
                candidates.append(Path(value.strip()).parent)
    candidates.append(Path("/usr/local/cuda"))
    for candidate in candidates:
        if (candidate / _HEADER).is_file():
            return candidate
    raise NotRunError("pycuda cannot be built: there is no CUDA toolkit with cuda.h")


def loaded_library(name: str) -> Path | None:
    """Load a library and return the file that it came from, ``None`` when it does not load.

    Args:
        name: E.g. ``libcuda.so.1``.
    """
    try:
        ctypes.CDLL(name)
    except OSError:
        return None
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if path.startswith("/") and Path(path).name.startswith(name.removesuffix(".1")):
            return Path(path)
    return None


def _fetch(folder: Path) -> Path:
    """Download and unpack the source distribution; return its root."""
    folder.mkdir(exist_ok=True)
    _pip(["download", "--no-deps", "--no-binary", "pycuda", "--dest", str(folder), "pycuda"])
    archive = next(folder.glob("pycuda-*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def _pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotRunError(f"pycuda cannot be built: pip took longer than {BUILD_SECONDS} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        fatal = [line for line in lines if "fatal error:" in line or "cannot find -l" in line]
        errors = [line for line in lines if line.lower().startswith("error")]
        said = (fatal or errors or lines[-1:] or ["pip said nothing"])[0]
        raise NotRunError(f"pycuda cannot be built: {said}")
