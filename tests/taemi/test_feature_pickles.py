"""Features out of pickles: what numpy and torch write is read, anything else is refused and never run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from taemi.feature_pickles import read_array, read_features
from taemi_runtime.errors import DataError


@pytest.fixture
def read(tmp_path):
    """Read bytes as a pickle."""

    def run(content: bytes, reader=read_array):
        path = tmp_path / "00001.pkl"
        path.write_bytes(content)
        return reader(path)

    return run


def saved(value, *, zipped=True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", ">f4", "i4", "i8", "u1", "?"])
def test_numpy_arrays_of_every_protocol_come_back_as_they_were(read, dtype):
    array = (np.random.default_rng(0).standard_normal((5, 7)) * 9).astype(dtype)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for view in (array, np.asfortranarray(array), array[::2], array.T, array[:0]):
            found = read(pickle.dumps(view, protocol=protocol))
            np.testing.assert_array_equal(found, view)
            assert found.dtype.kind == view.dtype.kind


def test_arrays_of_numpy_1_have_their_functions_elsewhere(read):
    array = np.arange(6, dtype="f4").reshape(2, 3)
    for protocol in (0, 2, 4, 5):
        old = pickle.dumps(array, protocol=protocol)
        content = old.replace(b"numpy._core.", b"numpy.core.")
        if protocol >= 4:
            # Frames and short texts carry their lengths.
            content = old.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
            content = content.replace(b"\x13numpy._core.numeric", b"\x12numpy.core.numeric")
            content = content[:3] + struct.pack("<Q", len(content) - 11) + content[11:]
        assert content != old
        np.testing.assert_array_equal(read(content), array)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_torch_tensors_of_every_format_come_back_as_they_were(read, dtype):
    tensor = (torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    for view in (tensor, tensor.T, tensor[1:3], tensor[:, ::2], tensor[:0]):
        expected = view.float().numpy()
        contents = [saved(view), saved(view, zipped=False)]
        contents += [pickle.dumps(view, protocol=protocol) for protocol in (2, 4, 5)]
        for content in contents:
            np.testing.assert_array_equal(read(content).astype("f4"), expected)
    np.testing.assert_array_equal(read(saved(torch.nn.Parameter(torch.ones(2, 3)))), np.ones((2, 3)))


def test_nothing_of_torch_is_needed(tmp_path):
    (tmp_path / "a.pkl").write_bytes(saved(torch.ones(2, 3)))
    script = (
        "import sys, pathlib; sys.modules['torch'] = None\n"
        "from taemi.feature_pickles import read_features\n"
        "print(read_features(pathlib.Path('a.pkl')).sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "6.0"


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def hostile(mark) -> dict[str, tuple[bytes, str]]:
    """Pickles that make a file when they are run, each with the name that it is to be refused by."""
    command = f"touch {mark}"
    system = Runs(os.system, command)
    code = f"__import__('os').system({command!r})"
    tensor = torch.ones(2, 3)
    by_name = f"{os.system.__module__}.system"

    class Marked(torch.Tensor):
        def __reduce_ex__(self, protocol):
            return (*tensor.__reduce_ex__(protocol), {"extra": system})

    nested = pickle.dumps(tensor, protocol=4).replace(b"torch.storage", b"torch.serial!")
    state = pickle.dumps((np.ones(3), system), protocol=4)
    objects = np.array([system, 1], dtype=object)
    inner = saved(system, zipped=False)
    older = saved(tensor, zipped=False)
    swapped = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(tensor))) as source,
        zipfile.ZipFile(swapped, "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, pickle.dumps(system) if name.endswith("data.pkl") else content)
    return {
        "os.system": (pickle.dumps(system), by_name),
        "os.system, protocol 0": (pickle.dumps(system, protocol=0), by_name),
        "builtins.eval": (pickle.dumps(Runs(builtins.eval, code)), "builtins.eval"),
        "builtins.exec": (pickle.dumps(Runs(builtins.exec, code), protocol=2), "__builtin__"),
        "getattr": (pickle.dumps(Runs(getattr, "text", "format")), "builtins.getattr"),
        "subprocess": (pickle.dumps(Runs(subprocess.call, ["touch", str(mark)])), "subprocess.call"),
        "beside an array": (state, by_name),
        "in an object array": (pickle.dumps(objects), "'O8'"),
        "in a dict": (pickle.dumps({"a": np.ones(3), "b": system}), by_name),
        "in a tensor's state": (pickle.dumps(tensor.as_subclass(Marked), protocol=4), by_name),
        "in a tensor's storage": (pickle.dumps(Runs(torch.storage._load_from_bytes, inner)), by_name),
        "torch zip": (saved(system), by_name),
        "torch zip, tensor's storage": (swapped.getvalue(), by_name),
        "torch legacy": (saved(system, zipped=False), by_name),
        "torch legacy, header": (pickle.dumps(system) + older, by_name),
        "another loader": (nested, "torch.serial!"),
        "INST": (f"(S'{command}'\nios\nsystem\n.".encode(), "os.system"),
        "OBJ": (f"(cos\nsystem\nS'{command}'\no.".encode(), "os.system"),
        "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short(command) + b"\x85R.", "os.system"),
        "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
        "numpy.load": (b"cnumpy\nload\n(Vx.npy\ntR.", "numpy.load"),
        "pickle in a pickle": (pickle.dumps(Runs(pickle.loads, pickle.dumps(system))), "pickle.loads"),
    }


KINDS = list(hostile("x"))


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_pickles_are_refused_by_name_and_run_nothing(read, tmp_path, kind):
    mark = tmp_path / "ran"
    content, name = hostile(mark)[kind]
    with pytest.raises(DataError) as refused:
        read(content)
    assert name in str(refused.value)
    assert "nothing of it was run" in str(refused.value)
    assert str(tmp_path / "00001.pkl") in str(refused.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["os.system", "builtins.eval", "INST", "OBJ", "in a dict"])
def test_the_hostile_pickles_are_dangerous_elsewhere(tmp_path, kind):
    mark = tmp_path / "ran"
    pickle.loads(hostile(mark)[kind][0])
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"hello", "the file is damaged"),
        (pickle.dumps(np.ones((40, 8), "f4"))[:-30], "the file is damaged"),
        (saved(torch.ones(40, 8))[:-30], "the file is damaged"),
        (saved(torch.ones(40, 8), zipped=False)[:-30], "the file is damaged"),
        (pickle.dumps([1, 2]), "it holds a list"),
        (pickle.dumps({"vit": np.ones((2, 2))}), "it holds a dict"),
        (saved(torch.ones(1).expand(10_000)), "reaches beyond its 1 numbers"),
        (pickle.dumps(np.array(["a"])), "'U1', which are no numbers"),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "which are no numbers"),
    ],
)
def test_what_is_no_array_is_told_from_what_is_damaged(read, content, words):
    with pytest.raises(DataError, match=words):
        read(content)


def test_a_pickle_cannot_ask_for_more_memory_than_it_brings(read):
    # A memo of four thousand million places, an array of as many numbers, a compressed part of a zip.
    with pytest.raises(DataError, match="list"):
        read(b"\x80\x02]r\xff\xff\xff\xff.")
    small = pickle.dumps(np.ones((2, 3), "f4"), protocol=2)
    huge = small.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fK\x03\x86")
    with pytest.raises(DataError, match="does not fit its 24 bytes"):
        read(huge)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(DataError, match="is compressed"):
        read(packed.getvalue())


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"", b".", "it holds a tuple"),
        (b"", b"\x8c\x06system\x93.", "a tuple stands where none can be"),
        (b"}", b"\x8c\x01as.", "a tuple stands where none can be"),
        (b"cnumpy\ndtype\n", b"\x85R.", "a tuple stands where none can be"),
        (b"c_codecs\nencode\n", b"h\x05\x86R.", "encodes a text"),
    ],
)
def test_a_pickle_cannot_ask_for_more_time_than_an_array_needs(read, before, after, words):
    # A tuple of itself twice, sixty times over: to write it out or to hash it would take for ever.
    nested = b")\x94h\x00\x86" + b"".join(b"\x94h" + bytes([depth]) + b"\x86" for depth in range(1, 60))
    with pytest.raises(DataError, match=words):
        read(b"\x80\x04" + before + nested + after)


def test_a_pickle_cannot_ask_for_copy_after_copy(read):
    raw = pickle.dumps(torch.zeros(1000), protocol=4)
    start = raw.index(b"\x85\x94R")
    with pytest.raises(DataError, match="more than one array"):
        read(raw[: start + 3] + b"h\x05h\x06\x85R" * 20 + b".")


def test_damage_at_random_places_is_an_error_and_never_a_crash(read):
    dice = random.Random(1)
    array = np.ones((3, 4), "f4")
    whole = [pickle.dumps(array), pickle.dumps(array, protocol=0), pickle.dumps(torch.zeros(3, 4))]
    whole += [saved(torch.zeros(3, 4)), saved(torch.zeros(3, 4), zipped=False)]
    refused = 0
    for _ in range(600):
        content = bytearray(dice.choice(whole))
        for _ in range(dice.choice((1, 2, 5))):
            content[dice.randrange(len(content))] = dice.randrange(256)
        try:
            read(bytes(content[: dice.choice((len(content), dice.randrange(1, len(content))))]))
        except DataError:
            refused += 1
    assert refused > 400


def test_features_are_tables_of_finite_numbers(read):
    assert read(pickle.dumps(np.ones((38, 384))), read_features).dtype == np.float32
    assert read(saved(torch.ones(768)), read_features).shape == (1, 768)
    # What participants write for a clip without faces.
    assert read(saved(torch.zeros(1, 768)), read_features) is None
    assert read(pickle.dumps(np.zeros((0, 384), "f4")), read_features) is None
    with pytest.raises(DataError, match=r"float64 \[2, 2, 2\]"):
        read(pickle.dumps(np.ones((2, 2, 2))), read_features)
    with pytest.raises(DataError, match="1 of 3 frames hold NaN"):
        read(pickle.dumps(np.array([[1.0], [np.nan], [2.0]])), read_features)
    with pytest.raises(DataError, match="expected numbers"):
        read(pickle.dumps(np.ones((2, 2), "?")), read_features)


def test_only_the_instructions_of_arrays_are_known():
    # Whoever adds one has to think about it here.
    import inspect

    from taemi import pickled

    names = {code.name for code in pickletools.opcodes}
    known = {name for name in names if f'"{name}"' in inspect.getsource(pickled)}
    assert (
        names - known
        == {
            *("ADDITEMS", "BINSTRING8", "BUILDS", "DICT", "DUP", "EMPTY_SET", "EXT1", "EXT2", "EXT4"),
            *("FROZENSET", "LIST", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER", "OBJ", "PERSID", "POP", "POP_MARK"),
            "READONLY_BUFFER",
        }
        & names
    )
