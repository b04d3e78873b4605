"""What all reconcile loops share: tasks, finalizers, status writes, shutdown.

Nothing here knows what a placement or a migration is for.
"""
