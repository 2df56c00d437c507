"""Images of strangers, decoded where they cannot hurt."""
