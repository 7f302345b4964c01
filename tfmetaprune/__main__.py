"""`python -m tfmetaprune` is `tfmetaprune`."""

from tfmetaprune.cli import main

if __name__ == "__main__":
    main()
