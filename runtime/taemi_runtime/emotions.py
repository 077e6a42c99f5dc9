"""The six emotional mimicry intensities, in the order of every output and of the corpus's CSV files."""

from __future__ import annotations

# Column names of the Hume-Vidmimic2 label files, spaces included; scores are in this order everywhere.
EMOTIONS: tuple[str, ...] = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")

# The exact first line of train_split.csv, valid_split.csv and of a challenge submission.
CSV_HEADER: tuple[str, ...] = ("Filename", *EMOTIONS)
