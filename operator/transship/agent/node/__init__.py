"""The node itself: facts, health, registration, garbage collection, upkeep of the network."""
