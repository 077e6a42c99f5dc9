"""The device layer: memory, streams, events, graphs and kernels of one GPU, behind one contract.

Engines that drive a GPU themselves are written against ``cuda.contract``; which Python package stands
underneath is a choice of the user's (``cuda.registry``).
"""
