"""The operator: thin loops around the decisions of `plan`, driven by kopf.

It holds no state of its own: everything that a pass needs is in the resources and on the agents. It
never takes part in a handover, which the two agents make among themselves.
"""
