"""The node itself: facts, health, registration, garbage collection, routes, migratability.

Nothing in here takes part in a migration.
"""
