"""The lab's etcd, kube-apiserver, kube-controller-manager and image registry.

Their programs, credentials, ports and first objects are here; nodes and agents are not.
"""
