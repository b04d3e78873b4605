"""Which pages have changed since they were sent: by userfaultfd, by soft-dirty bits, or by digests.

`tracker` says what a tracker does. `write_tracker.best_tracker` chooses one for this kernel.
"""
