"""What a trial leaves: the row, its tables, the folder they lie in, the packed files."""
