from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from taemi_bench.machine import (
    Activity,
    _cpu_facts,
    _hot_events,
    _throttled_seconds,
    judge_noise,
    read_activity,
    read_machine,
)
from taemi_bench.nvidia_smi import parse_gpus, read_gpus
from taemi_runtime.host import usable_cores

# The elements that are read, under the names that drivers 450 to 590 give them.
NEW = """<?xml version="1.0" ?><nvidia_smi_log><driver_version>590.44.01</driver_version>
<cuda_version>13.1</cuda_version><attached_gpus>1</attached_gpus><gpu id="0">
<product_name>NVIDIA A800-SXM4-80GB</product_name><serial>123</serial><uuid>GPU-1</uuid>
<performance_state>P0</performance_state>
<clocks_event_reasons><clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
<clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap>
<clocks_event_reason_hw_slowdown>Not Active</clocks_event_reason_hw_slowdown></clocks_event_reasons>
<fb_memory_usage><total>81920 MiB</total><used>50 MiB</used></fb_memory_usage>
<utilization><gpu_util>3 %</gpu_util></utilization><temperature><gpu_temp>27 C</gpu_temp></temperature>
<gpu_power_readings><power_state>P0</power_state><average_power_draw>3.97 W</average_power_draw>
<instant_power_draw>67.03 W</instant_power_draw><current_power_limit>400.00 W</current_power_limit>
</gpu_power_readings>
<clocks><sm_clock>1275 MHz</sm_clock><mem_clock>1593 MHz</mem_clock></clocks>
<applications_clocks><sm_clock>1 MHz</sm_clock></applications_clocks>
<max_clocks><sm_clock>1410 MHz</sm_clock></max_clocks></gpu></nvidia_smi_log>"""
OLD = """<nvidia_smi_log><driver_version>450.80</driver_version><cuda_version>11.0</cuda_version><gpu>
<product_name>Tesla T4</product_name><clocks_throttle_reasons>
<clocks_throttle_reason_hw_slowdown>Active</clocks_throttle_reason_hw_slowdown></clocks_throttle_reasons>
<fb_memory_usage><total>15109 MiB</total><used>0 MiB</used></fb_memory_usage>
<power_readings><power_draw>10.1 W</power_draw><enforced_power_limit>70.00 W</enforced_power_limit>
</power_readings><clocks><sm_clock>N/A</sm_clock></clocks></gpu></nvidia_smi_log>"""


def test_this_machine_is_described():
    machine = read_machine()
    assert machine.cpu
    assert machine.cores_usable == usable_cores() <= machine.cores_online == os.cpu_count()
    assert machine.memory_bytes > 1 << 28
    assert machine.python == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "torch", "onnxruntime"} <= set(machine.packages)
    assert bool(machine.gpus) != bool(machine.gpu_note)


def test_nothing_identifies_the_host_or_the_device():
    text = repr(parse_gpus(NEW)) + repr(read_machine())
    assert "GPU-1" not in text
    assert "123" not in repr(parse_gpus(NEW))
    assert os.uname().nodename not in text


def test_a_recent_driver_is_read():
    (gpu,) = parse_gpus(NEW)
    assert (gpu.name, gpu.driver, gpu.cuda) == ("NVIDIA A800-SXM4-80GB", "590.44.01", "13.1")
    assert (gpu.memory_bytes, gpu.memory_used_bytes) == (81920 << 20, 50 << 20)
    assert (gpu.sm_clock_mhz, gpu.sm_clock_max_mhz, gpu.memory_clock_mhz) == (1275, 1410, 1593)
    assert (gpu.power_watts, gpu.power_limit_watts, gpu.temperature_c) == (67.03, 400, 27)
    assert (gpu.performance_state, gpu.utilisation_percent) == ("P0", 3)
    assert gpu.slowed_by == ("sw_power_cap",)


def test_an_old_driver_is_read():
    (gpu,) = parse_gpus(OLD)
    assert (gpu.name, gpu.power_watts, gpu.power_limit_watts) == ("Tesla T4", 10.1, 70)
    assert gpu.sm_clock_mhz is None
    assert gpu.slowed_by == ("hw_slowdown",)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program called nvidia-smi on the path that does what it is told."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def test_nvidia_smi_is_asked_for_its_xml(nvidia_smi, tmp_path):
    (tmp_path / "answer.xml").write_text(NEW)
    nvidia_smi(f'[ "$1 $2" = "-q -x" ] && cat {tmp_path / "answer.xml"}')
    gpus, why = read_gpus()
    assert (gpus, why) == (parse_gpus(NEW), "")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo NVIDIA-SMI has failed; exit 9", "NVIDIA-SMI has failed"),
        ("echo no xml", "cannot be read"),
        ("echo '<nvidia_smi_log/>'", "lists no device"),
    ],
)
def test_why_there_is_no_gpu_is_said(nvidia_smi, script, why):
    nvidia_smi(script)
    gpus, note = read_gpus()
    assert gpus == ()
    assert why in note


def test_without_nvidia_smi_there_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpus() == ((), "nvidia-smi not found")


def activity(wall, own, busy, steal, load=0.5):
    return Activity(wall, own, busy, steal, load)


def test_noise_by_hand():
    # Ten seconds of four cores are 40 core seconds: 12 busy, of which 8 are ours, and 2 stolen.
    found = judge_noise(activity(0, 1, 100, 5), activity(10, 9, 112, 7), cores=4)
    assert found.others_share == pytest.approx(4 / 40)
    assert found.steal_share == pytest.approx(2 / 40)
    assert "other processes used 10%" in found.note
    assert "hypervisor took 5%" in found.note


def test_a_quiet_machine_has_no_note():
    found = judge_noise(activity(0, 1, 100, 5), activity(10, 9, 108.5, 5), cores=4)
    assert found.note == ""
    assert (found.load_before, found.load_after, found.seconds) == (0.5, 0.5, 10)


def test_what_slows_a_cpu_is_noted():
    before = Activity(0, 0, 0, 0, None, throttled_seconds=3.0, hot=7)
    held = judge_noise(before, Activity(10, 0, 0, 0, None, throttled_seconds=3.5, hot=7), cores=4)
    assert held.note == "the container's CPU quota held threads back for 5% of the time"
    hot = judge_noise(before, Activity(10, 0, 0, 0, None, throttled_seconds=3.0, hot=9), cores=4)
    assert "too hot" in hot.note
    quiet = judge_noise(before, Activity(10, 0, 0, 0, None, throttled_seconds=3.05, hot=7), cores=4)
    assert quiet.note == ""


def test_throttling_is_read_from_the_kernels_files(tmp_path):
    stat = tmp_path / "cpu.stat"
    stat.write_text("usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000\n")
    assert _throttled_seconds(stat) == 2.5
    assert _throttled_seconds(tmp_path / "none") is None
    for core, count in ((0, 2), (1, 5)):
        folder = tmp_path / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    assert _hot_events(tmp_path) == 7
    assert _hot_events(tmp_path / "none") is None
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: A CPU: fast\ncpu MHz\t\t: 2400.5\ncpu MHz\t\t: 3100\n")
    assert _cpu_facts("model name", info) == ["A CPU: fast"]
    assert _cpu_facts("cpu MHz", info) == ["2400.5", "3100"]


def test_counters_that_are_not_there_are_not_invented():
    found = judge_noise(activity(0, 1, None, None, None), activity(10, 9, None, None, None), cores=4)
    assert (found.others_share, found.steal_share, found.load_before, found.note) == (None, None, None, "")


def test_the_kernels_counters_are_read(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    stat.write_text(f"cpu  {2 * ticks} {ticks} {3 * ticks} 999 888 {ticks} {ticks} {5 * ticks} 7 0\ncpu0 1\n")
    found = read_activity(stat)
    assert (found.busy_seconds, found.steal_seconds) == (8.0, 5.0)
    assert read_activity(tmp_path / "none").busy_seconds is None
    assert read_activity(Path("/proc/self/status")).steal_seconds is None
