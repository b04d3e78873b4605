"""What all reconcile loops share: the loop itself, finalizers, status writes and shutdown.

Nothing here knows what a placement or a migration is for; only `loops` knows which kind has which
reconciler.
"""
