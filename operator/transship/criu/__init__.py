"""CRIU: its RPC and log, dump and restore, its images, and what it cannot dump.

Everything here is about one container on one node. Nothing here may know the agent's journal, the
verdict of a migration, or the other node. Subpackages: `gate` (the program between runc and CRIU),
`hidden_memory` (keeps CRIU from dumping what the agents move), `images` (CRIU's image files).
"""
