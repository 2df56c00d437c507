"""What travels: the shapes of calls and answers, for OpenAPI and for tests; one module a group of routes."""
