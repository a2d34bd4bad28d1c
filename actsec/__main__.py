"""``python -m actsec``."""

from actsec.cli import main

if __name__ == "__main__":
    main()
