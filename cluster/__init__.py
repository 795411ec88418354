"""Where and when tiles are computed: workers and executors."""
