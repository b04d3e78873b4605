"""The network of containers on one node: addresses, links, routes, holding packets.

Everything here is this node's own kernel state, set by netlink in the network namespace in which
the object was made. It knows nothing of journals, migrations or other nodes: the agent says in
which order the doors are opened and closed. No process is started and no state is kept in files:
what exists is read back from the kernel.
"""

from transship.network.addresses import Address
from transship.network.container_network import ContainerNetwork, Forward

__all__ = ["Address", "ContainerNetwork", "Forward"]
