"""What this agent has promised about each container, kept across crashes.

`transitions` and `recovery` are pure. Nobody else writes records.
"""
