"""One job's way through a site, and one partition's.

Intent before effect: what a driver is about to ask of a gate is the state that was committed
before. So a driver that begins in any state, after any crash, repeats what that state asks for,
under the same ids, and the gate makes sure that nothing happens twice.
"""
