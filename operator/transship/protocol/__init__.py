"""The agents' HTTP contract: pydantic requests and replies, paths, states, verdicts.

Shared by the operator (client), the agents (server, and client of each other) and nobody else. No
input or output here.
"""
