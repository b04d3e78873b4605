"""What every package needs: errors, child processes, tasks, time, logging, certificates.

Nothing here knows containers, and nothing here imports another package of Transship.
"""
