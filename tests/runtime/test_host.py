"""Cores and CUDA devices of this host."""

from __future__ import annotations

import os

import pytest

from taemi_runtime import host
from taemi_runtime.errors import UsageError
from taemi_runtime.host import CudaDriver, cuda_driver, parse_device, runs_on_cpu, usable_cores


@pytest.mark.parametrize(
    ("device", "parsed"),
    [("auto", ("auto", 0)), ("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:3", ("cuda", 3))],
)
def test_devices_are_parsed(device, parsed):
    assert parse_device(device) == parsed


def test_unknown_devices_are_refused():
    with pytest.raises(UsageError, match="cannot use device 'tpu'"):
        parse_device("tpu")


@pytest.mark.parametrize("there", [True, False])
def test_auto_ends_on_the_cpu_where_there_is_no_gpu(monkeypatch, there):
    monkeypatch.setattr(host, "cuda_driver", lambda: CudaDriver("13.0", ("GPU",), "" if there else "none"))
    assert [runs_on_cpu(device) for device in ("auto", "cpu", "cuda", "cuda:1")] == [
        not there,
        True,
        False,
        False,
    ]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_affinity_counts():
    allowed = os.sched_getaffinity(0)
    assert 1 <= usable_cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 hardware threads on 4 cores, with control groups to fill in."""
    cpus = tmp_path / "cpu"
    for cpu in range(8):
        topology = cpus / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{cpu % 4}\n")
    groups = tmp_path / "cgroup"
    groups.mkdir()
    monkeypatch.setattr(host, "_CPU_ROOT", cpus)
    monkeypatch.setattr(host, "_CGROUP_ROOT", groups)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    own = tmp_path / "own"
    monkeypatch.setattr(host, "_OWN_GROUPS", own)

    def set_groups(listing, **files):
        own.write_text(listing)
        for name, content in files.items():
            path = groups / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return set_groups


def test_hardware_threads_of_a_core_count_once(machine):
    machine("0::/\n")
    assert usable_cores() == 4


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("max 100000\n", 4),
        ("900000 100000\n", 4),
    ],
)
def test_the_quota_of_a_version_2_group_counts(machine, content, cores):
    machine("0::/a/b\n", a__b__cpu_DOT_max=content)
    assert usable_cores() == cores


def test_the_quota_of_an_ancestor_counts(machine):
    machine("0::/a/b\n", a__b__cpu_DOT_max="max 100000\n", a__cpu_DOT_max="300000 100000\n")
    assert usable_cores() == 3


def test_the_mounts_root_counts_where_the_listed_path_is_hidden(machine):
    machine("0::/host/only\n", cpu_DOT_max="200000 100000\n")
    assert usable_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 4)])
def test_the_quota_of_a_version_1_group_counts(machine, quota, cores):
    machine(
        "8:pids:/\n4:cpu,cpuacct:/box\n",
        cpu__box__cpu_DOT_cfs_quota_us=quota,
        cpu__box__cpu_DOT_cfs_period_us="100000",
    )
    assert usable_cores() == cores


def test_the_driver_answers_or_says_why_not():
    driver = cuda_driver()
    assert bool(driver.why) != bool(driver.devices)
    if driver.devices:
        assert float(driver.version) >= 11
