"""The sentences of the synthetic corpus: enough of them, no doubles, and none in two splits."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from taemi.synth.latent import draw_scene, generator
from taemi.synth.sentences import EVERYDAY_HELD_OUT, EVERYDAY_TRAINING, HELD_OUT, TRAINING
from taemi.synth.sentences.unseen import UNSEEN
from taemi.synth.words import write_transcript
from taemi_runtime.emotions import EMOTIONS

SEEN = [text for grades in TRAINING.values() for grade in grades for text in grade] + list(EVERYDAY_TRAINING)
KEPT = [text for grades in HELD_OUT.values() for grade in grades for text in grade] + list(EVERYDAY_HELD_OUT)
NEVER = [text for sentences in UNSEEN.values() for text in sentences]


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z']+", text.lower()))


def parts_of(transcript: str) -> set[str]:
    return {part.strip() for part in re.findall(r"[^.?!]+[.?!]", transcript)}


def test_every_emotion_has_forty_sentences_to_train_on_and_others_to_validate_on():
    assert tuple(TRAINING) == tuple(HELD_OUT) == tuple(UNSEEN) == EMOTIONS
    for emotion in EMOTIONS:
        assert sum(map(len, TRAINING[emotion])) >= 40
        assert sum(map(len, HELD_OUT[emotion])) >= 15
        assert all(len(grade) >= 6 for grade in (*TRAINING[emotion], *HELD_OUT[emotion]))
        assert len(UNSEEN[emotion]) == 5


def test_sentences_are_sentences_and_no_two_say_the_same():
    everything = [*SEEN, *KEPT, *NEVER]
    assert len({words(text) for text in everything}) == len(everything)
    for text in (*SEEN, *KEPT):
        assert re.fullmatch(r"[A-Z][^.!?]*[.?]", text), text


@pytest.mark.parametrize(("mine", "theirs"), [(KEPT, SEEN), (NEVER, SEEN), (NEVER, KEPT)])
def test_no_sentence_nearly_stands_in_another_set(mine, theirs):
    for one, other in itertools.product(map(words, mine), map(words, theirs)):
        shared = len({*one} & {*other}) / len({*one} | {*other})
        assert shared <= 0.45, (one, other)


def test_the_words_that_tell_the_unseen_sentences_are_in_no_clip():
    vocabulary = {word for text in (*SEEN, *KEPT) for word in words(text)}
    assert not {"hilarious", "loss", "hyped", "outstanding"} & vocabulary


def test_no_sentence_of_a_validation_clip_is_in_a_training_clip():
    said = {True: set(), False: set()}
    for index, held_out in itertools.product(range(400), (False, True)):
        scene = draw_scene(2, index)
        rng = generator(2, index, "words")
        transcript = write_transcript(scene.grades, scene.seconds, rng, held_out=held_out)
        said[held_out] |= parts_of(transcript)
    assert not said[True] & said[False]
    assert said[False] <= set(SEEN)
    assert said[True] <= set(KEPT)
    # And nearly all of them are used.
    assert len(said[False]) > 0.9 * len(SEEN)


def test_a_transcript_says_what_is_expressed_and_is_as_long_as_its_clip():
    rng = np.random.default_rng(1)
    for grades in ((0, 3, 0, 0, 0, 0), (1, 0, 0, 2, 0, 0), (0,) * 6):
        for seconds in (3.0, 12.0):
            transcript = write_transcript(grades, seconds, rng, held_out=False)
            found = parts_of(transcript)
            for emotion, grade in zip(EMOTIONS, grades, strict=True):
                own = {text for group in TRAINING[emotion] for text in group}
                assert bool(found & own) == bool(grade)
                assert found & own <= {*TRAINING[emotion][grade - 1]}
            assert len(words(transcript)) <= max(2.5 * seconds, 20 * max(1, np.count_nonzero(grades)))
    long = [len(words(write_transcript((0,) * 6, 12.0, rng, held_out=False))) for _ in range(20)]
    short = [len(words(write_transcript((0,) * 6, 2.0, rng, held_out=False))) for _ in range(20)]
    assert np.mean(long) > 2 * np.mean(short)
