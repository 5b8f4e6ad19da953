"""Services that keep writing while their database is split, and the proof that nothing was lost."""
