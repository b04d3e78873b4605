"""The process on the target that keeps a container's pages and gives them to the restored copy.

It outlives its agent. `client` is the agent's hold on it, `process` is the process itself.
"""
