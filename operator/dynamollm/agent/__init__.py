"""The DaemonSet's process: applies the clock plan to one node's GPUs and exports their watts and joules.

``cycle`` is the loop body; ``clocks`` owns every lock on a GPU and ``journal`` remembers them across a crash;
``instances`` says whose a GPU is, ``load`` what an engine has to do, ``energy`` who used the joules; ``telemetry`` and
``server`` show it. ``run`` puts them together. Nothing here decides how fast a load needs to be served: that is
``core.ladder``.
"""
