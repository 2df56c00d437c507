"""What a call holds: read from JSON or from a form."""
