"""dynamollm: serve large language models at least energy while every request class keeps its latency SLO.

Layers import downwards only: cli → controller | agent | router | engine | simulator → adapters → core → api.
"""
