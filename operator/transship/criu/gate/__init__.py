"""The gate: a program between runc and CRIU, so that a restore can start before its images exist.

`process` is the program and `peers` are its two neighbours; `client` is the agent's side;
`messages` is what agent and gate send each other. The program is started for each restore: what it
imports has to be little, and of the standard library.
"""
