"""Commands that work on a cluster: how they end, and the processes that they start."""

from __future__ import annotations

from pathlib import Path


def finish(process, code):
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == code, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    return stderr


def processes_of(pid):
    """The processes below one, with what they do."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text().split("\0")[0]
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in below} - below
        if not more:
            return {child: names[child] for child in below - {pid}}
        below |= more
