"""The control schema: what this toolkit keeps in the databases that it works on."""
