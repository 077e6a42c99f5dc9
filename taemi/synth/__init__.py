"""A synthetic corpus in the Hume-Vidmimic2 layout, for trying and testing the whole way offline.

One latent vector per clip drives a transcript, a voice-like sound, a drawn face and the labels, so
that a model can learn something real: most from the words, less from the sound, least from the face,
as on the true corpus. The sound is no speech: real speech cannot be made here, so recognisers hear
nothing in it and the transcripts are given. Figures measured on it say that the tools work, never how
good a model is.
"""

from taemi.synth.writer import VERSION, CorpusSummary, write_corpus

__all__ = ["VERSION", "CorpusSummary", "write_corpus"]
