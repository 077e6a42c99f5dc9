"""What several tests share: one small corpus, one untrained checkpoint, one bundle, made once a run."""

from __future__ import annotations

import os
import signal
import sys

import pytest

# A test run that was started in the background of a script inherits "ignore Ctrl-C", and so would every
# command that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores: PyTorch's and ONNX Runtime's pools must not fight, nor those of two processes that share the
# tests; and hubs must never be asked.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _no_module_stays(tmp_path_factory):
    """A package that a test made to be imported must not be what a later test finds under its name.

    `monkeypatch.delitem(sys.modules, ...)` after the import puts the made package back at the end;
    `sys.modules.pop` is what takes it away.
    """
    yield
    base = f"{tmp_path_factory.getbasetemp()}{os.sep}"
    left = [
        name
        for name, module in list(sys.modules.items())
        if isinstance(file := getattr(module, "__file__", None), str) and file.startswith(base)
    ]
    for name in left:
        del sys.modules[name]
    assert not left, f"the test left modules behind that it had made: {left}"


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory):
    """A synthetic corpus of a few clips."""
    from taemi.synth import write_corpus

    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    write_corpus(folder, clips=20, seed=4, workers=2)
    return folder


@pytest.fixture(scope="session")
def demo_clip(demo_corpus):
    """A clip with sound and frames that no model was trained on."""
    from taemi.corpus import read_corpus
    from taemi_runtime.media import read_clip
    from taemi_runtime.preprocessing import Preprocessing

    for row in read_corpus(demo_corpus).split("test"):
        if read_clip(row.media, Preprocessing(), vision=False).waveform is not None:
            return row.media
    raise AssertionError("no test clip has sound")


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory):
    """An untrained checkpoint with tiny encoders."""
    from taemi.assemble import assemble
    from taemi.checkpoint import Progress, save_checkpoint
    from taemi.choice import EncoderChoice

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, assemble("paper", EncoderChoice("tiny"), seed=11), Progress(trained=False))
    return path


@pytest.fixture(scope="session")
def demo_bundle(demo_checkpoint):
    """The checkpoint's bundle, verified by the exporter."""
    from taemi.exportable import open_source
    from taemi_export.export import export_onnx

    out = demo_checkpoint.with_suffix(".taemi")
    export_onnx(open_source(demo_checkpoint), out)
    return out
