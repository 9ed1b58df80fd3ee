"""From a query to its ranking: the pipeline, the queue in front of the device, and the thread that owns the device."""
