"""The feature store that training reads: its format, its index, and how it grows.

A folder with one safetensors file a clip and an ``index.json``. Every fact about a clip stands in the
clip's own file, so that the index can be rebuilt at any moment; see docs/extraction.md.
"""
