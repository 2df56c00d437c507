"""What can be asked over HTTP: one module a group of routes."""
