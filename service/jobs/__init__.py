"""Batch jobs: labeling what lies in buckets, archives and tables, shard by shard, with nothing lost and nothing twice.

A job lists its source once into an immutable manifest of shards. Each shard is worked on under a lease, by any number
of processes and machines, and is done when its commit is created, which only one of them can do. What is visible
follows from commits alone, so whoever dies may be replaced, and whatever is done twice is seen once.
"""
