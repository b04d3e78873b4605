"""Proof by breaking things: faults, soak, benchmarks, and the witness that checks every answer."""
