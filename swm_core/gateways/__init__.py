"""Everything in the core that speaks the Gate API: one `Gate` per site, and the process behind it.

Nothing here decides about jobs. A gate's answers become values and `GateError`s; lifecycle decides.
"""
