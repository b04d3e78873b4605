"""The handover checked by machine: every state that two agents, their disks and an operator can get
into, explored one by one.

What the agents decide is not modelled but called: the functions of agent/journal/transitions.py,
agent/journal/recovery.py, agent/containers/decide.py and controller/migration/decide.py (see
rules). Modelled is the rest: how each role goes from one decision to the next (source, target),
what may break in between, and messages, which once sent may arrive at any later time, again and
again, or never.

`make test-model` searches for a minute, `make model` further. Left out: Cold moves, a container
that ends by itself, deleting a placement.
"""
