"""The page stream between two nodes: its format, its two ends, and compression.

What `receiver` imports must not import pydantic: the page server has to start fast.
"""
