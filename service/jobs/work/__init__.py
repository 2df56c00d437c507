"""What is done to a shard: what is asked of a job, features, votes, the label model, labels."""
