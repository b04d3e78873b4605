"""Raw streams between two agents over mutual TLS, their bandwidth limit and their speed."""
