"""The page server: the process on the target that stores a container's pages and serves its faults.

It outlives the agent that started it. `process` is the process itself, `client` is what agents use.
What `process` imports must not import pydantic: the page server has to start fast.
"""
