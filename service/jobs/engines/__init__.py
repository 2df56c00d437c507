"""Who works on the shards of a job: threads of this process, or actors of a Ray cluster."""
