"""Backfills: durable, resumable, cancellable runs against the same store as the live stream."""
