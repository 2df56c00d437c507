"""What outlives the process: recipes, labels, label models, keys, and who changed what."""
