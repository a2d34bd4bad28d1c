"""The search around an attack: who asks the model, who judges, and what a candidate must keep."""
