"""Features of clips in pickles: a numpy array or a torch tensor a file, whoever wrote it.

The official features are pickled numpy arrays, those of participants often torch tensors, saved with
``pickle.dump`` or with ``torch.save`` in either of its formats. All are read without torch, and by
[taemi.pickled][] alone: nothing that a file says is executed.
"""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from taemi.pickled import Machine, Refused
from taemi.pickled_values import Array, PickledArray, PickledTensor, Storage
from taemi_runtime.errors import DataError

SUFFIX = ".pkl"
# Twenty minutes at 50 frames a second of 1,280 single-precision numbers take 0.3 GB.
_MOST_BYTES = 2**31
# What torch.save's first format begins with (torch.serialization.MAGIC_NUMBER), and its only version.
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DAMAGE = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
)


def read_array(path: Path) -> Array:
    """Read the one array of a pickle.

    Args:
        path: What ``pickle.dump`` or ``torch.save`` wrote.

    Returns:
        The array, with whatever shape and numeric type it has.

    Raises:
        DataError: The file is missing, damaged, or holds something else; what it is called is said, and
            nothing of it was run.
    """
    asked = f"cannot read features {path}"
    try:
        if not path.is_file():
            raise DataError(asked, "there is no such file" if not path.exists() else "it is no ordinary file")
        size = path.stat().st_size
        if not 0 < size <= _MOST_BYTES:
            found = f"it has {size:,} bytes" if size else "the file is empty (0 bytes)"
            raise DataError(asked, found, "Make the features again")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(asked, error.strerror or str(error)) from error
    try:
        return _parse(content)
    except Refused as refused:
        raise DataError(
            asked,
            f"{refused}; nothing of it was run",
            "Save one numpy array or torch tensor a file: pickle.dump(array, stream)",
        ) from refused
    except _DAMAGE as error:
        raise DataError(asked, f"the file is damaged ({error})", "Make the features again") from error


def read_features(path: Path) -> npt.NDArray[np.float32] | None:
    """Read the features of one clip.

    Args:
        path: A pickle of [frames, width]; [width] counts as one frame.

    Returns:
        [frames, width] float32; ``None`` where there is no frame, or only zeros, which stand for a clip
        without faces in features that participants share.

    Raises:
        DataError: It cannot be read, is no table of numbers, or holds NaN or infinite numbers.
    """
    values = read_array(path)
    asked = f"cannot read features {path}"
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(
            asked, f"it holds {values.dtype} {list(values.shape)}, expected numbers [frames, width]"
        )
    table = values.astype(np.float32)
    if not np.isfinite(table).all():
        bad = int((~np.isfinite(table).all(1)).sum())
        raise DataError(asked, f"{bad} of {len(table)} frames hold NaN or infinite numbers")
    return table if table.any() else None


def _parse(content: bytes) -> Array:
    if content.startswith(b"PK\x03\x04"):
        return _values(_read_zip(content))
    stream = io.BytesIO(content)
    first = Machine(stream, nested=_read_storage).run()
    return _values(_read_older(stream) if first == _MAGIC and type(first) is int else first)


def _values(found: Any) -> Array:
    if isinstance(found, PickledTensor):
        return found.read()
    if isinstance(found, PickledArray) and found.values is not None:
        return found.values
    raise Refused(f"it holds a {type(found).__name__}, neither a numpy array nor a torch tensor")


def _read_zip(content: bytes) -> Any:
    """Read what ``torch.save`` writes: a zip of a pickle and of the storages that it refers to."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        main = next((name for name in names if name.rpartition("/")[2] == "data.pkl"), None)
        if main is None:
            raise Refused("it is a zip file without a tensor")
        folder = main.removesuffix("data.pkl")

        def stored(name: str) -> bytes:
            # torch never compresses: what is compressed could grow to any size.
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise Refused(f"its part {name[:80]!r} is compressed, which no saved tensor is")
            return archive.read(name)

        big = f"{folder}byteorder" in names and stored(f"{folder}byteorder") == b"big"

        def storage(found: Storage, key: str) -> Storage:
            found.fill(stored(f"{folder}data/{key}"), ">" if big else "<")
            return found

        return Machine(io.BytesIO(stored(main)), storage).run()


def _read_older(stream: io.BytesIO) -> Any:
    """Read the rest of torch's first format: pickles in a row, then the numbers of each storage."""
    if Machine(stream).run() != _VERSION:
        raise Refused("it is a torch file of an unknown version")
    system = Machine(stream).run()
    order: Literal["<", ">"] = (
        "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    )
    storages: dict[str, Storage] = {}
    found = Machine(stream, lambda storage, key: storages.setdefault(key, storage)).run()
    for key in Machine(stream).run():
        storage = storages[key]
        (count,) = struct.unpack(f"{order}q", stream.read(8))
        if count != storage.count:
            raise ValueError(f"a storage has {count:,} numbers, its description says {storage.count:,}")
        storage.fill(stream.read(storage.nbytes), order)
    return found


def _read_storage(content: bytes) -> Storage:
    """Read the file within a pickle that ``pickle.dump`` puts a tensor's numbers into."""
    stream = io.BytesIO(content)
    if Machine(stream).run() != _MAGIC:
        raise Refused("its tensor's numbers are in no format of torch")
    found = _read_older(stream)
    if not isinstance(found, Storage):
        raise Refused("its tensor's numbers are no storage")
    return found
