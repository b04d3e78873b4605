"""The lab's nodes: machines made of namespaces, or virtual machines; their image and network."""
