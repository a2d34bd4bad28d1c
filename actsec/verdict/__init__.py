"""From finished outcomes to a verdict, without asking the model again.

gathering    what every trial left, example by example
statistics   shares, intervals, paired comparisons        calibration   confidence against correctness
sanity       the diagnostics, run by name                 threats       one variant under one threat
effects      what a fix changes, paired                   advice        which fix helps
gates        conditions decided by intervals              policy        findings, headline, exit code
assembling   all of it as one result
"""
