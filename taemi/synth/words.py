"""Transcripts of synthetic clips: each emotion in three grades of words, among everyday talk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taemi_runtime.emotions import EMOTIONS

# Per emotion (in the order of EMOTIONS) and grade (faint, clear, strong): ways to say it.
_PHRASES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("that was nice work", "she did quite well", "I like how he handled that", "not bad, well done"),
        (
            "I really respect what you did",
            "I look up to her for that",
            "that is impressive work",
            "you did a great job and I admire it",
        ),
        (
            "I am in awe of you, that was brilliant",
            "what an extraordinary achievement, I admire it so much",
            "he is my hero, I have the deepest respect",
            "that is the most impressive thing I have ever seen",
        ),
    ),
    (
        ("that is a bit funny", "that made me grin", "you are being silly", "what an odd little joke"),
        (
            "that joke made me laugh",
            "this is really funny",
            "ha, you always make me giggle",
            "that was a good joke, very funny",
        ),
        (
            "I cannot stop laughing, this is hilarious",
            "ha ha ha, that is the funniest thing ever",
            "I laughed so hard that I cried, what a joke",
            "stop it, I am laughing too much, it is hilarious",
        ),
    ),
    (
        (
            "I think I will try again",
            "let me give it another go",
            "I should keep at it",
            "I will see it through",
        ),
        (
            "I am going to keep working on it",
            "I have decided and I will do it",
            "we will finish this, step by step",
            "I am determined to get this done",
        ),
        (
            "nothing will stop me, I will never give up",
            "I will do it no matter what it takes",
            "I will fight until I have reached my goal",
            "whatever happens I will keep going, I refuse to quit",
        ),
    ),
    (
        ("I am sorry to hear that", "that must be hard for you", "poor thing", "that sounds painful"),
        (
            "it hurts me to see you suffer",
            "I feel so sad for them",
            "I can feel your pain",
            "it makes me sad that you are hurting",
        ),
        (
            "my heart breaks for you, it hurts so much",
            "I cannot bear to see so much suffering",
            "it is agony to watch them in such pain",
            "I am crying with you, this pain is unbearable",
        ),
    ),
    (
        (
            "I am looking forward to it",
            "that could be interesting",
            "I am curious how it goes",
            "it will be nice to go there",
        ),
        (
            "I am excited about tomorrow",
            "this is thrilling",
            "I can hardly wait for it",
            "wow, something big is about to start",
        ),
        (
            "oh wow, I am so excited, I cannot sit still",
            "this is incredible, I am absolutely thrilled",
            "yes, yes, it is finally happening, I am so excited",
            "wow, wow, I can not wait another second",
        ),
    ),
    (
        ("it is a pleasant day", "I am content", "this is rather nice", "I had a good morning"),
        (
            "I feel happy today",
            "it makes me smile",
            "I am glad, life is good",
            "I enjoyed every minute and I am happy",
        ),
        (
            "I am overjoyed, this is pure happiness",
            "I have never been so happy in my life",
            "my heart is full of joy, it is wonderful",
            "this is the happiest day of my life",
        ),
    ),
)
_EVERYDAY = (
    "so yesterday we went to the shop",
    "the meeting is at three",
    "and then the bus was late again",
    "I was in the kitchen at the time",
    "they said it on the radio",
    "we talked about it last week",
    "you know how it is",
    "it was raining in the morning",
    "my brother told me about it",
    "there were some people in the street",
    "I had a cup of tea",
    "the train left from platform two",
    "he was wearing a blue coat",
    "let me think about it for a moment",
)


def write_transcript(grades: Sequence[int], rng: np.random.Generator) -> str:
    """Put a clip into words.

    Args:
        grades: [6] how strongly each emotion is expressed, 0 to 3, in the order of ``EMOTIONS``.
        rng: The clip's random numbers.

    Returns:
        One to a few sentences; everyday talk alone where no emotion is expressed.
    """
    parts = [
        str(rng.choice(_PHRASES[emotion][grade - 1]))
        for emotion, grade in zip(range(len(EMOTIONS)), grades, strict=True)
        if grade
    ]
    talk = int(rng.integers(1, 3)) if not parts else int(rng.integers(0, 3))
    parts += [str(part) for part in rng.choice(_EVERYDAY, size=talk, replace=False)]
    rng.shuffle(parts)
    return " ".join(part[0].upper() + part[1:] + "." for part in parts)
