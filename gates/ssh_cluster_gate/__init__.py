"""The gate of hosts that are reached by SSH, and of this machine without it.

`app` tells how it is put together; what gates share that reach hosts is `gate_kit.ssh`.
"""
