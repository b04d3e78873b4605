"""The lab's nodes: made of namespaces, or virtual machines; their image, cgroups and network.

Nothing here knows the services that run on a node.
"""
