"""What Sky Port is about, as plain values and rules: no I/O, no gRPC, no clock.

Everything else in the core imports from here; this package imports nothing of the core.
"""
