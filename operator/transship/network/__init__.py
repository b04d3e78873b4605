"""The network of containers on one node: addresses, links, routes and packet gates.

All state is the kernel's, set by netlink in the network namespace in which the object was made. No
process is started, and no state is kept in files: the kernel is asked for what exists. Nothing here
knows journals, migrations or other nodes: the agent decides when packets are held and released.
"""

from transship.network.addresses import Address
from transship.network.container_network import ContainerNetwork, Forward

__all__ = ["Address", "ContainerNetwork", "Forward"]
