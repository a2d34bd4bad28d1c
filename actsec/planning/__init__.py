"""What is to be done and what it will cost: the plan, its conditions, the choices made for a budget, forecasts."""
