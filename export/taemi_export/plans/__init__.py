"""TensorRT plans: from a bundle's ONNX graphs to plans with sidecars, for TensorRT and TensorRT for RTX.

One code base for both libraries, which are one API under two names. Nothing in here runs a plan.
"""
