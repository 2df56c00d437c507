"""The rows of a job: listed once into shards that never change, and fetched again from where they are."""
