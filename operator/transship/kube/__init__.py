"""The client of the Kubernetes API: Transship's kinds as models, a few others as small values.

Only this package imports `kubernetes`, and only inside functions: the import takes 0.5 to 1.2
seconds, and commands that never ask the API server must not wait for it. Nothing here decides.
"""
