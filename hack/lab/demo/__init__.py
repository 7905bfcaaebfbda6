"""`make demo`: the whole product on a local cluster, under a replayed trace, live in the terminal.

Lives on the cluster's side of the fence: it applies manifests, sends HTTP requests and reads Prometheus, as a user would.
"""
