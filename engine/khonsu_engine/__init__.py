"""Software transactional memory over Arrow record batches. Start with `protocols`; README.md one folder up lists the rooms."""
