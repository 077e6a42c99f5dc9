"""Gates can be tightened by a user and never loosened."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from taemi_export import verify_bundle
from taemi_export.cli import main
from taemi_export.gates import Limit, describe_gate, parse_limits, tighten
from taemi_runtime.errors import ParityError, UsageError
from taemi_runtime.manifest import read_manifest
from taemi_runtime.spec import Gate, GraphSpec, InputSpec, OutputSpec, Symbol


def graph(name: str, gates: dict[str, Gate], chain: dict[str, Gate] | None = None) -> GraphSpec:
    return GraphSpec(
        name,
        (Symbol("batch"),),
        (InputSpec("x", "float32", ("batch", 4)),),
        (OutputSpec("y", "float32", ("batch", 4)),),
        gates,
        chain or {},
    )


GRAPHS = {
    "scores": graph(
        "scores",
        {"fp32": Gate(1e-4, 1e-5), "fp16": Gate(2e-2, 2e-3, 0.9995)},
        {"int8": Gate(mean_abs=1e-2, min_rho=0.995)},
    ),
    "part": graph("part", {"fp32": Gate(1e-4), "fp16": Gate(2e-2, relative=True)}),
}


def test_limits_come_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "gates.toml"
    file.write_text("[fp16]\nmax_abs = 1e-2\n[part.fp32]\nmax_abs = 5e-5\n[chain.int8]\nmin_rho = 0.999\n")
    found = parse_limits(["fp16.min_cosine=0.9999"], file)
    assert set(found) == {
        Limit(None, "fp16", "max_abs", 1e-2),
        Limit("part", "fp32", "max_abs", 5e-5),
        Limit("chain", "int8", "min_rho", 0.999),
        Limit(None, "fp16", "min_cosine", 0.9999),
    }


def test_tighter_limits_hold_for_the_graphs_that_were_meant() -> None:
    found = tighten(GRAPHS, parse_limits(["fp16.max_abs=1e-2", "part.fp32.mean_abs=1e-6"]))
    assert found["scores"].gates["fp16"] == Gate(1e-2, 2e-3, 0.9995)
    assert found["part"].gates["fp16"] == Gate(1e-2, relative=True)
    assert found["part"].gates["fp32"] == Gate(1e-4, 1e-6)
    assert found["scores"].gates["fp32"] == GRAPHS["scores"].gates["fp32"]
    chain = tighten(GRAPHS, parse_limits(["chain.int8.mean_abs=5e-3"]))
    assert chain["scores"].chain_gates["int8"] == Gate(mean_abs=5e-3, min_rho=0.995)


@pytest.mark.parametrize(
    ("text", "asked", "held"),
    [
        ("fp16.max_abs=3e-2", "asked for 0.03", "bundle's is 0.02"),
        ("scores.fp16.min_cosine=0.9", "asked for 0.9", "bundle's is 0.9995"),
        ("fp32.max_abs=inf", "asked for inf", "bundle's is 0.0001"),
        ("chain.int8.min_rho=0.5", "asked for 0.5", "bundle's is 0.995"),
    ],
)
def test_loosening_is_refused_with_both_values(text: str, asked: str, held: str) -> None:
    with pytest.raises(UsageError, match=f"cannot loosen.*{asked}.*{held}"):
        tighten(GRAPHS, parse_limits([text]))


@pytest.mark.parametrize(
    "text", ["fp16", "max_abs=1", "fp16.max=1", "fp16.max_abs=much", "a.b.fp16.max_abs=1", "fp16.max_abs=nan"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot understand the gate"):
        parse_limits([text])


def test_limits_of_nothing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bundle's gates are scores\.fp32, scores\.fp16, part\.fp32"):
        tighten(GRAPHS, parse_limits(["bf16.max_abs=1e-2"]))
    with pytest.raises(UsageError, match="cannot read gates"):
        parse_limits(file=tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("[fp16]\nmax_abs = true\n")
    with pytest.raises(UsageError, match="True is no number"):
        parse_limits(file=tmp_path / "bad.toml")


def test_a_tightened_gate_fails_a_bundle_that_passes_its_own(exported: Path) -> None:
    assert verify_bundle(exported).passed
    strict = verify_bundle(exported, limits=parse_limits(["front.fp32.max_abs=1e-12"]))
    with pytest.raises(ParityError, match=r"front\.features.*allowed in fp32 are max 1e-12, mean 1e-05"):
        strict.require()


def test_the_command_line_tightens_and_refuses_to_loosen(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["taemi-export", "verify", str(bundle), *arguments])
        try:
            main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    file = tmp_path / "gates.toml"
    file.write_text("[front.fp32]\nmax_abs = 1e-12\n")
    assert run("--gates", str(file)) == 1
    assert "front.features" in capfd.readouterr().err
    # What was measured against which gate stays in the manifest.
    parity = read_manifest(bundle).parity["front.onnx"]
    assert not parity.passed
    assert parity.gate is not None
    assert parity.gate.max_abs == 1e-12
    assert run("--gate", "fp32.max_abs=1e-3") == 2
    assert "cannot loosen the gate fp32.max_abs of graph tagger: asked for 0.001" in capfd.readouterr().err
    assert run() == 0
    assert read_manifest(bundle).parity["front.onnx"].passed


def test_gates_are_described_in_words() -> None:
    assert describe_gate(Gate(2e-2, 2e-3, 0.9995)) == "max 0.02, mean 0.002, cosine 0.9995"
    assert describe_gate(Gate(min_rho=0.995, relative=True)) == "rho 0.995 (relative)"
    assert describe_gate(Gate()) == "nothing"
