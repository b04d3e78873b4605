"""The target of a migration: prepare, restore held, resume on the source's verdict, or clean up.

Nothing here lets a copy run without the verdict Released (or a fenced source).
"""
