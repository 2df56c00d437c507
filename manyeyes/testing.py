"""A service that is none, for the tests of who uses the SDK."""
