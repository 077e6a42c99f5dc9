"""Whether a training store holds what a model sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from taemi.data import StoredCorpus
from taemi_runtime.errors import DataError
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.strict import to_plain


def check_store(path: Path, scorer: ClipScorer, store: StoredCorpus, warn: Callable[[str], None]) -> None:
    """Refuse a store whose features are not those of a model's vision encoder.

    A checkpoint's encoder is compared by the digest of its weights. A bundle's graph has no such digest: that
    it is the same encoder is taken from what it was exported from.

    Args:
        path: The model as it was named.
        scorer: The model.
        store: The store.
        warn: Called with a sentence where the encoder cannot be compared.

    Raises:
        DataError: The store was made with another encoder or other preprocessing; both are named.
    """
    made_with = store.index.made_with
    asked = f"cannot score the feature store {store.root} with {path}"
    here = to_plain(scorer.preprocessing)
    # Sound is kept as it was decoded; what encoders make of it, if that is kept, is not read here.
    for part, keys in (("audio", ("rate_hz", "max_seconds")), ("vision", tuple(here["vision"]))):
        for key in keys:
            stored, wanted = made_with.preprocessing[part][key], here[part][key]
            if stored != wanted:
                raise DataError(
                    asked,
                    f"it was made with {part} {key} {stored!r}, the model takes {wanted!r}",
                    "Name the corpus, or extract with the model's settings into another folder",
                )
    encoder = made_with.vision_encoder
    if path.suffix != ".pt":
        warn(
            f"whether {path} has the vision encoder of {store.root} ({encoder.name}) cannot be told: "
            "bundles keep no digest of it"
        )
        return
    from taemi.checkpoint import load_system
    from taemi.extract.encoders import encoder_digest

    digest = encoder_digest(load_system(path)[0].vision_encoder)
    if digest != encoder.sha256:
        raise DataError(
            asked,
            f"its features are of the encoder {encoder.name} ({encoder.sha256[:12]}), the model's has "
            f"another digest ({digest[:12]})",
            "Name the store that the model was trained on, or the corpus",
        )
