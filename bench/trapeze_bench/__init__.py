"""The benchmark harness of trapeze."""
