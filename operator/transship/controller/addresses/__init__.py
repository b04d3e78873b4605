"""Addresses of placements: `allocation` chooses them (pure), `claims` writes them to a pool."""
