"""Sentences that no synthetic clip has, to find out whether a trained model understands words.

They were written after the others and are kept out of every corpus: neither training nor the choice of
the best epoch ever sees them.
"""

from __future__ import annotations

UNSEEN: dict[str, tuple[str, ...]] = {
    "Admiration": (
        "I have so much respect for that firefighter.",
        "What a brilliant scientist you are.",
        "Her courage is an inspiration to all of us.",
        "You did an outstanding job, I am very impressed.",
        "He is the greatest teacher I ever had.",
    ),
    "Amusement": (
        "That joke was hilarious.",
        "I can't stop laughing at this video.",
        "You crack me up, that was so funny.",
        "The clown tripped and everyone burst into laughter.",
        "This comedy is ridiculously funny.",
    ),
    "Determination": (
        "I will not quit until this is finished.",
        "Failure won't stop me, I keep going.",
        "I am going to reach my goal no matter how hard it gets.",
        "We must work harder and never surrender.",
        "I made a decision and I will follow through.",
    ),
    "Empathic Pain": (
        "I am so sorry for your loss.",
        "It breaks my heart to see you hurting.",
        "Those poor victims, I can feel their agony.",
        "My deepest sympathies to the grieving family.",
        "It hurts so much to watch him suffer.",
    ),
    "Excitement": (
        "I can't wait for the concert tonight!",
        "This is so thrilling, we are about to take off!",
        "Oh wow, we are going to Disneyland tomorrow!",
        "The game is starting, I am so hyped!",
        "I am so excited for the big adventure.",
    ),
    "Joy": (
        "My heart is full of happiness.",
        "Nothing makes me happier than this sunny morning.",
        "This is a wonderful, joyful day with my family.",
        "We celebrated with big smiles and love.",
        "I feel so cheerful and delighted with life.",
    ),
}
