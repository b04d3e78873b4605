"""The files of a container that moves: rsync at both ends, and which files have changed."""
