"""The outside, one module each: the Kubernetes API, Prometheus, NVML, the kubelet's PodResources.

Adapters translate and bound (timeouts, sizes, units); they decide nothing.
"""
