"""Work spread over a Ray cluster: stages that decode, stages that hold a model, and what survives a crash.

Nothing here imports Ray before a cluster is asked for, and no other part of the runtime imports this.
"""
