"""The agent's HTTPS service: routes, who may call them, logs and metrics. No work is done here."""
