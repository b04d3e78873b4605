"""Hides from CRIU the memory that the agents move themselves.

A preloaded library (`library/`) and its Python side.
"""
