"""Replays requests through the same decision code and instance model, without a cluster."""
