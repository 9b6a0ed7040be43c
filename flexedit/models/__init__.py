"""The parts of a system, slot by slot, and the config that says which of them it is made of."""
