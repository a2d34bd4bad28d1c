"""Forcing units dead or saturated: what is climbed, what it did, and what no attack can exceed."""
