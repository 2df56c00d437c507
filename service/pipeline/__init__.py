"""From items to features: admission, decoding, queues, and one thread a model."""
