"""A site that is pretended on this machine: for tests, demonstrations, and authors of gates.

Jobs are real processes, files are real files, and all truth lies in a folder that plays the site.
So the gate can be killed at any moment, like any other. What it can be told to do wrong: `faults`.
"""
