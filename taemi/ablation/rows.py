"""The rows of the paper's tables as data: what each one trains, and what the paper says came of it.

A row is a variant of the network (``taemi.config.VARIANTS``) and the modalities that it sees. Figures are
mean correlations on the validation split of Hume-Vidmimic2 as arXiv 2603.14976 prints them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from taemi.config import VARIANTS
from taemi.recipe import MODALITIES
from taemi_runtime.errors import SpecError, UsageError

FULL = "full"


@dataclass(frozen=True)
class Printed:
    """A figure of the paper.

    Args:
        rho: Mean correlation in [-1, 1].
        place: Where it stands in the paper.
    """

    rho: float
    place: str


@dataclass(frozen=True)
class Row:
    """What one row trains.

    Args:
        name: The row's name.
        variant: The network, a key of ``taemi.config.VARIANTS``.
        modalities: What it sees, in the order of ``taemi.recipe.MODALITIES``.
        printed: What the paper gives for it; two figures where the paper contradicts itself, and none
            where it has no such row.
    """

    name: str
    variant: str
    modalities: tuple[str, ...] = MODALITIES
    printed: tuple[Printed, ...] = ()


# Table 2's baselines are the challenge's own, another method and no part of the paper's ablation. They are
# shown for what the modalities alone are known to reach; there is none for words.
_BASELINE = "Table 2, baseline"
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(FULL, "full", printed=(Printed(0.55, "Table 2"),)),
        Row("concat", "concat", printed=(Printed(0.45, "Table 3"),)),
        Row("self-attention", "self-attention", printed=(Printed(0.48, "Table 3"),)),
        Row("no-missing-tokens", "no-missing-tokens", printed=(Printed(0.52, "Table 3"),)),
        Row("no-modality-dropout", "no-modality-dropout", printed=(Printed(0.51, "Table 3"),)),
        Row(
            "vision-anchored",
            "vision-anchored",
            printed=(Printed(0.39, "Table 4"), Printed(0.49, "text")),
        ),
        Row("audio-anchored", "audio-anchored", printed=(Printed(0.51, "Table 4"),)),
        Row("text", "full", ("text",)),
        Row("audio", "full", ("audio",), (Printed(0.24, _BASELINE),)),
        Row("vision", "full", ("vision",), (Printed(0.09, _BASELINE),)),
        Row("audio+vision", "full", ("audio", "vision"), (Printed(0.25, _BASELINE),)),
    )
}


def chosen_rows(names: tuple[str, ...]) -> tuple[Row, ...]:
    """Return rows by name, each once.

    Raises:
        UsageError: There is no such row, or none is named.
    """
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        asked = f"there is no row {unknown[0]!r}" if unknown else "no row is named"
        raise UsageError(asked, "", f"Choose from: {', '.join(ROWS)}")
    return tuple(ROWS[name] for name in dict.fromkeys(names))


def chosen_seeds(texts: tuple[str, ...]) -> tuple[int, ...]:
    """Read seeds as the command line gives them, each once.

    Raises:
        UsageError: One is no whole number from 0, or there is none.
    """
    wrong = next((text for text in texts if not text.isascii() or not text.isdigit()), None)
    if wrong is not None or not texts:
        raise UsageError(
            f"cannot use {wrong!r} as a seed" if wrong is not None else "no seed is given",
            "",
            "Give whole numbers from 0, e.g. --seeds 1,2,3",
        )
    return tuple(dict.fromkeys(map(int, texts)))


def row_to_train(name: str, modalities: tuple[str, ...] | None = None) -> Row:
    """Return what ``taemi train --variant NAME`` trains: a row, or a preset that is none.

    Args:
        name: A key of ``ROWS`` or of ``taemi.config.VARIANTS``.
        modalities: What the model is to see; what the row says when ``None``.

    Raises:
        SpecError: There is no such variant.
        UsageError: The row is one of some modalities, and others are asked for.
    """
    if name not in ROWS and name not in VARIANTS:
        raise SpecError(
            f"there is no variant {name!r}",
            "",
            f"Choose from: {', '.join(dict.fromkeys([*VARIANTS, *ROWS]))}",
        )
    row = ROWS.get(name, Row(name, name))
    if modalities is None or set(modalities) == set(row.modalities):
        return row
    if row.modalities != MODALITIES:
        raise UsageError(
            f"cannot train variant {name} on {','.join(modalities)}",
            f"that row sees {','.join(row.modalities)} and nothing else",
            f"Leave --modalities out, or give --variant {row.variant} with it",
        )
    return replace(row, modalities=modalities)
