"""Tests of gate_kit.ssh."""
