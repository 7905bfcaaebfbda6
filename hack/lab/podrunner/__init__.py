"""The pod runner: plays the kubelet, the container runtime and the device manager for the pods of our image.

kwok plays the nodes and every other pod. Here each container is a process on its pod's own loopback address, with its
volumes at their mount paths, its probes, its signals and its grace; GPUs are handed out per node and told through the
PodResources API, as a kubelet does. So the manifests that users install are the ones that run.
"""
