"""Where the rows of a job come from: buckets, folders, tables, archives and lists of addresses, listed as streams."""
