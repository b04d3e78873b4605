"""Streams between agents: files now, memory to come. Knows nothing of records or verdicts."""
