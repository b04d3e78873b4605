"""The memory of a container that moves: tracking, copying, the page server, post-copy, prediction.

`copy_progress`, `convergence` and `prediction` are pure. Files do not belong here (see `files`).
CRIU's images do not either (see `criu`), except those of shared memory.
"""
