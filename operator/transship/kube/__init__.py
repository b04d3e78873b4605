"""Kubernetes' API as this project uses it: our kinds as models, a few others as small values.

The only importer of the `kubernetes` client, and only inside functions: that import costs 0.5 to
1.2 seconds, which commands that never ask the API server must not pay. Nothing here decides.
"""
