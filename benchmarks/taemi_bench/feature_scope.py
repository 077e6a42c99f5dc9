"""From features to scores: everything between feature arrays in memory and named scores."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from taemi_bench.chains import Chain, reference_of, scores_of
from taemi_bench.scopes import SCORES, Scope, score_judge
from taemi_bench.setting import SEED, Setting
from taemi_runtime.draw import digest, draw_inputs
from taemi_runtime.spec import Array, Arrays, GraphSpec
from taemi_runtime.whole_way import Scored, WholeModel

NAME = "features to scores"
INCLUDES = (
    "from feature arrays of one clip in memory to named scores: presence, padding, masks, the search for "
    "NaN, the engine call and the result"
)
COMPARED_CLIPS = 8
"""Drawn clips whose scores are compared with PyTorch's; the first is the one that is timed."""


def draw_clips(
    spec: GraphSpec, sizes: Mapping[str, int], count: int, present: Sequence[bool] | None = None
) -> list[Arrays]:
    """Draw features of clips, each of full length.

    Args:
        spec: The graph that takes them.
        sizes: Lengths of its free symbols.
        count: How many clips.
        present: One flag for each column of the presence input; all are present when ``None``.

    Returns:
        For each clip its features by input, without the batch axis; what is missing is not there.
    """
    flags = spec.presence
    missing = {
        name
        for column, names in enumerate(flags.governs if flags is not None else ())
        if present is not None and not present[column]
        for name in names
    }
    batch = spec.inputs[0].shape[0]
    lengths = {**sizes, batch: 1} if isinstance(batch, str) else dict(sizes)
    clips: list[Arrays] = []
    for number in range(count):
        drawn = draw_inputs(spec, lengths, seed=SEED + number, ragged=False, poison=False)
        data = [item.name for item in spec.inputs if item.role == "data" and item.name not in missing]
        clips.append({name: drawn[name][0] for name in data})
    return clips


def feature_scope(setting: Setting, chains: Sequence[Chain], sizes: Mapping[str, int]) -> Scope:
    """Return the scope.

    Args:
        setting: What is measured.
        chains: The models, of which the first graph is opened.
        sizes: Lengths of the first graph's free symbols.
    """
    spec = setting.first
    clips = draw_clips(spec, sizes, COMPARED_CLIPS)

    def compared(chain: Chain) -> dict[str, Array]:
        if chain.model is None:
            return {}
        # Each clip in a call of its own, as it is timed.
        return scores_of([one for clip in clips for one in chain.model.score_features([clip])])

    def call(model: WholeModel) -> list[Scored]:
        return model.score_features(clips[:1])

    rows = []
    for chain in chains:
        row = chain.row_of(NAME, call)
        row.to_arrays = functools.partial(lambda chain, _: compared(chain), chain)
        rows.append(row)
    reference = reference_of(chains)
    expected = functools.cache(lambda: compared(reference)[SCORES]) if reference is not None else None
    return Scope(
        name=NAME,
        kind="features",
        includes=f"{INCLUDES}; differences and rho are over {COMPARED_CLIPS} drawn clips",
        sizes=spec.sizes({**sizes, **_one_clip(spec)}),
        seed=SEED,
        inputs_sha256=digest(
            {f"{number}.{name}": a for number, c in enumerate(clips) for name, a in c.items()}
        ),
        rows=rows,
        judge=score_judge(spec, spec.gates, expected) if expected is not None else None,
    )


def _one_clip(spec: GraphSpec) -> dict[str, int]:
    batch = spec.inputs[0].shape[0]
    return {batch: 1} if isinstance(batch, str) else {}
