"""What exists, and in which order: geometry, plans, scheduling, stores and the ledger."""
