"""What the operator watches: readiness, metrics, logs, traces."""
