"""The ``actsec`` command: its commands and options, what a person sees, and what is printed."""
