"""The decisions, pure: request classes, SLOs, profiles, forecasts, plans, and the safe steps towards them.

Takes values and gives values. No kopf, Kubernetes, HTTP, files or clock of its own: ``now`` comes in.
"""
