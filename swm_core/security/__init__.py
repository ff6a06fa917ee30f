"""Certificates, and who may call the core."""
