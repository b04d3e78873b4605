"""CRIU: its RPC, its log, what it is asked for at a dump and a restore, and what it cannot dump.

Knows one container on one node; nothing of records, verdicts or the other node.
"""
