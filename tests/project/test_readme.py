"""What README and the guides say must be so: links resolve, and every command they show exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from taemi.sheets import format_markdown
from taemi_bench.readme_table import RESULTS, pages, versions
from taemi_bench.report import read_report
from taemi_bench.tables import sheets

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = {
    "taemi": "taemi.cli",
    "taemi-export": "taemi_export.cli",
    "taemi-infer": "taemi_runtime.cli",
    "taemi-bench": "taemi_bench.cli",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_resolve(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def shown_commands():
    """Every line of a code block that starts with one of our console scripts."""
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL):
            for line in (shown.removeprefix("$ ") for shown in block.splitlines()):
                if line.split(" ")[0] in MODULES:
                    yield page.name, tuple(shlex.split(line, comments=True))


@pytest.fixture(scope="module")
def help_of():
    cache = {}

    def run(*words):
        if words not in cache:
            command = [sys.executable, "-m", MODULES[words[0]], *words[1:], "--help"]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "COLUMNS": "200"},
            )
            assert done.returncode == 0, f"{words}: {done.stderr}"
            cache[words] = done.stdout
        return cache[words]

    return run


@pytest.mark.parametrize(("page", "words"), list(shown_commands()), ids=lambda value: str(value)[:60])
def test_shown_commands_and_options_exist(page, words, help_of):
    script, *rest = words
    path = (script,) if script == "taemi-infer" else (script, *rest[:1])
    text = help_of(*path) if path[-1:] != ("--help",) else help_of(script)
    for word in rest:
        if word.startswith("--") and word not in ("--help",):
            assert word.split("=")[0] in text, f"{page}: {' '.join(words)}"


def test_the_makefile_has_the_targets_that_the_readme_names():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)`?", (ROOT / "README.md").read_text())) <= targets


def test_the_tables_of_figures_and_versions_are_those_of_the_result_files():
    for page, text in pages(ROOT).items():
        assert page.read_text() == text, f"{page.name}: make readme-table"


def test_the_measured_versions_are_the_pinned_ones():
    table = versions(ROOT / RESULTS, (ROOT / "constraints.txt").read_text())
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    measured = [line for line in lines if line[1] not in ("-", "not pinned") and line[3] != "not run"]
    assert len(measured) >= 3
    for library, pinned, found, _ in measured:
        assert found.startswith(pinned), library


def test_the_table_as_markdown_is_that_of_the_committed_report():
    report = read_report(ROOT / RESULTS / "cpu-published.json")
    table = (ROOT / RESULTS / "cpu-published.md").read_text()
    for line in format_markdown(sheets(report)).splitlines():
        assert line in table
