"""The lab: a real control plane as processes, simulated GPU nodes, and the pods of our image run as processes.

Everything here plays the part of the world outside dynamollm; nothing of it ships with the product. Cluster:
``binaries`` (what it is made of), ``cluster`` (the face for tests and the demo), ``supervisor`` (the process that owns
all others), one module for each thing that the supervisor starts. Pods: ``podrunner``. GPUs: ``nvml``.
"""
