"""The gate of Azure: virtual machines that are made for jobs, and deleted after them.

`app` tells how it is put together. What reaches the machines is `gate_kit.ssh`. Packages of Azure
are imported by `sdk` alone, and only inside functions: importing them takes a second and 100 MiB.
"""
