"""The agents' HTTP contract: paths, messages, states and how errors travel.

Shared by operator, agents and CLI. Messages only: no decision and no effect belongs here.
"""
