"""The lab's etcd, kube-apiserver, kube-controller-manager and registry, and how they are built."""
