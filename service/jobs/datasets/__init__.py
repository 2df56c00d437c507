"""What a finished job leaves: a dataset that is published whole, read, described and held to its word."""
