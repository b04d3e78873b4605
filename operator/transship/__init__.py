"""Transship moves running containers between Linux hosts without stopping them."""

__version__ = "0.1.0"
