"""What a run leaves for people: tables, Markdown, CSV and a page. Every figure here is made up."""

from __future__ import annotations

import base64
import csv
import json
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from taemi_bench.flat_csv import COLUMNS, write_csv
from taemi_bench.outputs import Outputs
from taemi_bench.page import write_page
from taemi_bench.page_pictures import draw_conditions, draw_error, draw_growth, draw_latency
from taemi_bench.report import read_report, write_report
from taemi_bench.tables import heading, notes, print_report, sheets, write_markdown
from taemi_runtime.errors import DataError, MissingExtraError, UsageError
from tests.benchmarks.made_reports import (
    ENGINE,
    SMALL,
    TORCH,
    batches,
    full_report,
    latency,
    presence,
    report,
    row,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def full():
    return full_report()


@pytest.fixture(scope="module")
def page(full, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, full)
    return path.read_text()


def test_a_full_report_comes_back_as_it_was(full, tmp_path):
    write_report(tmp_path / "full.json", full)
    assert read_report(tmp_path / "full.json") == full


@pytest.mark.parametrize(("held", "read"), [("the cpu's alone", {"cpu"}), (None, set()), ("absent", set())])
def test_a_report_with_one_device_s_ceilings_reads_as_one_with_all_devices(full, tmp_path, held, read):
    """The first reports of this schema had one object there, or null."""
    path = tmp_path / "old.json"
    write_report(path, full)
    data = json.loads(path.read_text())
    whole = data.pop("ceilings")
    if held != "absent":
        data["ceilings"] = held and whole["cpu"]
    path.write_text(json.dumps(data))
    found = read_report(path)
    assert found == replace(full, ceilings={name: full.ceilings[name] for name in read})


def test_the_committed_results_have_the_ceilings_of_their_device():
    found = read_report(ROOT / "benchmarks" / "results" / "cpu-published.json")
    assert {name: limits.device for name, limits in found.ceilings.items()} == {"cpu": "cpu"}


def test_ceilings_that_are_neither_form_are_refused(full, tmp_path):
    path = tmp_path / "odd.json"
    write_report(path, full)
    path.write_text(
        path.read_text().replace('"bytes_per_second": 21000000000.0', '"bytes_per_second": "fast"')
    )
    with pytest.raises(DataError, match=r"Expected `float`, got `str`"):
        read_report(path)


@pytest.mark.parametrize("columns", ["80", "120", "200"])
def test_no_figure_is_cut_or_broken_in_a_terminal(full, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    print_report(full)
    shown = capsys.readouterr().out
    assert "…" not in shown
    lines = shown[: shown.index("measured 2026")].splitlines()
    assert max(map(len, lines)) <= max(int(columns), 120)
    for sheet in sheets(full):
        for cells in sheet.rows:
            figures = re.compile(r"\s+".join(re.escape(cell) for cell in cells[sheet.names :]))
            assert any(figures.search(line) for line in lines), cells


def test_a_table_that_cannot_be_so_narrow_is_wider(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    points = [
        replace(presence().points[0], label=f"a_condition_with_a_long_name_{place}") for place in range(8)
    ]
    print_report(report([row("a", ENGINE, 5.0)], sweeps=[replace(presence(), points=tuple(points))]))
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(point.label in shown for point in points)


def test_every_kind_of_figure_has_its_table(full):
    titles = [sheet.title for sheet in sheets(full)]
    assert titles == [
        "Latency, ms",
        "Accuracy and cost",
        "Where a call on the GPU goes, medians in ms",
        "Stages of file, medians in ms",
        "Median ms of frames by batch",
        "Items a second of frames by batch",
        "Median ms of squares by presence",
        "Median ms of file by max_fps",
        "Rho with labels of file by max_fps",
    ]
    (batch,) = (sheet for sheet in sheets(full) if sheet.title == "Median ms of frames by batch")
    assert batch.header == ("row", "1", "2", "4", "8", "16")
    # One sample carries no median.
    assert [cells[-1][0] for cells in batch.rows] == ["~", "~", "~"]
    assert any(note.startswith("~: mean") for note in notes(full))


def test_rows_that_did_not_run_are_reasons_and_failed_ones_stand_in_the_table(full):
    said = list(notes(full))
    assert "not run: OpenVINO fp32: pip install openvino[x] (frames)" in said
    assert "FAILED: squares, Made-up engine fp16: beyond its gate" in said
    assert "not run: callers of file: no clip was given" in said
    assert f"not run: {SMALL}: made-up reason (presence of squares)" in said
    names = [cells[1] for cells in sheets(full)[0].rows]
    assert "Made-up engine fp16 FAILED" in names
    assert "OpenVINO fp32" not in names


def test_the_ceilings_of_every_device_are_said(full):
    assert [note.split(",")[0] for note in notes(full) if note.startswith("ceilings of")] == [
        "ceilings of cpu",
        "ceilings of cuda:0",
    ]


def test_what_the_floor_says_is_said_once_for_all_rows_that_it_holds_for(full):
    said = [note for note in notes(full) if "look there" in note and note.startswith("frames")]
    assert said == [f"frames: MatMul takes 80 % of the floor: look there ({TORCH}; {ENGINE}; {SMALL})"]


def test_markdown_has_whole_tables_and_the_machine(full, tmp_path):
    path = tmp_path / "report.md"
    write_markdown(path, replace(full, rows=(replace(full.rows[0], name="one | two"), *full.rows[1:])))
    text = path.read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}) == 1
    assert r"one \| two" in text
    assert "Made-up CPU" in text
    assert text.startswith("# made-up.taemi, untrained")


def test_untrained_is_said_in_every_output(full, page):
    assert "untrained" in page
    assert "untrained" in heading(full)
    assert "untrained" not in heading(replace(full, trained=True))


def test_csv_has_a_line_a_row_and_a_line_a_row_at_each_point(full, tmp_path):
    path = tmp_path / "report.csv"
    write_csv(path, full)
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert tuple(lines[0]) == COLUMNS
    rows = [line for line in lines if line["kind"] == "row"]
    assert [line["row"] for line in rows] == [row.name for row in full.rows]
    engine = rows[1]
    assert float(engine["latency_ms_p50"]) == full.rows[1].latency_ms.p50
    assert float(engine["latency_ms_stdev"]) == full.rows[1].latency_ms.stdev
    assert engine["latency_ms_p99"] == ""
    assert float(engine["times_faster"]) == full.rows[1].times_faster.median
    assert (engine["sizes"], engine["host_bytes"]) == ("steps=12 batch=1", "150000000")
    assert "decode=40" in rows[-1]["stages_ms"]
    points = [line for line in lines if line["kind"] == "sweep"]
    assert len(points) == 5 * 3 + 3 * 3 + 3 + 1
    assert (points[-1]["state"], points[-1]["why"]) == ("not run", "no clip was given")


def test_the_page_stands_alone_and_every_picture_is_one(page):
    assert not re.findall(r"""(?:src|href)=['"](?!data:)""", page)
    assert "<script" not in page
    assert not re.findall(r"url\((?!#)", page)
    pictures = re.findall(r"<img alt='([^']+)' src='data:image/svg\+xml;base64,([^']+)'>", page)
    assert [name for name, _ in pictures] == [
        "latency of frames",
        "latency of squares",
        "latency of file",
        "frames by batch",
        "squares by presence",
        "file by max_fps",
        "frames: speed against error",
        "squares: speed against error",
        "file by max_fps: speed against correlation with labels",
        "share of the floor",
        "squares: copies and computation on the GPU",
        "stages of file",
    ]
    for _, data in pictures:
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_the_page_names_the_machine_and_what_did_not_run(page):
    for said in (
        "Made-up CPU",
        "Made-up GPU",
        "pip install openvino[x]",
        "a made-up product",
        "beyond its gate",
        "ceiling of cpu: fp32",
        "a larger product",
        "ceilings of cuda:0, measured in this run: 3e+05 G multiply-adds/s in fp16, 1.5e+03 GB/s.",
    ):
        assert said in page


def test_the_page_says_which_clock_split_a_call(full, page, tmp_path):
    assert "copies and computation on the GPU, by CUDA events." in page
    rows = tuple(
        item if item.split is None else replace(item, split=replace(item.split, enqueue_ms=None))
        for item in full.rows
    )
    write_page(tmp_path / "clocked.html", replace(full, rows=rows))
    said = f"by CUDA events; {ENGINE}, CUDA by the host&#x27;s clock."
    assert said in (tmp_path / "clocked.html").read_text()


def test_a_row_whose_numbers_are_wrong_is_never_the_fastest(page):
    glance = page[page.index("At a glance") : page.index("<h2>Latency")]
    assert "fp16" not in glance
    assert SMALL in glance


def test_names_from_a_report_are_text_on_the_page(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, report([row("<b>", "<script>alert(1)</script>", 5.0)]))
    assert "<script>" not in path.read_text()
    assert "&lt;script&gt;" in path.read_text()


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_latency_picture_hides_no_sample():
    slow = replace(row("a", ENGINE, 5.0), latency_ms=latency(5.0).from_values([5.0] * 49 + [400.0]))
    (axes,) = draw_latency([row("a", TORCH, 9.0), slow]).axes
    low, high = axes.get_xlim()
    assert low < 5.0
    assert high > 400.0
    # Too much for a linear axis: 5 ms would lie on the edge.
    assert axes.get_xscale() == "log"
    assert texts(axes) == [f"{row('a', TORCH, 9.0).latency_ms.p50:.2f} ms", "5.00 ms"]


def test_growth_is_drawn_at_its_values_with_hollow_marks_for_means():
    (first, rates) = draw_growth(batches()).axes
    assert first.get_xlabel() == "batch"
    assert first.get_ylabel().endswith("ms")
    assert rates.get_ylabel() == "items a second"
    hollow = [line for line in first.lines if line.get_fillstyle() == "none"]
    assert [list(line.get_xdata()) for line in hollow] == [[16.0]] * 3


def test_points_without_an_order_are_lines_of_their_own():
    (axes,) = draw_conditions(presence()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "all there",
        "first input missing",
        "second input missing",
    ]
    assert draw_growth(presence()) is None
    assert draw_conditions(batches()) is None


def test_equal_outputs_stand_below_the_smallest_difference():
    (axes,) = draw_error([row("a", TORCH, 9.0), row("a", ENGINE, 4.0, error=1e-6)]).axes
    heights = [float(line.get_ydata()[0]) for line in axes.lines[:2]]
    assert heights == pytest.approx([1e-7, 1e-6])
    assert "equal" in texts(axes)


def test_no_words_of_a_picture_overlap(full):
    figures = [draw_latency(full.rows[3:8]), draw_conditions(presence()), draw_growth(batches())]
    for figure in figures:
        figure.draw_without_rendering()
        for axes in figure.axes:
            labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, *axes.texts]
            boxes = [item.get_window_extent() for item in labels if item.get_text() and item.get_visible()]
            boxes = [box for box in boxes if figure.bbox.overlaps(box)]
            clashes = [(a, b) for place, a in enumerate(boxes) for b in boxes[:place] if a.overlaps(b)]
            assert not clashes
        legend = figure.legends[0].get_window_extent()
        assert not any(axes.get_window_extent().overlaps(legend) for axes in figure.axes)


def test_outputs_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        Outputs(csv=tmp_path / "file" / "a.csv").check()
    with pytest.raises(UsageError, match="it is a folder"):
        Outputs(html=tmp_path).check()
    with pytest.raises(UsageError, match="two options"):
        Outputs(json=tmp_path / "a", markdown=tmp_path / "a").check()
    Outputs(json=tmp_path / "new" / "a.json", csv=tmp_path / "a.csv", html=tmp_path / "a.html").check()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"taemi\[bench\]"):
        Outputs(html=tmp_path / "a.html").check()
    Outputs(json=tmp_path / "a.json").check()


def test_one_file_that_cannot_be_written_costs_no_other(full, tmp_path):
    outputs = Outputs(json=tmp_path / "a.json", markdown=tmp_path / "taken", csv=tmp_path / "a.csv")
    outputs.check()
    (tmp_path / "taken").mkdir()
    with pytest.raises(Exception, match="taken"):
        outputs.write(full)
    assert read_report(tmp_path / "a.json") == full
    assert (tmp_path / "a.csv").is_file()
