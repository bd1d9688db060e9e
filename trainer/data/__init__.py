"""From LLaVA records to batches: records, preparation, cached vision features, packing, loading."""
