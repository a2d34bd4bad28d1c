"""What a checkup may find: one rule a file, its docstring the page that ``actsec explain ACT-A01`` prints. No torch."""
