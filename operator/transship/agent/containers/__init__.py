"""The containers of this node: started, probed, restarted, stopped and reported.

No decision about a migration is made here: the roles in `agent.migration` disown a container before
they freeze it, and adopt the one that they have restored.
"""
