"""Latency of exported models side by side with PyTorch, and the check of a CUDA machine.

``taemi-bench run BUNDLE`` measures a bundle; ``python -m taemi_bench.gpu_check`` records what a CUDA
machine can run. [taemi_bench.timer][] is the one timer behind every figure.
"""
