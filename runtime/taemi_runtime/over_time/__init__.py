"""Scores over time: a window of a long clip, or of a live source, every so many seconds.

Decoding runs ahead in a thread of its own and fills a bounded inbox; every frame is encoded once and its
features are kept while a window may still need them; windows are scored as soon as they are complete.
"""
