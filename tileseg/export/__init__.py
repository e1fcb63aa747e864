"""Other forms of a model: quantised for quick processors, or written for another program."""
