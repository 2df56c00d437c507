"""How the service is watched: metrics, probes, logs and traces."""
