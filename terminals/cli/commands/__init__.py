"""The commands of `swm`, those of one kind in one module."""
