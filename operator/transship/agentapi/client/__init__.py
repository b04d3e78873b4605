"""The client of an agent, for the operator, for peer agents and for the CLI."""
