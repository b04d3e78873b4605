"""What every part needs: errors, child processes, time, logging. Knows nothing of containers."""
