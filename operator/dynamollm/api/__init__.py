"""The custom resources as pydantic models, the generator of their CRDs, and the names that parts agree on.

Imports nothing of ours. No decisions live here.
"""
