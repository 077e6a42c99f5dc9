"""The manifest and the bundle: strict reading, digests, and nothing outside the folder."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from taemi_runtime.bundle import Bundle
from taemi_runtime.errors import BundleError
from taemi_runtime.manifest import MANIFEST_NAME, FileEntry, format_manifest, read_manifest
from tests.runtime.tiny_bundle import save_manifest


def edit(folder, change) -> None:
    path = folder / MANIFEST_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_manifest_survives_writing_and_reading(bundle, tmp_path):
    manifest = read_manifest(bundle.folder)
    (tmp_path / MANIFEST_NAME).write_text(format_manifest(manifest))
    assert read_manifest(tmp_path) == manifest
    # The first graph gives the final scores, so its place must survive, too.
    assert list(manifest.graphs) == ["fusion", "audio", "text", "vision"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=2), r"its schema is 2, this taemi reads 1. Export it again"),
        (lambda d: d.pop("schema"), r"its schema is None, this taemi reads 1"),
        (lambda d: d.update(colour="red"), r"breaks schema 1: unknown field colour at \$"),
        (
            lambda d: d["files"]["fusion.onnx"].update(size=3),
            r"unknown field size at \$\.files\.fusion\.onnx "
            r"\(known: bytes, graph, inputs, operators, outputs, precision, sha256\)",
        ),
        (lambda d: d.pop("family"), "missing required field `family`"),
        (lambda d: d.update(trained="yes"), r"Expected `bool`, got `str` - at `\$\.trained`"),
        (
            lambda d: d["files"].update({"../evil": {"sha256": "", "bytes": 0}}),
            "'../evil' would leave the bundle",
        ),
        (lambda d: d["files"].update({"/etc/passwd": {"sha256": "", "bytes": 0}}), "would leave the bundle"),
        (lambda d: d["files"].update({"a\\..\\b": {"sha256": "", "bytes": 0}}), "would leave the bundle"),
        (lambda d: d["files"].update({"": {"sha256": "", "bytes": 0}}), "would leave the bundle"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused(make_bundle, change, message):
    made = make_bundle()
    edit(made.folder, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(made.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_none_is_refused(make_bundle, content):
    made = make_bundle()
    (made.folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(BundleError, match="cannot open bundle"):
        Bundle.open(made.folder)


def test_folders_that_are_no_bundle_are_refused(tmp_path):
    with pytest.raises(
        BundleError, match=r"there is no manifest.json. Name a folder made by taemi-export onnx"
    ):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="there is no such folder"):
        Bundle.open(tmp_path / "none.taemi")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="it is no folder"):
        Bundle.open(tmp_path / "file")


def test_files_are_checked_and_found(bundle):
    opened = Bundle.open(bundle.folder)
    assert opened.file("fusion.onnx") == bundle.folder / "fusion.onnx"
    assert opened.read("tokenizer.json") == (bundle.folder / "tokenizer.json").read_bytes()
    (name, entry) = opened.engine_files("audio")[0]
    assert (name, entry.precision) == ("audio.onnx", "fp32")
    assert opened.engine_files("nothing") == []


def test_a_changed_byte_is_refused_with_both_digests_and_the_mending_command(make_bundle):
    made = make_bundle()
    path = made.folder / "fusion.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    entry = read_manifest(made.folder).files["fusion.onnx"]
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(BundleError) as caught:
        Bundle.open(made.folder).file("fusion.onnx")
    assert str(caught.value) == (
        f"cannot use {path}: its SHA-256 is {digest}, the manifest says {entry.sha256}. "
        "The bundle is damaged or was changed: copy it again, or export it again: "
        f"taemi-export onnx best.pt -o {made.folder} --force"
    )


def test_a_file_changed_after_its_first_check_is_checked_again(make_bundle):
    made = make_bundle()
    opened = Bundle.open(made.folder)
    path = opened.file("fusion.onnx")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(BundleError, match="its SHA-256 is"):
        opened.file("fusion.onnx")


def test_a_cut_file_is_refused_by_its_size(make_bundle):
    made = make_bundle()
    path = made.folder / "audio.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"it has {size - 1} bytes, the manifest says {size}"):
        Bundle.open(made.folder).file("audio.onnx")


def test_a_missing_file_is_refused(make_bundle):
    made = make_bundle()
    (made.folder / "vision.onnx").unlink()
    with pytest.raises(BundleError, match="the manifest lists it and the bundle does not have it"):
        Bundle.open(made.folder).file("vision.onnx")


def test_a_file_that_is_not_listed_is_refused(make_bundle):
    made = make_bundle()
    (made.folder / "more.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="the manifest does not list it"):
        Bundle.open(made.folder).file("more.onnx")


def test_a_link_out_of_the_bundle_is_refused(make_bundle, tmp_path):
    made = make_bundle()
    path = made.folder / "audio.onnx"
    outside = tmp_path / "outside.onnx"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match=f"it leads out of the bundle, to {outside}"):
        Bundle.open(made.folder).file("audio.onnx")


def test_a_bundle_can_be_moved(make_bundle, tmp_path):
    made = make_bundle()
    moved = tmp_path / "elsewhere" / "renamed.taemi"
    moved.parent.mkdir()
    made.folder.rename(moved)
    assert Bundle.open(moved).file("fusion.onnx") == moved / "fusion.onnx"


def test_files_of_subfolders_are_found(make_bundle):
    made = make_bundle()
    (made.folder / "sub").mkdir()
    (made.folder / "sub" / "note").write_bytes(b"x")
    files = dict(read_manifest(made.folder).files)
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # sha256 of "x"
    files["sub/note"] = FileEntry(digest, 1)
    save_manifest(made.folder, files=files)
    assert Bundle.open(made.folder).read("sub/note") == b"x"
