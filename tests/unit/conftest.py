"""Hypothesis without its limit of 200 ms per example: a busy machine is no finding."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
