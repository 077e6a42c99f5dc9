"""``taemi-infer --doctor``: everything is listed, and what does not work has its remedy."""

from __future__ import annotations

import json
import sys

import pytest

from taemi_runtime import backends, cli
from taemi_runtime.backends import backend, registered
from taemi_runtime.doctor import examine, format_checks
from taemi_runtime.engine import Backend


class Exploding(Backend):
    name = "exploding"
    suffixes = (".boom",)
    extra = "none"

    @classmethod
    def probe(cls):
        raise RuntimeError("boom")

    @classmethod
    def open(cls, path, spec, options, **facts):
        raise NotImplementedError


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["taemi-infer", "--doctor", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    return capsys.readouterr().out


def test_every_backend_and_library_is_listed(monkeypatch, capsys):
    out = run(monkeypatch, capsys)
    for name in (
        *registered(),
        "av",
        "opencv",
        "providers",
        "CUDA driver",
        "device layer cuda-python",
        "device layer pycuda",
        "library tensorrt",
        "library tensorrt_rtx",
        "faster-whisper",
        "openai-whisper",
    ):
        assert f"  {name} " in out
    assert "usable cores" in out


def test_json_holds_the_same(monkeypatch, capsys):
    found = json.loads(run(monkeypatch, capsys, "--format", "json"))
    assert [item["name"] for item in found] == [check.name for check in examine()]
    assert all(set(item) == {"group", "name", "usable", "detail", "fix"} for item in found)


def test_what_works_has_a_version_and_what_does_not_has_a_remedy():
    for check in examine():
        assert check.detail
        assert check.usable != bool(check.fix), check
    by_name = {check.name: check for check in examine()}
    assert by_name["onnxruntime-cpu"].usable
    assert by_name["onnxruntime-cpu"].detail.startswith("onnxruntime 1.")
    assert by_name["av"].detail.startswith("av ")


def test_remedies_stand_below_what_they_mend():
    checks = examine()
    lines = format_checks(checks).splitlines()
    for check in checks:
        if check.fix:
            above = next(index for index, line in enumerate(lines) if line.startswith(f"  --  {check.name} "))
            assert lines[above + 1].strip() == f"to mend: {check.fix}"


def test_a_plug_in_that_explodes_is_shown_and_harms_nothing(monkeypatch):
    monkeypatch.setattr(
        backends,
        "_BUILTIN",
        {**backends._BUILTIN, "exploding": f"{__name__}:Exploding", "gone": "no_such_package:Gone"},
    )
    registered.cache_clear()
    backend.cache_clear()
    try:
        by_name = {check.name: check for check in examine()}
    finally:
        monkeypatch.undo()
        registered.cache_clear()
        backend.cache_clear()
    assert by_name["exploding"].detail == "its probe failed (RuntimeError: boom)"
    assert by_name["gone"].detail == "the package 'no_such_package' is not installed"
    assert by_name["onnxruntime-cpu"].usable
