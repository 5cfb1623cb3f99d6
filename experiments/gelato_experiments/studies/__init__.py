"""Studies: settings in, a table out; figures and tables are made from the files of `gelato` commands alone."""
