"""Where jobs keep what they write: folders and buckets, and in them what only one can create."""
