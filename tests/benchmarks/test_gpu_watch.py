from __future__ import annotations

import os

import pytest

from taemi_bench.gpu_watch import GpuWatch, judge_gpu
from taemi_bench.nvidia_smi import Gpu, parse_gpus

QUIET = Gpu("GPU", "590", "13.1", 1 << 30, 0, sm_clock_mhz=1400, temperature_c=50, utilisation_percent=90)


def seen(**changes):
    return Gpu(**{**vars(QUIET), **changes})


def test_an_undisturbed_gpu_has_no_note():
    idle = seen(utilisation_percent=0, sm_clock_mhz=210)
    found = judge_gpu(idle, [idle, QUIET, seen(sm_clock_mhz=1380, temperature_c=61), idle])
    assert found.note == ""
    assert (found.samples, found.sm_clock_min_mhz, found.sm_clock_max_mhz) == (4, 1380, 1400)
    assert found.temperature_max_c == 61


@pytest.mark.parametrize(
    ("before", "during", "said"),
    [
        ({"utilisation_percent": 40}, {}, "the GPU was 40% busy before"),
        ({"utilisation_percent": 0}, {"processes": 2}, "2 other processes computed on the GPU"),
        (
            {"utilisation_percent": 0},
            {"slowed_by": ("hw_slowdown",)},
            "the GPU was slowed by",
        ),
        ({"utilisation_percent": 0}, {"sm_clock_mhz": 1000}, "its clock moved between 1000 and 1400 MHz"),
    ],
)
def test_what_disturbs_it_is_said(before, during, said):
    assert said in judge_gpu(seen(**before), [QUIET, seen(**during)]).note


def test_it_is_looked_at_before_meanwhile_and_after():
    clocks = iter(range(100, 10_000))
    looks = []

    def read():
        looks.append(seen(sm_clock_mhz=next(clocks)))
        return (QUIET, looks[-1]), ""

    with GpuWatch(1, read=read, every=0.01) as watch:
        while len(looks) < 4:
            pass
    found = watch.activity()
    assert found.samples >= 5
    assert found.sm_clock_min_mhz == 100


def test_without_a_gpu_nothing_is_watched():
    with GpuWatch(None, read=lambda: pytest.fail("nobody asked")) as watch:
        pass
    assert watch.activity() is None


def test_processes_of_others_are_counted():
    def process(pid, kind):
        return f"<process_info><pid>{pid}</pid><type>{kind}</type></process_info>"

    listed = "".join(process(*item) for item in ((1, "C"), (2, "G"), (3, "C+G"), (os.getpid(), "C")))
    xml = f"<nvidia_smi_log><gpu><processes>{listed}</processes></gpu></nvidia_smi_log>"
    assert parse_gpus(xml)[0].processes == 2
