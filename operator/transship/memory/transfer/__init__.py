"""Pages from one node to the other: the stream's format, its two ends, compression.

Imports little: the page server has to start fast.
"""
