"""Jobs of the service: whose they are, and the processes that run them."""
