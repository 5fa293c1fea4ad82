"""Asking models: requests, their answers on the store, the limit and the money that all workers share, and backends."""
