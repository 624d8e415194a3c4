"""Types, tables and the catalog of one snapshot: what rows look like."""
