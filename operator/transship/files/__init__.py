"""A container's files on their way: rsync at both ends, and which files have changed."""
