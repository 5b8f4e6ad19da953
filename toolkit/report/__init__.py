"""What happened during a split, and the proof of a cutover, as pages that open anywhere."""
