"""Plug-ins for actsec, as somebody else would write them."""
