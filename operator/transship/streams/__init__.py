"""Raw streams between two agents over mutual TLS, their bandwidth limit, and the link's rate.

What is sent over a stream does not belong here.
"""
