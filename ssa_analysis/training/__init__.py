"""Training of the four methods, from SimCLR to SSA-CLR."""
