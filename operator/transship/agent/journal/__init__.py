"""What this agent has promised about each container, kept across crashes.

`record`, `transitions` and `recovery` are pure. `store` alone reads and writes the files.
"""
