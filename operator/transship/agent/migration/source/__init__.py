"""The source of a migration: pre-copy, freeze, handover, and rollback or completion.

The point of no return is `handover.Handover._release`.
"""
