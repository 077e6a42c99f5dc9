"""Which clips make which step: every clip once, the same steps for any number of processes."""

from __future__ import annotations

import pytest

from taemi.step_plan import StepPlan


def clips_of(plan, epoch, rank=0, skip=0):
    return [clip for share in plan.epoch(epoch, rank, skip) for clip in share.clips[: share.counted]]


@pytest.mark.parametrize("clips", [1, 5, 64, 65, 131])
@pytest.mark.parametrize("lengths", [False, True])
def test_every_clip_is_in_an_epoch_once_and_the_next_epoch_has_another_order(clips, lengths):
    plan = StepPlan(clips, 4, 2, seed=7, lengths=tuple(range(clips)) if lengths else None)
    first, second = clips_of(plan, 1), clips_of(plan, 2)
    assert sorted(first) == sorted(second) == list(range(clips))
    # A single step is in the order of its lengths.
    assert clips < (64 if lengths else 5) or first != second
    assert first == clips_of(plan, 1)
    assert sum(share.last for share in plan.epoch(1)) == plan.steps


@pytest.mark.parametrize("clips", [1, 8, 61, 64])
@pytest.mark.parametrize("lengths", [False, True])
def test_processes_and_accumulation_share_the_steps_of_one_large_batch(clips, lengths):
    known = tuple((at * 37) % 101 for at in range(clips)) if lengths else None
    alone = StepPlan(clips, 8, seed=3, lengths=known)
    steps = [set(share.clips) for share in alone.epoch(5)]
    two = StepPlan(clips, 4, processes=2, seed=3, lengths=known)
    pairs = list(zip(two.epoch(5, 0), two.epoch(5, 1), strict=True))
    assert [set(a.clips[: a.counted]) | set(b.clips[: b.counted]) for a, b in pairs] == steps
    assert all(a.of == b.of == len(step) for (a, b), step in zip(pairs, steps, strict=True))
    assert all(a.clips and b.clips and a.counted + b.counted == a.of for a, b in pairs)
    by_two = StepPlan(clips, 4, 2, seed=3, lengths=known)
    found, parts = [], set()
    for share in by_two.epoch(5):
        parts |= set(share.clips)
        if share.last:
            found.append(parts)
            parts = set()
    assert found == steps


def test_a_run_goes_on_at_any_step():
    plan = StepPlan(50, 4, 3, seed=1)
    whole = plan.epoch(2)
    for skip in range(plan.steps + 1):
        rest = plan.epoch(2, skip=skip)
        assert rest == whole[len(whole) - len(rest) :]
        assert sum(share.last for share in rest) == plan.steps - skip


def test_buckets_hold_clips_of_like_length_and_come_in_random_order():
    lengths = tuple((at * 7919) % 600 for at in range(2000))
    spread = {}
    for name, known in (("shuffled", None), ("bucketed", lengths)):
        batches = [
            [lengths[clip] for clip in share.clips] for share in StepPlan(2000, 16, lengths=known).epoch(1)
        ]
        spread[name] = sum(max(batch) - min(batch) for batch in batches) / len(batches)
        if known:
            means = [sum(batch) / len(batch) for batch in batches]
            assert means != sorted(means)
    assert spread["bucketed"] < spread["shuffled"] / 5
