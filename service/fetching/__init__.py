"""Items that are named by an address: URLs of allowed hosts, objects of configured buckets."""
