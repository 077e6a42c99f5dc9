"""``taemi extract``: from a corpus's media to a feature store.

decode workers (processes, or tasks of a cluster) -> encoders in batches on one device -> a file a clip
"""

DEFAULT_ASR = "openai-whisper:large-v3-turbo"
