"""Post-copy: after the resume the target requests pages, and the source pushes the rest."""
