"""Features instead of clips: the file and store format, reading, writing, and scoring at full speed.

What the encoders give of a clip is computed once, written as one safetensors file, and scored as often as
needed without decoding or encoding again. docs/feature-stores.md describes the format.
"""
