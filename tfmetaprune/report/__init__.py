"""What a person reads: tables, plots, progress bars, and the folder they are put in."""
