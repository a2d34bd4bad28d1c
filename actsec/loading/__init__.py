"""From what a user names to a module with weights: architectures, weight files that never execute, normalisation.

``actsec.target.load`` is the door.
"""
