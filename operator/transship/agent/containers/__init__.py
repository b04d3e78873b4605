"""The containers that run on this node: started, probed, restarted, stopped, reported.

Nothing here knows of migrations: a container is handed over and taken back by `agent.migration`.
"""
