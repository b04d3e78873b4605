"""Hides from CRIU the memory that the agents move themselves.

`library` is preloaded into CRIU (C), `preload` is its Python side, `mappings` decides what is
hidden.
"""
