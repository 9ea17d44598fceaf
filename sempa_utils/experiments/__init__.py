"""Series of runs: the grid behind the record, the analyses of the paper, and the tables made from records."""
