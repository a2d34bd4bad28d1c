"""``python -m actsec``."""

from actsec.command_line.cli import main

if __name__ == "__main__":
    main()
