"""Records that a model makes of documents, records and topics: `kind: generate`."""
