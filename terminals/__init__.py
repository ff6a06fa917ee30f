"""Terminals: what a user touches, and talks to the core through the stubs alone."""
