"""``python -m betty``."""

from betty.cli import main

if __name__ == "__main__":
    main()
