"""Addresses of placements: choosing them (pure) and claiming them from a pool."""
