"""What Python gates share, so that a gate holds only what is particular to its site."""
