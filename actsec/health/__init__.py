"""How a network fares without an attack: its sites, units and gradients, trained and fresh."""
