"""Measures what Sky Port promises, each time as a ratio to a peer that is measured in the same run.

    python -m bench                     all of it, some minutes
    python -m bench --short             a first impression, within a minute
    python -m bench start-time end-time those two
    python -m bench --list              what there is

A machine's own speed, and what else runs on it, weigh on both sides of a ratio. How each figure is
taken is told in docs/performance.md.
"""
