"""The Kubernetes objects of a service, as values: pure functions from spec and plan to what is applied."""
