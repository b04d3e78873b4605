"""One placement: its node, its order to the node's agent, its status.

`observe` asks the agents, `decide` chooses the next step from that, `effects` carries it out and
`reconciler` is the loop. `decide` with `ownership`, `moves` and `cleanup`, `status` with
`conditions`, `scheduling`, `owner`, `orders` and `steps` are pure: they do no input or output.
"""
