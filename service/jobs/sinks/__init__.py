"""What a finished job is written as: the formats that trainers and tools read."""
